/**
 * The quick answer for most functions: their indirect jumps and calls go through what was just loaded. Only where that
 * is not plain to see are values followed.
 */

import { type Vaddr, vaddr } from "../../address.js";
import { addTo } from "../../grouped.js";
import { addressOf, type DecodedCode, Flow, indexAt, indexOf } from "../../x86/decode.js";
import { type Operand, type Step, stepAt, usesStack } from "./steps.js";

/** So many steps are looked back on all ways. */
const MOST_STEPS = 2000;

const RSP = 4;
const RBP = 5;
/** rbx, rsp, rbp, r12 to r15. */
const PRESERVED = (1 << 3) | (1 << RSP) | (1 << RBP) | (0xf << 12);

/** What has to be known of the file. Link-time addresses. */
export interface Tables {
  /** Whether the bytes at an address stay what the file has there. */
  isReadOnly(address: number): boolean;
  landingPads(call: Vaddr): readonly Vaddr[];
  /** The register that holds where a thunk at an address leads, or -1. */
  thunkRegister(target: Vaddr): number;
  /** Whether anything but branches knows a place inside the range. */
  readonly isNamedInside: boolean;
}

/** The ways back from each instruction of a range. */
interface Ways {
  readonly leads: Uint8Array;
  /** Branches that lead to an instruction, by its index. */
  readonly branches: ReadonlyMap<number, readonly number[]>;
  /** Calls whose landing pad an instruction is. */
  readonly thrown: ReadonlyMap<number, readonly number[]>;
  /** Indirect jumps that may lead to wherever a branch or nothing does. */
  readonly jumps: readonly number[];
}

/**
 * Whether every jump, call and return of a range plainly leads to what was handed over, or to what a table of its own
 * says.
 */
export function hasPlainTransfers(code: DecodedCode, tables: Tables): boolean {
  if (code.unclean !== undefined) return false;
  const ways = waysOf(code, tables);
  if (ways === undefined) return false;
  for (let i = 0; i < code.count; i++) {
    const flow = code.flow[i]!;
    const isCall = (flow & Flow.Call) !== 0;
    const isIndirect =
      (flow & Flow.IndirectJump) !== 0 ||
      (isCall && Number.isNaN(code.targets[i]!) && stepAt(code, i).operands[0]?.kind !== "other");
    if (isIndirect && !isLoaded(code, ways, i, tables)) return false;
    const thunk = thunkAt(code, i, tables);
    if (thunk >= 0 && !isPlainly(code, ways, i, thunk, tables)) return false;
    if (isCall && isOwn(code, i)) return false;
    if (flow & Flow.Return && !isOrdinaryReturn(code, ways.leads, i)) return false;
  }
  return true;
}

/**
 * Whether an indirect jump of a range plainly leaves it: for what was loaded or handed over, and nothing of the inside
 * was.
 */
export function leavesFor(code: DecodedCode, jump: number, tables: Tables): boolean {
  if (tables.isNamedInside) return false;
  const ways = waysOf(code, tables);
  return ways !== undefined && isLoaded(code, ways, jump, { ...tables, isReadOnly: () => false });
}

const isOwn = (code: DecodedCode, i: number): boolean => code.targets[i]! > code.start && code.targets[i]! < code.end;

function waysOf(code: DecodedCode, tables: Tables): Ways | undefined {
  const leads = new Uint8Array(code.count);
  const branches = new Map<number, number[]>();
  const thrown = new Map<number, number[]>();
  const jumps: number[] = [];
  const note = (map: Map<number, number[]>, to: number, from: number): void => {
    leads[to] = 1;
    addTo(map, to, from);
  };
  for (let i = 0; i < code.count; i++) {
    const flow = code.flow[i]!;
    if (flow & Flow.IndirectJump) jumps.push(i);
    if (flow & Flow.Call)
      for (const pad of tables.landingPads(addressOf(code, i))) {
        const to = indexOf(code, pad);
        if (to < 0) return undefined;
        note(thrown, to, i);
      }
    const target = code.targets[i]!;
    if (target >= code.start && target < code.end && flow & (Flow.Jump | Flow.Conditional))
      note(branches, indexAt(code, target), i);
  }
  return {
    leads,
    branches,
    thrown,
    jumps: tables.isNamedInside ? jumps : jumps.filter((i) => mayStay(code, leads, i)),
  };
}

