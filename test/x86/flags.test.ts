/**
 * What is said of instructions and flags, held against the emulated CPU, which the processor judges (test/emulate): each
 * is run with every combination of the six flags. A flag that is written does not depend on what the flags were; and
 * what does not read a flag does nothing else with one value of it than with the other.
 */
import { describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { Perm } from "../../src/emulate/memory.js";
import { Rflags, State } from "../../src/emulate/state.js";
import { Machine, type Snapshot } from "../../src/patching/machine.js";
import { flagEffects, flagNames, STATUS_FLAGS } from "../../src/x86/flags.js";

const CODE = 0x40_1000;
const DATA = 0x40_8000;
const NAMES = ["CF", "PF", "AF", "ZF", "SF", "OF"] as const;

/** An instruction, the flags that it reads, and those that it writes in any case. rsi and rdi point to data. */
const instructions: readonly (readonly [text: string, bytes: string, reads: string, writes: string])[] = [
  ["nop", "90", "", ""],
  ["mov %rdi,%rax", "48 89 f8", "", ""],
  ["lea 1(%rax),%rax", "48 8d 40 01", "", ""],
  ["not %eax", "f7 d0", "", ""],
  ["push %rax", "50", "", ""],
  ["cmp %rsi,%rdi", "48 39 f7", "", "CF PF AF ZF SF OF"],
  ["add $1,%eax", "83 c0 01", "", "CF PF AF ZF SF OF"],
  ["neg %eax", "f7 d8", "", "CF PF AF ZF SF OF"],
  ["test %eax,%eax", "85 c0", "", "CF PF ZF SF OF"],
  ["xor %eax,%eax", "31 c0", "", "CF PF ZF SF OF"],
  ["inc %eax", "ff c0", "", "PF AF ZF SF OF"],
  ["dec %eax", "ff c8", "", "PF AF ZF SF OF"],
  ["adc %eax,%eax", "11 c0", "CF", "CF PF AF ZF SF OF"],
  ["sbb %eax,%eax", "19 c0", "CF", "CF PF AF ZF SF OF"],
  ["cmc", "f5", "CF", "CF"],
  ["stc", "f9", "", "CF"],
  ["clc", "f8", "", "CF"],
  ["shl $3,%eax", "c1 e0 03", "", "CF PF ZF SF"],
  ["shl $1,%eax", "d1 e0", "", "CF PF ZF SF OF"],
  ["shl $0,%eax", "c1 e0 00", "", ""],
  ["shl %cl,%eax", "d3 e0", "", ""],
  ["sar %cl,%eax", "d3 f8", "", ""],
  ["rol $3,%eax", "c1 c0 03", "", "CF"],
  ["ror %cl,%eax", "d3 c8", "", ""],
  ["rcl $1,%eax", "d1 d0", "CF", "CF OF"],
  ["rcr %cl,%eax", "d3 d8", "CF", ""],
  ["shld $3,%ecx,%eax", "0f a4 c8 03", "", "CF PF ZF SF"],
  ["shrd %cl,%edx,%eax", "0f ad d0", "", ""],
  ["bt $3,%eax", "0f ba e0 03", "", "CF"],
  ["bsf %ecx,%eax", "0f bc c1", "", "ZF"],
  ["imul %ecx,%eax", "0f af c1", "", "CF OF"],
  ["mul %ecx", "f7 e1", "", "CF OF"],
  ["setb %al", "0f 92 c0", "CF", ""],
  ["setbe %al", "0f 96 c0", "CF ZF", ""],
  ["setle %al", "0f 9e c0", "ZF SF OF", ""],
  ["setp %al", "0f 9a c0", "PF", ""],
  ["cmovs %ecx,%eax", "0f 48 c1", "SF", ""],
  ["cmovo %ecx,%eax", "0f 40 c1", "OF", ""],
  ["jne .", "75 fe", "ZF", ""],
  ["jrcxz .", "e3 fe", "", ""],
  ["loop .", "e2 fe", "", ""],
  ["loope .", "e1 fe", "ZF", ""],
  ["lahf", "9f", "CF PF AF ZF SF", ""],
  ["sahf", "9e", "", "CF PF AF ZF SF"],
  ["pushf", "9c", "CF PF AF ZF SF OF", ""],
  ["cmpsb", "a6", "", "CF PF AF ZF SF OF"],
  ["repe cmpsb", "f3 a6", "", ""],
  ["repne scasb", "f2 ae", "", ""],
  ["xadd %ecx,%eax", "0f c1 c8", "", "CF PF AF ZF SF OF"],
  ["cmpxchg %ecx,%edx", "0f b1 ca", "", "CF PF AF ZF SF OF"],
  ["ucomiss %xmm1,%xmm0", "0f 2e c1", "", "CF PF AF ZF SF OF"],
  ["call .", "e8 fb ff ff ff", "", ""],
];

/** What no emulator shows: who else sees the flags. */
const shown = ["syscall 0f 05", "int3 cc", "int $0x80 cd 80", "vmcall 0f 01 c1", "xabort $1 c6 f8 01"];

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(hex.split(" "), (byte) => Number.parseInt(byte, 16));

const flagsIn = (names: string): number => names.split(" ").reduce((sum, n) => sum | (n === "" ? 0 : bitOf(n)), 0);
const bitOf = (name: string): number => Rflags[name as (typeof NAMES)[number]];
/** The same as iced counts them. */
const named = (flags: number): string =>
  flags === 0 ? "" : flagNames(flags).replace(" and ", " ").replaceAll(",", "");

/** The state after the instruction for each combination of flags, with the flags by themselves. */
function outcomes(bytes: Uint8Array, rcx: number): readonly { before: number; flags: number; rest: string }[] {
  const machine = new Machine();
  machine.load({ address: CODE, bytes }, Perm.RX);
  machine.room(DATA, 0x1000);
  return Array.from({ length: 64 }, (_, i) => {
    const before = NAMES.reduce((sum, name, n) => sum | ((i >> n) & 1 ? bitOf(name) : 0), 0);
    const words = withFlags(machine.blankWords(), before);
    // rax, rcx, rdx, rsp, rsi and rdi by their numbers.
    const held = { 0: 0x8123_4567, 1: rcx, 2: 0x7654_3210, 4: DATA + 0x800, 6: DATA + 0x100, 7: DATA + 0x200 };
    for (const [register, value] of Object.entries(held)) words[2 * Number(register)] = value;
    const start: Snapshot = machine.at({ words, memory: new Map() }, CODE);
    const ran = machine.run(machine.numberOf(start));
    expect(ran.outcome.kind).toBe("limit");
    const after = machine.valueOf(ran.snapshot);
    const flags = flagsOf(after.words);
    const rest = JSON.stringify([[...withFlags(after.words.slice(), 0)], [...after.memory]]);
    return { before, flags, rest };
  });
}

function withFlags(words: Int32Array, flags: number): Int32Array {
  const state = new State();
  state.w.set(words);
  state.rflags = flags;
  return state.w.slice(0, words.length);
}

function flagsOf(words: Int32Array): number {
  const state = new State();
  state.w.set(words);
  return state.rflags & flagsIn(NAMES.join(" "));
}

describe.each(instructions)("%s", (_text, hex, reads, writes) => {
  const bytes = bytesOf(hex);

  it("is known", () => {
    const effects = flagEffects(bytes, vaddr(CODE));
    expect([named(effects.reads), named(effects.writes)]).toEqual([reads, writes]);
  });

  it.each([0, 5])("does that on the emulated CPU, with %i in rcx", (rcx) => {
    const all = outcomes(bytes, rcx);
    for (const name of writes.split(" ").filter((n) => n !== "" && !reads.split(" ").includes(n))) {
      // What it reads may decide about what it writes; of the others nothing does.
      const groups = new Map<number, Set<number>>();
      for (const { before, flags } of all) {
        const key = before & flagsIn(reads);
        groups.set(key, (groups.get(key) ?? new Set()).add(flags & bitOf(name)));
      }
      for (const values of groups.values()) expect([name, values.size]).toEqual([name, 1]);
    }
    for (const name of NAMES.filter((n) => !reads.split(" ").includes(n))) {
      const others = (flags: number): number => flags & ~bitOf(name);
      for (const one of all) {
        const other = all.find(({ before }) => before === (one.before ^ bitOf(name)))!;
        expect([name, other.rest, others(other.flags)]).toEqual([name, one.rest, others(one.flags)]);
      }
    }
  });
});

describe("who shows the flags to somebody reads all of them", () => {
  it.each(shown)("%s", (line) => {
    const hex = /(?: [0-9a-f]{2})+$/.exec(line)![0].trim();
    expect(flagEffects(bytesOf(hex), vaddr(CODE))).toEqual({ reads: STATUS_FLAGS, writes: 0 });
  });
});
