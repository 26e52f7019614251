/**
 * Both sides run from one state, and what is not the same afterwards: registers, flags, writes to memory, the probes
 * that were passed, and where execution goes on.
 */
import { hex, PAGE_SIZE, type Vaddr } from "../address.js";
import type { MachineState } from "../emulate/machine-states.js";
import { Gpr, MXCSR, Rflags, XMM } from "../emulate/state.js";
import type { Difference } from "./contract.js";
import { MOST_INSIDE, type Run, type SideRunner, type Write } from "./run-side.js";

export interface BothRun {
  readonly original: Run;
  readonly rewritten: Run;
  /** The run shows what both do; otherwise it says nothing, and `because` says why. */
  readonly says: boolean;
  readonly because: string | undefined;
  /** What is not the same, in a few words; undefined where all is. */
  readonly difference: string | undefined;
  /**
   * The difference is what a traced probe has done to the bytes below rsp. From a state that never comes about it may
   * be seen where none is: an index may lead there. Whether those bytes are needed is for the facts to say.
   */
  readonly onlyTraced: boolean;
}

/** Where a run begins: after a call that moved, each side where its own returns to. */
export interface Start {
  readonly original: Vaddr;
  readonly rewritten: Vaddr;
}

/** @param losesFlags flags are not compared: that nobody needs them where they differ is for the proof to show */
export function runBoth(
  original: SideRunner,
  rewritten: SideRunner,
  state: MachineState,
  start: Start,
  losesFlags = false,
): BothRun {
  const a = original.run(state, start.original);
  const silent = (because: string, b: Run = a): BothRun => ({
    original: a,
    rewritten: b,
    says: false,
    because,
    difference: undefined,
    onlyTraced: false,
  });
  if (a.end.kind === "unimplemented") return silent(`not emulated: ${a.end.detail}`);
  // As far as it was followed there is no end to hold against another.
  if (a.end.kind === "given up") return silent(a.end.detail);
  const most = LONGER * MOST_INSIDE;
  const b = rewritten.run(state, start.rewritten, { most });
  if (b.end.kind === "unimplemented") return silent(`not emulated: ${b.end.detail}`, b);
  const difference = differenceOf(a, b, losesFlags);
  if (difference !== undefined && readsChangedFile(original, rewritten, state, start.original))
    return silent("it reads the bytes of the file that were changed", b);
  const onlyTraced =
    difference !== undefined &&
    differenceOf(a, rewritten.run(state, start.rewritten, { most, untraced: true }), losesFlags) === undefined;
  return { original: a, rewritten: b, says: true, because: undefined, difference, onlyTraced };
}

/** Jumps to new code and back, guards and nops: the rewritten side never needs so many instructions more. */
const LONGER = 8;

/** Bytes around an operand that an instruction may read. */
const OPERAND_SIZE = 64;

/**
 * Whether a run with random addresses came to read the file's own headers or code, which are not the same and need not
 * be: then what it shows is nothing about the window.
 */
function readsChangedFile(original: SideRunner, rewritten: SideRunner, state: MachineState, start: Vaddr): boolean {
  const { operands, operandsBehind } = original.run(state, start, { withOperands: true });
  return [...operands, ...operandsBehind].some((address) => {
    const [first, end] = [address - OPERAND_SIZE, address + OPERAND_SIZE];
    // The file may begin, or end, at a page that lies between.
    const page = Math.floor(end / PAGE_SIZE) * PAGE_SIZE;
    const isSame = (from: number, to: number): boolean => {
      const [a, b] = [original, rewritten].map((side) => side.fileBytes(from, to - from));
      return Buffer.compare(a!, b!) === 0;
    };
    return page > first ? !isSame(first, page) || !isSame(page, end) : !isSame(first, end);
  });
}

function differenceOf(a: Run, b: Run, losesFlags: boolean): string | undefined {
  if (a.end.kind !== b.end.kind || a.end.detail !== b.end.detail)
    return `the original ends with "${endText(a)}", the rewritten code with "${endText(b)}"`;
  if (a.passed.join() !== b.passed.join()) return "the probes that are passed are not the same";
  // A fault in code that moved has another address, and within a call that is made early rsp is lower.
  const isMovedFault = a.end.kind === "fault" && a.ip !== b.ip;
  if (!isMovedFault && a.ip !== b.ip) return `it goes on at ${hex(b.ip)}, not at ${hex(a.ip)}`;
  const writes = b.callsFromNew ? callsDiffer(a.writes, b.writes) : writesDiffer(a.writes, b.writes);
  if (writes !== undefined) return writes;
  for (let register = 0; register < 16; register++)
    if (!sameWords(a, b, 2 * register, 2) && !(isMovedFault && register === Gpr.RSP))
      return `${gprName(register)} is not the same`;
  if (!losesFlags && a.rflags !== b.rflags) return "the flags are not the same";
  for (let i = 0; i < 16; i++) if (!sameWords(a, b, XMM + 4 * i, 4)) return `xmm${i} is not the same`;
  return sameWords(a, b, MXCSR, 1) ? undefined : "mxcsr is not the same";
}