/**
 * Whether an indirect jump may be one inside the range: where what it goes by was not plainly loaded or handed over.
 */
function mayStay(code: DecodedCode, leads: Uint8Array, jump: number): boolean {
  const [operand] = stepAt(code, jump).operands;
  if (operand?.kind !== "register") return operand?.kind !== "memory" || operand.index >= 0;
  let { register } = operand;
  for (let i = jump; !leads[i]; i--) {
    if (i === 0) return false;
    if (code.flow[i - 1]! & ~(Flow.Nop | Flow.Lea | Flow.Conditional)) return true;
    const step = stepAt(code, i - 1);
    if (!writes(step, register)) continue;
    const [to, from] = step.operands;
    if (step.operation !== "move" || to?.kind !== "register" || to.size !== 8) return true;
    if (from?.kind === "memory") return from.index >= 0 || usesStack(from);
    if (from?.kind !== "register") return true;
    register = from.register;
  }
  return true;
}

/**
 * Whether a transfer goes through memory that is no slot, or through a register that holds something plain on every
 * way.
 */
function isLoaded(code: DecodedCode, ways: Ways, transfer: number, tables: Tables): boolean {
  const [operand] = stepAt(code, transfer).operands;
  if (operand === undefined || operand.kind === "other" || operand.kind === "number") return false;
  if (operand.kind === "memory") return !usesStack(operand);
  return isPlainly(code, ways, transfer, operand.register, tables);
}

const isPlainly = (code: DecodedCode, ways: Ways, index: number, register: number, tables: Tables): boolean =>
  isAlways(code, ways, index, register, true, (step, at) => isPlain(code, ways, step, at, tables));

/** The register by which an instruction goes on if it branches to a thunk outside of the range, or -1. */
function thunkAt(code: DecodedCode, i: number, tables: Tables): number {
  const target = code.targets[i]!;
  const isBranch = (code.flow[i]! & (Flow.Jump | Flow.Conditional | Flow.Call)) !== 0 && !Number.isNaN(target);
  return isBranch && (target < code.start || target >= code.end) ? tables.thunkRegister(vaddr(target)) : -1;
}

/** What a definition of a register says: it will do, it will not, or these registers have to do in front of it. */
type Verdict = boolean | readonly number[];

/**
 * Whether all that a register may hold in front of an instruction comes from definitions that will do.
 * @param fromOutside whether what the function is called with, and what a callee leaves in its registers, will
 */
function isAlways(
  code: DecodedCode,
  { leads, branches, thrown, jumps }: Ways,
  instruction: number,
  wanted: number,
  fromOutside: boolean,
  judge: (step: Step, at: number) => Verdict,
): boolean {
  const seen = new Set<number>();
  const work = [instruction * 16 + wanted];
  for (let next = work.pop(); next !== undefined; next = work.pop()) {
    if (seen.has(next)) continue;
    seen.add(next);
    if (seen.size > MOST_STEPS) return false;
    const index = next >> 4;
    const register = next & 15;
    const isKept = (PRESERVED & (1 << register)) !== 0;
    if (leads[index]) {
      for (const from of branches.get(index) ?? []) work.push(from * 16 + register);
      for (const from of thrown.get(index) ?? [])
        if (isKept) work.push(from * 16 + register);
        else if (!fromOutside) return false;
    }
    const before = index === 0 ? Flow.Return : code.flow[index - 1]!;
    const isAlone = (before & (Flow.Jump | Flow.IndirectJump | Flow.Return | Flow.Trap)) !== 0;
    if (leads[index] || (isAlone && index > 0)) for (const from of jumps) work.push(from * 16 + register);
    if (index === 0) {
      if (!fromOutside) return false;
      continue;
    }
    if (isAlone) {
      // Nothing that is seen leads here; nops fill up what is in front of a place that is led to.
      if (!leads[index] && jumps.length === 0 && (code.flow[index]! & Flow.Nop) === 0) return false;
      continue;
    }
    const i = index - 1;
    if (before & Flow.Call && !isKept) {
      if (!fromOutside) return false;
      continue;
    }
    const step = before & (Flow.Call | Flow.Conditional | Flow.Nop) ? undefined : stepAt(code, i);
    if (step === undefined || !writes(step, register)) {
      work.push(i * 16 + register);
      continue;
    }
    const verdict = judge(step, i);
    if (verdict === false) return false;
    if (verdict !== true) for (const r of verdict) work.push(i * 16 + r);
  }
  return true;
}

