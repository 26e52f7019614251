/**
 * Where tables that have grown go: to the start of the new segment, before its code, as sections go there that make
 * room for a longer program header table. It can be read and run but not written, as other segments with tables may be.
 * What the table was stays where it stood, and belongs to nothing any more (old-places.ts).
 */
import { alignUp, fileOffset, vaddr } from "../../../address.js";
import type { Section } from "../../../elf/image.js";
import { codeStart } from "../../new-code.js";
import type { NewSegment } from "../../place.js";
import { type DynamicTables, draftsOf, sizeOf, type TableDraft } from "../../start/tables.js";
import type { MovedSection, TableGrowth } from "../../table-growth.js";

/**
 * The same new segment, with those tables in it that have a tail; sections that stand in it already keep their places.
 */
export function placeWithTables(place: NewSegment, tables: DynamicTables): NewSegment {
  const growing = draftsOf(tables).filter((draft) => draft.tail.length > 0);
  const others = place.growth.moved.filter((m) => growing.every((draft) => draft.section !== m.section));
  let size = place.growth.size;
  const moved: MovedSection[] = [...others];
  for (const draft of growing) {
    size = alignUp(size, Math.max(draft.section.sh_addralign, 8));
    moved.push({
      section: draft.section,
      sh_addr: vaddr(place.p_vaddr + size),
      sh_offset: fileOffset(place.p_offset + size),
    });
    size += sizeOf(draft);
  }
  const tags: TableGrowth["tags"][number][] = place.growth.tags.filter(({ tag }) =>
    growing.every((draft) => draft.tag.d_tag !== tag.d_tag),
  );
  for (const { section, tag } of growing) tags.push({ tag, value: moved.find((m) => m.section === section)!.sh_addr });
  const start = codeStart(place.p_vaddr + size);
  return {
    ...place,
    start,
    capacity: place.capacity - (start - place.start),
    growth: { ...place.growth, size, moved, tags },
  };
}

/** What comes after each section that has grown. */
export function tailsOf(tables: DynamicTables): ReadonlyMap<Section, Uint8Array> {
  const growing = draftsOf(tables).filter((draft: TableDraft) => draft.tail.length > 0);
  return new Map(growing.map(({ section, tail }) => [section, Buffer.concat(tail)]));
}
