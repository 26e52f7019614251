/**
 * Groups: parts that direct jumps join, other than tail calls. A conditional jump never is one; a jump into the inside
 * of another part is none, unless what is there is a stub, which goes on by a pointer of its own whatever the registers
 * hold.
 */
import { Decoder, iced } from "./decode.js";
import { type Part, type Parts, Use } from "./parts.js";
import type { Program } from "./program.js";
import { lastNotAfter } from "./spans.js";

export interface Group {
  readonly index: number;
  readonly parts: Part[];
}

export function groupsOf(program: Program, parts: Parts): readonly Group[] {
  const { list, references } = parts;
  const parent = list.map((p) => p.index);
  const find = (index: number): number => {
    let at = index;
    while (parent[at] !== at) {
      parent[at] = parent[parent[at]!]!;
      at = parent[at]!;
    }
    return at;
  };
  const unite = (a: Part, b: Part): void => {
    parent[find(b.index)] = find(a.index);
  };
  const decoder = new Decoder(program.sources);
  const isStub = (address: number): boolean => {
    let i = decoder.at(address);
    if (i?.mnemonic === iced.Mnemonic.Endbr64) i = decoder.at(address + i.length);
    return i !== undefined && i.flowControl === iced.FlowControl.IndirectBranch && i.isIpRelMemoryOperand;
  };
  const stubs = new Map<number, boolean>();
  let source = list[0]!;
  for (let i = 0; i < references.count; i++) {
    const use = references.use[i]!;
    source = parts.next(source, references.from[i]!);
    if (use !== Use.Jump && use !== Use.Conditional) continue;
    const to = references.to[i]!;
    // Most stay in their part: found without a search.
    if (to >= source.start && to < source.end) continue;
    const target = parts.at(to);
    if (target === undefined || find(target.index) === find(source.index)) continue;
    if (use === Use.Jump && target.heads.includes(to)) continue;
    let stub = stubs.get(to);
    if (stub === undefined) {
      stub = isStub(to);
      stubs.set(to, stub);
    }
    if (!stub) unite(source, target);
  }
  decoder.free();
  // A landing pad runs in the frame of the calls that lead to it.
  for (const { start, pad } of program.landings) {
    const [a, b] = [list[lastNotAfter(list, start)], list[lastNotAfter(list, pad)]];
    if (a !== undefined && b !== undefined && a !== b) unite(a, b);
  }
  const groups: Group[] = [];
  const byRoot = new Map<number, Group>();
  for (const part of list) {
    const root = find(part.index);
    let group = byRoot.get(root);
    if (group === undefined) {
      group = { index: groups.length, parts: [part] };
      groups.push(group);
      byRoot.set(root, group);
    } else group.parts.push(part);
    part.group = group.index;
  }
  return groups;
}

/** Groups that some calls lead to, and to which those go on by jumps. */
export function calledBy(parts: Parts, calls: ReadonlySet<number>): ReadonlySet<number> {
  const found = new Set<number>();
  const { from, to, use, count } = parts.references;
  const onward = new Map<number, number[]>();
  for (let i = 0; i < count; i++) {
    const isCall = use[i] === Use.Call && calls.has(from[i]!);
    if (!isCall && use[i] !== Use.Jump) continue;
    const target = parts.at(to[i]!);
    if (target === undefined) continue;
    if (isCall) found.add(target.group);
    const source = use[i] === Use.Jump ? parts.at(from[i]!) : undefined;
    if (source !== undefined && source.group !== target.group)
      onward.set(source.group, [...(onward.get(source.group) ?? []), target.group]);
  }
  for (const group of found) for (const next of onward.get(group) ?? []) found.add(next);
  return found;
}