const endText = ({ end }: Run): string => (end.detail === "" ? end.kind : `${end.kind}: ${end.detail}`);

function sameWords(a: Run, b: Run, from: number, count: number): boolean {
  for (let i = from; i < from + count; i++) if (a.words[i] !== b.words[i]) return false;
  return true;
}

const isSameWrite = (a: Write | undefined, b: Write | undefined): boolean =>
  a !== undefined && b !== undefined && a.address === b.address && Buffer.compare(a.bytes, b.bytes) === 0;

function writesDiffer(a: readonly Write[], b: readonly Write[]): string | undefined {
  const count = Math.max(a.length, b.length);
  for (let i = 0; i < count; i++) if (!isSameWrite(a[i], b[i])) return `write ${i + 1} to memory is not the same`;
  return undefined;
}

/** Of a call that moved the return address is another one; it stands in the same place. */
function callsDiffer(a: readonly Write[], b: readonly Write[]): string | undefined {
  const [x, y] = [a.at(-1), b.at(-1)];
  if (x?.address !== y?.address || x?.bytes.length !== y?.bytes.length)
    return "the return address is not in the same place";
  return writesDiffer(a.slice(0, -1), b.slice(0, -1));
}

const names = Object.entries(Gpr).map(([name, number]) => [number, name.toLowerCase()] as const);
const gprName = (register: number): string => names.find(([number]) => number === register)![1];

const flagNames = ["CF", "PF", "AF", "ZF", "SF", "DF", "OF"] as const;

/** A run that ended differently, as a table of what differs or matters. */
export function describeRun(
  state: MachineState,
  { original, rewritten }: BothRun,
  textOf: readonly [(at: Vaddr) => string, (at: Vaddr) => string],
): Difference {
  const rows: { name: string; before: string; original: string; rewritten: string }[] = [];
  const row = (name: string, before: string, a: string, b: string, always = false): void => {
    if (always || a !== b || a !== before) rows.push({ name, before, original: a, rewritten: b });
  };
  for (let register = 0; register < 16; register++) {
    const value = (words: Int32Array): string => hexWords(words, 2 * register, 2);
    row(gprName(register), value(state.words), value(original.words), value(rewritten.words), true);
  }
  row("rip", "", hex(original.ip), hex(rewritten.ip), true);
  for (const name of flagNames) {
    const value = (run: Run): string => (run.rflags & Rflags[name] ? "1" : "0");
    if (value(original) !== value(rewritten)) row(name, "", value(original), value(rewritten));
  }
  for (let i = 0; i < 16; i++) {
    const value = (words: Int32Array): string => hexWords(words, XMM + 4 * i, 4);
    row(`xmm${i}`, value(state.words), value(original.words), value(rewritten.words));
  }
  const count = Math.max(original.writes.length, rewritten.writes.length);
  for (let i = 0; i < count; i++) {
    const [a, b] = [original.writes[i], rewritten.writes[i]];
    if (!isSameWrite(a, b)) row(`write ${i + 1}`, "", writeText(a), writeText(b), true);
  }
  row("end", "", endText(original), endText(rewritten), original.end.kind !== "behind");
  const trace = ({ inside, behind }: Run, text: (at: Vaddr) => string): string[] => [...inside, ...behind].map(text);
  return { rows, originalTrace: trace(original, textOf[0]), rewrittenTrace: trace(rewritten, textOf[1]) };
}

const hexWords = (words: Int32Array, from: number, count: number): string => {
  let text = "";
  for (let i = from + count - 1; i >= from; i--) text += (words[i]! >>> 0).toString(16).padStart(8, "0");
  return `0x${text.replace(/^0+(?=.)/, "")}`;
};

function writeText(write: Write | undefined): string {
  if (write === undefined) return "none";
  const value = Buffer.from(write.bytes).reverse().toString("hex");
  return `${write.bytes.length} at ${hex(write.address)}: 0x${value}`;
}
