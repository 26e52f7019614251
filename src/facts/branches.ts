/**
 * Branches as entries: those near a site, wherever they begin, and those that the byte-wise scan found.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { sectionBytes } from "../elf/image.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { constantsOf, namedAddress } from "../x86/relocate.js";
import type { Entries } from "./entries.js";
import type { FunctionIndex } from "./functions.js";
import type { TrustedGaps } from "./gaps.js";
import { knows } from "./knowledge.js";
import { type Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import { type CodeHit, possibleShortBranches } from "./scan-code.js";

/** How far a branch with an 8-bit distance reaches, its own length included. */
const SHORT_REACH = 130;

/** From how far away of a site a short branch may lead to where a tactic might write. */
export const LOCAL_REACH = Math.max(REACH_BEFORE, REACH_BEHIND) + SHORT_REACH;

interface BranchContext {
  readonly image: ElfImage;
  readonly functions: FunctionIndex;
  readonly gaps: TrustedGaps;
  readonly near: Neighbourhoods;
  readonly entries: Entries;
}

/**
 * Branches that begin within the reach of a short one: all functions there are decoded, and in bytes that are in no
 * function, or in one that does not decode, every position that could be a short branch counts as one.
 */
export function addLocalBranches(context: BranchContext, sites: readonly Vaddr[]): void {
  const seen = new Set<number>();
  for (const site of sites) addBranchesAround(context, site, seen);
}

function addBranchesAround(context: BranchContext, site: Vaddr, seen: Set<number>): void {
  const { functions } = context;
  const section = functions.sectionAt(site);
  if (section === undefined) return;
  const low = Math.max(section.sh_addr, site - REACH_BEFORE - SHORT_REACH);
  const high = Math.min(section.sh_addr + section.sh_size, site + REACH_BEHIND + SHORT_REACH);
  let at = low;
  for (let i = Math.max(0, functions.lastAtOrBelow(low)); i < functions.count && at < high; i++) {
    const range = functions.range(i);
    if (range.end <= at) continue;
    if (range.start >= high) break;
    addUnknown(context, at, Math.min(range.start, high));
    const code = functions.code(range);
    if (code.unclean !== undefined) addUnknown(context, Math.max(at, range.start), Math.min(range.end, high));
    else if (!seen.has(range.index)) addBranchesOf(context, code);
    seen.add(range.index);
    at = Math.max(at, range.end);
  }
  addUnknown(context, at, high);
}

/** Bytes in no function, or in one that does not decode. */
function addUnknown(context: BranchContext, start: number, end: number): void {
  if (end <= start) return;
  const { image, functions, gaps, near, entries } = context;
  const trusted = gaps.code(start);
  if (trusted !== undefined) {
    addBranchesOf(context, trusted);
    return;
  }
  const from = start + functions.paddingAt(start, end);
  const section = functions.sectionAt(start)!;
  const bytes = sectionBytes(image, section).subarray(from - section.sh_addr, end - section.sh_addr);
  possibleShortBranches(bytes, vaddr(from), (at, target) => {
    if (near.contains(target)) entries.suspect(target, "what may be a branch at @, outside of known functions,", at);
  });
}

const kinds: readonly (readonly [number, string])[] = [
  [Flow.Jump, "the jmp at @"],
  [Flow.Conditional, "the branch at @"],
  [Flow.Call, "the call at @"],
  [Flow.Transaction, "the xbegin at @"],
  [Flow.Lea, "the address in the lea at @"],
];

function addBranchesOf({ near, entries }: BranchContext, code: DecodedCode): void {
  for (let i = 0; i < code.count; i++) {
    if (code.flow[i]! & Flow.Landing && near.contains(addressOf(code, i)))
      entries.suspect(addressOf(code, i), "endbr64: an indirect branch may come; it");
    if (near.contains(code.targets[i]!)) addBranch(code, i, entries);
  }
}

/** What instruction `index`, whose target is near a site, adds to the entries. */
function addBranch(code: DecodedCode, index: number, entries: Entries): void {
  const flow = code.flow[index]!;
  const at = addressOf(code, index);
  const length = lengthOf(code, index);
  const kind = kinds.find(([bit]) => flow & bit)?.[1] ?? "the instruction at @";
  if (!knows(flow & Flow.Lea ? "addresses in code" : length < 5 ? "short branches" : "near branches")) return;
  const jumps = (flow & (Flow.Jump | Flow.Conditional)) !== 0;
  const branch = jumps ? { at, end: vaddr(at + length), wide: length >= 5 } : undefined;
  // A call knows where its callee begins, and nobody else does by it.
  entries.add(vaddr(code.targets[index]!), kind, at, branch, (flow & (Flow.Call | Flow.Transaction)) === 0 && !jumps);
}

/** Is a word that was found by the byte-wise scan what it looks like? Decoding the code around it tells. */
export function settleHit({ functions, gaps, near, entries }: BranchContext, hit: CodeHit): void {
  const range = functions.containing(hit.at);
  if (range === undefined) {
    // Padding is made of nops with zero displacements, which look like distances: they branch nowhere.
    const gap = functions.gapAt(hit.at);
    if (gap !== undefined && functions.isPadding(gap)) return;
  }
  const decoded = range === undefined ? gaps.code(hit.at) : functions.code(range);
  const code = decoded?.unclean === undefined ? decoded : undefined;
  if (code === undefined) {
    entries.suspect(hit.target, "what may be a branch or an address at @, in code that cannot be decoded,", hit.at);
    return;
  }
  // Among instructions no word stands for itself.
  if (hit.reading === "self-relative") return;
  const index = indexAt(code, hit.at);
  const at = addressOf(code, index);
  const bytes = code.bytes.subarray(at - code.start, at - code.start + lengthOf(code, index));
  if (near.contains(code.targets[index]!)) addBranch(code, index, entries);
  else {
    const named = namedAddress(bytes, at);
    if (named !== undefined && near.contains(named))
      entries.add(vaddr(named), "the operand of the instruction at @", at);
  }
  if (hit.reading !== "absolute" || !knows("addresses in code")) return;
  if (constantsOf(bytes, at).some((c) => at + c.offset === hit.at && c.value === hit.target))
    entries.add(hit.target, "the constant in the instruction at @", at);
}
