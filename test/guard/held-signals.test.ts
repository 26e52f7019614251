/**
 * What an unwinder is told of the code around forks: at every instruction the caller's frame is where the rows say, whatever
 * way has led there.
 */
import { describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { type CfaRows, DWARF_RSP, rowAt } from "../../src/elf/cfa-rows.js";
import { decodeInstructions } from "../../src/emulate/instruction.js";
import { beforeFork, behindFork } from "../../src/rewrite/fork-guard/handler/held-signals.js";
import { namedCode } from "../../src/rewrite/start/named-code.js";
import type { Assembler } from "../../src/x86/assembler.js";
import { linkOne } from "../../src/x86/link.js";
import { linkedGuard } from "./guarded-program.js";

const START = 0x20000;
const slots = { start: vaddr(0x40000), count: 8 };
const sites = { table: vaddr(0x30000), end: vaddr(0x30008), firstSite: vaddr(0x10000), selector: undefined };
const guard = linkedGuard([{ sites: [vaddr(0x1000), vaddr(0x2010)], privatePages: new Set() }], START, slots);

function placed(code: Assembler): { readonly bytes: Uint8Array; readonly unwind: CfaRows } {
  const linked = linkOne(code, START);
  return { bytes: linked.bytes, unwind: namedCode(code, linked).unwind! };
}

/** How far each instruction is from the caller's frame, by its address: followed along all ways from the first one. */
function depths(bytes: Uint8Array): ReadonlyMap<number, number> {
  const found = new Map<number, number>();
  const open: [at: number, depth: number][] = [[START, 8]];
  for (let way = open.pop(); way !== undefined; way = open.pop()) {
    const [at, depth] = way;
    const known = found.get(at);
    if (known !== undefined) {
      expect(known, at.toString(16)).toBe(depth);
      continue;
    }
    found.set(at, depth);
    const { text, length } = decodeInstructions(bytes.subarray(at - START), at, 1)[0]!;
    const by = /^push/.test(text) ? 8 : /^pop/.test(text) ? -8 : Number(/^sub rsp,(\w+)/.exec(text)?.[1] ?? 0);
    const after = depth + by - Number(/^add rsp,(\w+)/.exec(text)?.[1] ?? 0);
    const target = /^j.*\b0x([0-9a-f]+)$/i.exec(text)?.[1];
    if (target !== undefined) open.push([Number.parseInt(target, 16), after]);
    if (text === "ret") expect(depth).toBe(8);
    else if (!text.startsWith("jmp")) open.push([at + length, after]);
  }
  return found;
}

describe("the caller's frame, at every instruction of", () => {
  it.each<[name: string, code: { readonly bytes: Uint8Array; readonly unwind: CfaRows }, least: number]>([
    ["the handler before a fork", placed(beforeFork("before", sites, slots)), 60],
    ["the handler behind a fork", placed(behindFork("after", slots)), 30],
    ["the guard, where signals may be held", guard, 250],
  ])("%s", (_name, { bytes, unwind }, least) => {
    const all = depths(bytes);
    expect(all.size).toBeGreaterThan(least);
    for (const [at, depth] of all) {
      const row = rowAt(unwind, at);
      expect([unwind.registers[row], unwind.offsets[row]], at.toString(16)).toEqual([DWARF_RSP, depth]);
    }
  });
});
