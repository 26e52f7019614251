/**
 * Unwind information as part of a rewrite: whether a file's new code gets any, and where it must stand then.
 *
 * It needs a new segment, since the tables grow by as much as they are long. So new code goes there as well, and not
 * into the rest of a page, wherever the input has such tables and they can move.
 */
import { type Vaddr, vaddr } from "../../address.js";
import type { Edit } from "../edits.js";
import type { NewCode } from "../new-code.js";
import type { Place } from "../place.js";
import { layUnwind, type UnwindLayout, unlessDamaged } from "./layout.js";
import { uncoveredRelays } from "./relays.js";
import type { Unwindable, UnwindTables } from "./tables.js";

export const NO_SEGMENT = "there is no new segment for unwind information";

/**
 * Whether unwinders of the process itself find their way from return addresses in new code: then calls may move there.
 */
export const unwindsCalls = (tables: Unwindable): tables is UnwindTables =>
  typeof tables === "object" && tables.unseen === undefined;

/**
 * The same places, those first in which unwind information can stand beside the code, where there is any to write.
 * @param origins where new code comes from; undefined where some of it comes from nowhere
 */
export function placesToUnwind(
  places: readonly Place[],
  tables: Unwindable,
  origins: readonly Vaddr[] | undefined,
): readonly Place[] {
  if (typeof tables !== "object") return places;
  if (origins?.every((origin) => tables.frames.records.indexAt(origin) < 0)) return places;
  const isSegment = (p: Place): boolean => p.kind === "new segment";
  return [...places.filter(isSegment), ...places.filter((p) => !isSegment(p))];
}

/**
 * Unwind information for new code in its place, or why there is none; undefined where the input has none.
 * @param edits what changes in the input
 */
export function unwindFor(
  tables: Unwindable,
  code: { readonly place: Place; readonly newCode: NewCode } | undefined,
  edits: readonly Edit[],
): UnwindLayout | string | undefined {
  if (code === undefined) return undefined;
  if (tables === undefined || typeof tables === "string") return tables;
  const { place, newCode } = code;
  if (place.kind !== "new segment") return NO_SEGMENT;
  const after: Vaddr = vaddr(newCode.start + newCode.bytes.length);
  const pieces = newCode.chunks.flatMap(({ origins, relays }) => [
    origins,
    ...uncoveredRelays(tables.frames.records, relays).map((relay) => [relay]),
  ]);
  const own = newCode.named.flatMap(({ start, end, unwind }) => (unwind === undefined ? [] : [{ start, end, unwind }]));
  const unwound = { pieces, own };
  return unlessDamaged(() => layUnwind(tables, unwound, after, place.p_vaddr - place.p_offset, edits));
}
