/**
 * Whether the 128 bytes below rsp at a site are needed, by the program or by a tracer that reads an argument there.
 */
import type { Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import type { UsdtNote } from "../usdt/notes.js";
import type { RedZone } from "./contract.js";

/** Not looked at yet: every site counts as one where they may be needed. */
export function redZoneAt(_facts: ProgramFacts, _site: Vaddr, _notes: readonly UsdtNote[]): RedZone {
  return "unknown";
}