/**
 * A pointer that is loaded, an address that is made, or the sum of a switch: an address and a word of a table that
 * nobody writes.
 */
function isPlain(code: DecodedCode, ways: Ways, { operation, operands }: Step, at: number, tables: Tables): Verdict {
  const [first, second] = operands;
  if (first?.kind !== "register" || first.size !== 8) return false;
  if (operation === "address") return second?.kind === "memory" && second.isRipRelative;
  if (operation === "move" || operation === "conditional move") {
    const from = operation === "move" ? [] : [first.register];
    if (second?.kind === "register") return [...from, second.register];
    return second?.kind === "memory" && second.size === 8 && !usesStack(second) && from;
  }
  if (operation !== "add" || second?.kind !== "register" || first.register === second.register) return false;
  const isTable = ({ operation: how, operands: [, from] }: Step): boolean =>
    how === "address" && from?.kind === "memory" && from.isRipRelative && tables.isReadOnly(from.displacement);
  const isBase = (register: number, before = at): boolean => isAlways(code, ways, before, register, false, isTable);
  const isWord = (register: number): boolean =>
    isAlways(code, ways, at, register, false, (step, from) => {
      const [to, word] = step.operands;
      if (step.operation !== "move signed" || to?.kind !== "register" || to.size !== 8) return false;
      if (word?.kind !== "memory" || word.size !== 4 || word.base < 0 || word.index < 0 || word.scale !== 4)
        return false;
      return word.displacement === 0 && isBase(word.base, from);
    });
  return (isBase(first.register) && isWord(second.register)) || (isWord(first.register) && isBase(second.register));
}

/** Whether a step may write a register. */
function writes({ operation, operands, writes: written }: Step, register: number): boolean {
  const isIt = (o: Operand | undefined): boolean => o?.kind === "register" && o.register === register;
  switch (operation) {
    case "other":
      return (written & (1 << register)) !== 0;
    case "compare":
    case "push":
    case "jump":
    case "return":
      return register === RSP && operation === "push";
    case "exchange":
      return isIt(operands[0]) || isIt(operands[1]);
    case "pop":
      return isIt(operands[0]) || register === RSP;
    case "enter":
    case "leave":
      return register === RSP || register === RBP;
    case "sign extend eax":
      return register === 0;
    case "system call":
    case "call":
      return true;
    default:
      return isIt(operands[0]);
  }
}

/** Whether what is in front of a return leaves the return address alone: no push, no store through rsp. */
function isOrdinaryReturn(code: DecodedCode, leads: Uint8Array, index: number): boolean {
  for (let i = index - 1; i >= 0 && index - i < 4; i--) {
    const flow = code.flow[i]!;
    if (flow & (Flow.Jump | Flow.Call | Flow.IndirectJump | Flow.Return)) return true;
    if (flow & (Flow.Conditional | Flow.Nop)) continue;
    const { operation, operands } = stepAt(code, i);
    if (operation === "push" || operation === "enter") return false;
    const [first] = operands;
    if (operation !== "compare" && first?.kind === "memory" && first.base === RSP && first.displacement <= 8)
      return false;
    if (operation === "exchange" && operands.some((o) => o.kind === "memory" && o.base === RSP)) return false;
    if (leads[i]) return true;
  }
  return true;
}
