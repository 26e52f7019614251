/**
 * Which probes a run is about, and what stands at each: one-byte nops are candidates, everything else has its answer
 * already.
 */
import { hex, type Vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { rangesWhere } from "../kernel/kernels.js";
import type { RewriteOptions } from "../rewritten/contract.js";
import type { FileLayout } from "../usdt/forms.js";
import type { UsdtNote } from "../usdt/notes.js";
import { parsePattern } from "../usdt/pattern.js";
import { codeFrom, isUnusualNop5, probeInstruction } from "../usdt/sites.js";
import { disassemble } from "../x86/relocate.js";
import { type Refusal, type RefusalCode, refuse } from "./refusal.js";

export type Selection =
  | { readonly kind: "candidate" }
  | { readonly kind: "already" }
  | { readonly kind: "skipped"; readonly refusal: Refusal };

const LONGEST_INSTRUCTION = 15;
const REFUSING = rangesWhere((kernel) => kernel.treats.nop10 === "refused");

/** What is to be done with each note's probe, before anything is known of the code around it. */
export function selectSites(
  image: ElfImage,
  notes: readonly UsdtNote[],
  { only }: RewriteOptions,
  layout: FileLayout,
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
        ? selectionOf(image, note.location, layout)
        : { kind: "skipped", refusal: refuse("not-asked", "not asked for (--only)") },
    ]),
  );
}

const skipped = (code: RefusalCode, text: string, at: Vaddr): Selection => ({
  kind: "skipped",
  refusal: refuse(code, text, at),
});

function selectionOf(image: ElfImage, location: Vaddr, layout: FileLayout): Selection {
  const code = codeFrom(image, location);
  if (code === null)
    return skipped(
      "removed-code",
      "its location is in no executable segment: linkers leave such notes of functions that they removed",
      location,
    );
  const instruction = probeInstruction(code);
  switch (instruction) {
    // A bare nop5 is never touched: what a longer probe would need has been overwritten by whoever put it there.
    case "nop5":
      return layout === "nop5" && isUnusualNop5(code) ? { kind: "candidate" } : { kind: "already" };
    case "nop10":
      return skipped("bare-nop10", `a bare ten-byte nop stands there, which Linux ${REFUSING} cannot trace`, location);
    case null:
      return skipped(
        "not-a-nop",
        `"${disassemble(code.subarray(0, LONGEST_INSTRUCTION), location)}" stands at ${hex(location)}, not a nop`,
        location,
      );
    default:
      return { kind: instruction === layout ? "already" : "candidate" };
  }
}
