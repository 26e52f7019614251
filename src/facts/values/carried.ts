/**
 * The quick answer for most functions that make addresses of code: they compare them, store them, pass them on or jump
 * to them, and never compute with them. From each instruction that makes one, the registers that may hold it are
 * followed on all ways, a bit each; an instruction is looked at only while there is one. Where an address goes to a
 * slot of the stack, also through a register that points there, comes to a jump table or leaves for another part of the
 * function, values have to be followed (flow.ts).
 */
import type { Vaddr } from "../../address.js";
import { addressOf, type DecodedCode, Flow, indexAt, indexOf } from "../../x86/decode.js";
import { ALL_CLOBBERED } from "./clobbered.js";
import { isEnd } from "./endless.js";
import { stackRegisters } from "./stack-registers.js";
import { type MemoryOperand, type Operand, type Step, stepAt, usesStack } from "./steps.js";

/** What has to be known of the rest of the program. All addresses are link-time ones. */
export interface Around {
  /** Numbers and addresses are the same: ET_EXEC. */
  readonly fixed: boolean;
  /** The registers that a direct call may change, a bit each. */
  clobbered(target: Vaddr): number;
  landingPads(call: Vaddr): readonly Vaddr[];
  /** Whether a jump out of the range is a tail call, and does not lead to another part of its function. */
  isTailCall(target: number): boolean;
  /** Whether the indirect jump at an index leaves the range. */
  leaves(index: number): boolean;
}

/** A pair of vector registers into which an address went: no register's bit. */
const VECTORS = 1 << 16;
/** Something is computed with an address, or it goes where it is not followed. */
const LOST = -1;

/**
 * Whether a range hands on the addresses of code that it makes as they are.
 * @param made link-time addresses in the range at which one seems to be made
 */
export function handsOnAll(code: DecodedCode, made: readonly number[], around: Around): boolean {
  if (code.unclean !== undefined) return false;
  const held = new Int32Array(code.count);
  let pointing: number | undefined;
  const isSlot = (place: MemoryOperand): boolean => {
    if (usesStack(place)) return true;
    if (place.isRipRelative || place.hasSegment) return false;
    pointing ??= stackRegisters(code);
    return addresses(place, pointing);
  };
  const work: number[] = [];
  const arrive = (index: number, mask: number): void => {
    if (mask === 0 || index >= code.count || (held[index]! | mask) === held[index]) return;
    held[index]! |= mask;
    work.push(index);
  };
  const sources = new Set<number>();
  for (const at of made) {
    const index = indexAt(code, at);
    const step = stepAt(code, index);
    if (makesCode(step, around.fixed)) {
      sources.add(index);
      arrive(index + 1, bit(step.operands[0]!));
    } else if (around.fixed && namesNumber(step) && !isHandedOn(step, isSlot)) return false;
  }
  for (let i = work.pop(); i !== undefined; i = work.pop()) {
    const mask = held[i]!;
    const flow = code.flow[i]!;
    if (flow & Flow.Transaction) return false;
    if (flow & Flow.IndirectJump) {
      if (!around.leaves(i)) return false;
      continue;
    }
    if (flow & Flow.Return) continue;
    if (flow & (Flow.Jump | Flow.Conditional)) {
      const target = code.targets[i]!;
      const to = indexOf(code, target);
      if (to >= 0) arrive(to, mask);
      else if (!around.isTailCall(target)) return false;
      if (flow & Flow.Jump) continue;
    }
    if (flow & Flow.Call) {
      const after = afterCall(code, i, mask, around);
      if (after === LOST) return false;
      for (const pad of around.landingPads(addressOf(code, i))) {
        const to = indexOf(code, pad);
        if (to < 0) return false;
        arrive(to, mask & ~ALL_CLOBBERED);
      }
      arrive(i + 1, after);
      continue;
    }
    if (isEnd(code, i)) continue;
    if (flow & (Flow.Conditional | Flow.Nop)) {
      arrive(i + 1, mask);
      continue;
    }
    const after = afterStep(code, i, mask, around.fixed, isSlot);
    if (after === LOST) return false;
    arrive(i + 1, sources.has(i) ? after | bit(stepAt(code, i).operands[0]!) : after);
  }
  return true;
}

const bit = (o: Operand | undefined): number => (o?.kind === "register" ? 1 << o.register : 0);

function afterCall(code: DecodedCode, i: number, mask: number, around: Around): number {
  const target = code.targets[i]!;
  if (!Number.isNaN(target)) {
    // A call of the own inside may have any reason.
    if (target > code.start && target < code.end) return LOST;
    return mask & ~around.clobbered(target as Vaddr);
  }
  const [operand] = stepAt(code, i).operands;
  return operand !== undefined && addresses(operand, mask) ? LOST : mask & ~ALL_CLOBBERED;
}

/** Whether an operand is memory at an address made of any of some registers, a bit each. */
const addresses = (o: Operand, mask: number): boolean =>
  o.kind === "memory" &&
  ((o.base >= 0 && (mask & (1 << o.base)) !== 0) || (o.index >= 0 && (mask & (1 << o.index)) !== 0));

