/**
 * Whether the 128 bytes below rsp at a site are needed, by the program or by a tracer that reads an argument there: the
 * notes' arguments, put to the facts about the stack.
 */
import type { Vaddr } from "../address.js";
import type { StackFacts } from "../facts/stack.js";
import type { RedZone } from "../rewritten/contract.js";
import { parseArguments } from "../usdt/arguments.js";
import type { UsdtNote } from "../usdt/notes.js";
import { stackReads } from "../usdt/stack-reads.js";

/** @param notes all notes of the site */
export function redZoneOf(stack: StackFacts, site: Vaddr, notes: readonly UsdtNote[]): RedZone {
  const reads = notes.flatMap((note) => parseArguments(note.argumentText).arguments.flatMap(stackReads));
  return stack.redZone(site, reads).redZone;
}
