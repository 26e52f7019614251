/**
 * The addresses at which the unwind rules of a function change: whether code may be moved depends on them. cfa-rows.ts
 * says what the rules are; this only notes where, for every function of a file that has landing pads.
 */
import { type Vaddr, vaddr } from "../address.js";
import { type CallFrameEncoding, IGNORED, walkCallFrames } from "./call-frames.js";
import type { EhCursor } from "./eh-cursor.js";

/**
 * Each address to which the call frame instructions of an FDE advance.
 * @throws InputError where the instructions are damaged
 */
export function readRuleChanges(cursor: EhCursor, start: number, cie: CallFrameEncoding): readonly Vaddr[] {
  const changes: Vaddr[] = [];
  walkCallFrames(cursor, cie, start, { ...IGNORED, moveTo: (location) => changes.push(vaddr(location)) });
  return changes;
}