/** What is held after an instruction that is no transfer, or LOST. */
function afterStep(
  code: DecodedCode,
  i: number,
  mask: number,
  fixed: boolean,
  isSlot: (place: MemoryOperand) => boolean,
): number {
  const step = stepAt(code, i);
  const { operation, operands } = step;
  if (operands.some((o) => addresses(o, mask))) return LOST;
  const [first, second] = operands;
  const holds = (o: Operand | undefined): boolean => (bit(o) & mask) !== 0;
  switch (operation) {
    case "compare":
    case "jump":
    case "return":
      return mask;
    case "move":
    case "move signed":
      return moved(step, mask, fixed, isSlot);
    case "address":
      return mask & ~bit(first);
    case "xor":
    case "subtract":
      if (first?.kind === "register" && second?.kind === "register" && first.register === second.register)
        return first.size >= 4 ? mask & ~bit(first) : LOST;
      return operands.some(holds) ? LOST : mask;
    case "exchange": {
      if (!operands.some(holds)) return mask;
      if (first?.kind !== "register" || second?.kind !== "register" || first.size !== 8) return LOST;
      const rest = mask & ~bit(first) & ~bit(second);
      return rest | (holds(first) ? bit(second) : 0) | (holds(second) ? bit(first) : 0);
    }
    case "conditional move":
      if (!holds(second)) return mask;
      return first?.kind === "register" && first.size === 8 ? mask | bit(first) : LOST;
    case "set condition":
      // Of what it leaves the rest is an address still, unless the next one takes this byte alone.
      if (!holds(first)) return mask;
      return isWidened(code, i, first!) ? mask & ~bit(first) : LOST;
    case "push":
      // What lies on the stack may be computed with there, and come back.
      return holds(first) ? LOST : mask;
    case "pop":
      return mask & ~bit(first);
    case "system call":
      return mask & ~((1 << 0) | (1 << 1) | (1 << 11));
    case "other":
      return others(step, mask);
    default:
      return operands.some(holds) ? LOST : mask;
  }
}

function moved({ operands }: Step, mask: number, fixed: boolean, isSlot: (place: MemoryOperand) => boolean): number {
  const [first, second] = operands;
  const isHeld = (bit(second) & mask) !== 0;
  if (isHeld && second?.kind === "register" && second.size !== 8 && !(fixed && second.size === 4)) return LOST;
  if (first?.kind === "memory") return isHeld && isSlot(first) ? LOST : mask;
  if (first?.kind !== "register") return isHeld ? LOST : mask;
  if (isHeld) return first.size >= 4 ? mask | bit(first) : LOST;
  // A part of a register: the rest is an address still.
  if (first.size < 4) return mask & bit(first) ? LOST : mask;
  return mask & ~bit(first);
}

/** setcc %al; movzx %al, %eax */
function isWidened(code: DecodedCode, i: number, set: Operand): boolean {
  if (i + 1 >= code.count || code.flow[i + 1]! !== 0) return false;
  const { operation, operands } = stepAt(code, i + 1);
  const [first, second] = operands;
  return (
    operation === "move" &&
    first?.kind === "register" &&
    first.size >= 4 &&
    second?.kind === "register" &&
    second.size === 1 &&
    !second.high &&
    first.register === second.register &&
    bit(first) === bit(set)
  );
}

/** Between vector registers and memory an address goes as it is; into a register it does not come back unseen. */
function others({ operands, reads, writes, vectors }: Step, mask: number): number {
  if (mask & VECTORS && vectors === "adds") return LOST;
  const isIntoVector = writes === 0 && operands.length >= 2 && operands[0]!.kind === "other";
  if (reads & mask) {
    const isMove = isIntoVector && operands.length === 2 && operands[1]!.kind === "register" && operands[1]!.size === 8;
    return isMove ? mask | VECTORS : LOST;
  }
  if (mask & VECTORS && writes !== 0 && operands.some((o) => o.kind === "other")) return LOST;
  return mask & ~writes;
}

const makesCode = ({ operation, operands }: Step, fixed: boolean): boolean =>
  (operation === "address" && operands[1]!.kind === "memory" && operands[1]!.isRipRelative) ||
  (fixed && operation === "move" && operands[0]!.kind === "register" && operands[1]!.kind === "number");

/** Whether an instruction has a constant that may be an address: no distance from where it stands. */
const namesNumber = ({ operation, operands }: Step): boolean =>
  operation !== "compare" &&
  operation !== "call" &&
  operation !== "jump" &&
  operands.some(
    (o) =>
      (o.kind === "number" && Math.abs(o.value) > 0xffff) ||
      (o.kind === "memory" && !o.isRipRelative && Math.abs(o.displacement) > 0xffff),
  );

/** Whether a constant goes to memory as it is, and to no slot. */
const isHandedOn = ({ operation, operands: [first] }: Step, isSlot: (place: MemoryOperand) => boolean): boolean =>
  operation === "move" && first?.kind === "memory" && !isSlot(first);
