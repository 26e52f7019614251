/**
 * Which probes a run is about, and what stands at each: one-byte nops are candidates, everything else has its answer
 * already.
 */
import { hex, type Vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import type { UsdtNote } from "../usdt/notes.js";
import { parsePattern } from "../usdt/pattern.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { disassemble } from "../x86/relocate.js";
import type { RewriteOptions } from "./contract.js";

export type Selection =
  | { readonly kind: "candidate" }
  | { readonly kind: "already" }
  | { readonly kind: "skipped"; readonly reason: string };

const LONGEST_INSTRUCTION = 15;

/** What is to be done with each note's probe, before anything is known of the code around it. */
export function selectSites(
  image: ElfImage,
  notes: readonly UsdtNote[],
  { only }: RewriteOptions,
): ReadonlyMap<UsdtNote, Selection> {
  const patterns = only.map(parsePattern);
  // Notes with one location are one site: if any of them is wanted, all of them move.
  const wanted = new Set<Vaddr>();
  for (const note of notes)
    if (patterns.length === 0 || patterns.some((p) => p.matches(note))) wanted.add(note.location);
  return new Map(
    notes.map((note) => [
      note,
      wanted.has(note.location)
        ? selectionOf(image, note.location)
        : { kind: "skipped", reason: "not asked for (--only)" },
    ]),
  );
}

function selectionOf(image: ElfImage, location: Vaddr): Selection {
  const code = codeFrom(image, location);
  if (code === null)
    return {
      kind: "skipped",
      reason: `its location is in no executable segment: linkers leave such notes of functions that they removed`,
    };
  switch (probeInstruction(code)) {
    case "nop5":
      return { kind: "already" };
    case "nop10":
      return { kind: "skipped", reason: "a ten-byte nop stands there, not a one-byte one" };
    case null:
      return {
        kind: "skipped",
        reason: `"${disassemble(code.subarray(0, LONGEST_INSTRUCTION), location)}" stands at ${hex(location)}, not a nop`,
      };
    default:
      return { kind: "candidate" };
  }
}
