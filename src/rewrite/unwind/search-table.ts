/**
 * The new `.eh_frame_hdr`: the old table with the new FDEs among its entries, in a place after the new code. Where the
 * old one is not as linkers write it, it is made anew from all FDEs.
 */
import type { FileOffset, Vaddr } from "../../address.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { encodeEhFrameHdr, HDR_ENTRY_SIZE, HDR_TABLE_AT } from "../../elf/eh-frame-hdr.js";
import type { Section } from "../../elf/image.js";
import type { Source } from "../undo.js";
import type { NewFde } from "./new-frames.js";
import type { Records } from "./records.js";
import type { HeaderTable, UnwindTables } from "./tables.js";

/** How long it is with so many entries more; 0 where the input has none. */
export function searchTableSize({ frames, header }: UnwindTables, added: number): number {
  if (header === undefined) return 0;
  const count = header.isComplete ? header.content.starts.length : distinct(frames.records.starts);
  return HDR_TABLE_AT + (count + added) * HDR_ENTRY_SIZE;
}

/** The table, to stand at `at`; undefined where something is out of its reach. */
export function encodeSearchTable(
  { frames, section }: UnwindTables,
  { content, isComplete }: HeaderTable,
  at: Vaddr,
  records: Records,
  added: readonly NewFde[],
): Buffer | undefined {
  const list = isComplete ? content : listOf(frames.records, section);
  const count = list.starts.length;
  const starts = new Float64Array(count + added.length);
  const entries = new Float64Array(count + added.length);
  // New code comes after everything else nearly always, but for jumps in padding.
  let from = 0;
  let to = 0;
  const take = (until: number): void => {
    for (; from < count && list.starts[from]! <= until; from++, to++) {
      starts[to] = list.starts[from]!;
      entries[to] = list.fdes[from]! + records.moved;
    }
  };
  added.forEach((fde, i) => {
    take(fde.start);
    starts[to] = fde.start;
    entries[to++] = records.fdes[i]!;
  });
  take(Number.POSITIVE_INFINITY);
  return encodeEhFrameHdr(at, records.sh_addr, starts, entries);
}

/** Where the new table, at `from`, has the old one: a stretch for each run of old entries between new ones. */
export function copiesOfTable(
  { section: own, content: { starts } }: HeaderTable,
  from: FileOffset,
  added: readonly NewFde[],
): Source[] {
  const copies: Source[] = [{ from, to: own.sh_offset, size: HDR_TABLE_AT }];
  let first = 0;
  for (let before = 0; first < starts.length; before++) {
    const next = added[before]?.start ?? Number.POSITIVE_INFINITY;
    let last = first;
    while (last < starts.length && starts[last]! <= next) last++;
    const begin = HDR_TABLE_AT + first * HDR_ENTRY_SIZE;
    if (last > first)
      copies.push({
        from: from + begin + before * HDR_ENTRY_SIZE,
        to: own.sh_offset + begin,
        size: (last - first) * HDR_ENTRY_SIZE,
      });
    first = last;
  }
  return copies;
}

/** The table that a linker would have made, in ascending order: where functions begin, and where their FDEs are. */
function listOf(frames: EhFrame, section: Section): { starts: Float64Array; fdes: Float64Array } {
  const first = (i: number): boolean => i === 0 || frames.starts[i] !== frames.starts[i - 1];
  const indices = Uint32Array.from(frames.starts.keys()).filter(first);
  return {
    starts: Float64Array.from(indices, (i) => frames.starts[i]!),
    fdes: Float64Array.from(indices, (i) => frames.record(i).at - section.sh_offset + section.sh_addr),
  };
}

const distinct = (starts: Float64Array): number => starts.filter((s, i) => i === 0 || s !== starts[i - 1]).length;
