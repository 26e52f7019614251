/**
 * Probes that stay as they are have to be afterwards what they were. A one-byte nop is a probe of another kind where a
 * longer nop follows it: libbpf moves on to that one, and kernels patch it. So that longer nop is no room for others, and
 * none may come to stand after a nop that stays alone.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { countWhile } from "../sorted.js";
import { startsWith } from "../usdt/forms.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { outsideOf, probesOf } from "./overlaps.js";
import type { Proposal } from "./proposal.js";
import { type Refusal, refuse } from "./refusal.js";

/** The longer nops of sites that are such combinations, each with its site. */
export function longerNops(image: ElfImage, sites: ReadonlySet<Vaddr>): ReadonlyMap<Vaddr, Vaddr> {
  const longer = new Map<Vaddr, Vaddr>();
  for (const site of sites) {
    const code = codeFrom(image, site);
    const instruction = code === null ? null : probeInstruction(code);
    if (instruction === "nop,nop5" || instruction === "nop,nop10") longer.set(vaddr(site + 1), site);
  }
  return longer;
}

/**
 * Why a window cannot get its new bytes: with the probe's nop right before it they would be a probe of another kind.
 * @param isKept whether there is a probe that is not moved
 */
export function combination({ window, change }: Proposal, isKept: (address: Vaddr) => boolean): Refusal | undefined {
  const before = vaddr(window.start - 1);
  if (change.kind !== "in-place" || !isKept(before)) return undefined;
  if (!startsWith(change.bytes, NOP5) && !startsWith(change.bytes, NOP10)) return undefined;
  return refuse("other-probe", "the nop of the probe before it would become one of another kind", before);
}

/**
 * Why bytes cannot change: a note names one of them, and its probe would not go along. It may name the middle of an
 * instruction; what stands there is not ours to change.
 * @param sites all that notes name, ascending
 * @param isKept whether a probe has not been moved by another proposal
 */
export function overwritten(
  proposal: Proposal,
  sites: Float64Array,
  isKept: (address: Vaddr) => boolean,
): Refusal | undefined {
  const own = new Set(probesOf(proposal));
  for (const { start, end } of [proposal.window, ...outsideOf(proposal)])
    for (let i = countWhile(sites.length, (n) => sites[n]! < start); i < sites.length && sites[i]! < end; i++) {
      const site = vaddr(sites[i]!);
      if (!own.has(site) && isKept(site))
        return refuse("other-probe", `a note names ${hex(site)}, inside the bytes that are needed`, site);
    }
  return undefined;
}
