/**
 * What a rewritten file says about the functions that changed, for a checker that believes none of it: how each of
 * their computed transfers gets its target, and which addresses inside of functions they make. It is what the facts
 * went by.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { GroupFacts, Way } from "../facts/computed-targets.js";
import type { ProgramFacts } from "../facts/program.js";
import type { Formation } from "../facts/values/sums.js";
import type { Certificate, Claim, MadeAddress, TableClaim } from "../rewritten/certificate.js";
import { type DecodedCode, Flow } from "../x86/decode.js";
import type { NewCode } from "./new-code.js";
import type { Proposal } from "./proposal.js";

/** One certificate for each function that a plan changes and that could be followed, ascending. */
export function certificatesFor(
  facts: ProgramFacts | undefined,
  proposals: readonly Proposal[],
  newCode: NewCode | undefined,
): readonly Certificate[] {
  if (facts === undefined) return [];
  const { functions, computed } = facts;
  const groups = new Set<GroupFacts>();
  const ranges = new Set<number>();
  const waiting: Vaddr[] = [...changedPlaces(proposals, newCode)];
  for (let address = waiting.pop(); address !== undefined; address = waiting.pop()) {
    const range = functions.containing(address);
    if (range === undefined || ranges.has(range.index)) continue;
    const group = computed.groupOf(range);
    if (group.flow === undefined) continue;
    groups.add(group);
    for (const part of group.parts) ranges.add(part.index);
    // Whether a conditional jump to a start is a tail call is a matter of opinion.
    for (const part of group.parts) waiting.push(...conditionalTargets(functions.code(part)));
  }
  const made = new Map<number, MadeAddress[]>();
  const take = (index: number, address: Vaddr, value: Vaddr): void => {
    const own = made.get(index) ?? [];
    own.push({ address, value });
    made.set(index, own);
  };
  for (const { at, target } of computed.madeInside(ranges)) take(functions.containing(at)!.index, at, target);
  return [...groups]
    .sort((a, b) => a.parts[0]!.start - b.parts[0]!.start)
    .map(({ parts, ways }) => ({
      parts: parts.map(({ start, end }) => ({ start, end })),
      transfers: transfersOf(ways),
      made: unique(parts.flatMap(({ index }) => made.get(index) ?? [])),
    }));
}

/** Where conditional jumps lead to that leave a part. */
function* conditionalTargets({ start, end, count, flow, targets }: DecodedCode): Iterable<Vaddr> {
  for (let i = 0; i < count; i++) {
    const target = targets[i]!;
    if (flow[i]! & Flow.Conditional && !(target >= start && target < end)) yield vaddr(target);
  }
}

/** Where bytes of functions change: one address of each stretch. */
function* changedPlaces(proposals: readonly Proposal[], newCode: NewCode | undefined): Iterable<Vaddr> {
  for (const { window } of proposals) yield window.start;
  for (const { changes } of newCode?.chunks ?? []) for (const { at } of changes) yield at;
}

/** A transfer may have been seen on several ways, from different states: it goes by what any of them says. */
function transfersOf(ways: readonly Way[]): Certificate["transfers"] {
  const claims = new Map<Vaddr, Map<string, Claim>>();
  for (const { at, isPointer, addresses, tables } of ways) {
    const own = claims.get(at) ?? new Map<string, Claim>();
    claims.set(at, own);
    const add = (claim: Claim): void => void own.set(JSON.stringify(claim), claim);
    if (isPointer) add({ kind: "pointer" });
    if (addresses.length > 0) add({ kind: "exact", addresses: addresses.map(vaddr) });
    for (const table of tables.flatMap(tableClaims)) add(table);
  }
  return [...claims].sort(([a], [b]) => a - b).map(([address, own]) => ({ address, claims: [...own.values()] }));
}

const tableClaims = ({ base, width, signed, minus, sources }: Formation): readonly TableClaim[] =>
  sources.map(({ at, step }) => ({
    kind: "table",
    base: vaddr(base),
    width,
    signed,
    minus,
    first: vaddr(at),
    stride: step,
  }));

/** Ascending by instruction, each once. */
function unique(made: readonly MadeAddress[]): readonly MadeAddress[] {
  const sorted = [...made].sort((a, b) => a.address - b.address || a.value - b.value);
  return sorted.filter((m, i) => m.address !== sorted[i - 1]?.address || m.value !== sorted[i - 1]?.value);
}
