/**
 * Where memory operands lead, and who is told of loads.
 */
import { type Instruction, iced, ripAddress } from "./decode.js";
import type { Program } from "./program.js";
import type { State } from "./state.js";
import { Atom, SOMEWHERE, type Value } from "./values.js";
import { generals } from "./writes.js";

const { Register } = iced;

/** Where a memory operand may be. */
export interface Place {
  /** Numbers, and from one entry to the next where an index is added; 0 where none is. */
  readonly exact: readonly number[];
  readonly stride: number;
  readonly stack: readonly Atom[];
  /** Somewhere in data: at an address of it and an index. */
  readonly inData?: boolean;
  /** It may be anywhere else, too. */
  readonly other: boolean;
}

/** What the step tells of loads. */
export interface Loads {
  /** Code at this address is read as data. */
  readCode(address: number): void;
  /** A value is put where others may find it. */
  handOn(value: Value): void;
  /** The stack is read at this place. */
  readStack(place: Atom): void;
}

const ELSEWHERE: Place = { exact: [], stride: 0, stack: [], other: true };

/** Where an instruction's memory operand may be. */
export function placeOf(program: Program, i: Instruction, state: State): Place {
  const segment = i.memorySegment;
  if (segment === Register.FS || segment === Register.GS) return ELSEWHERE;
  if (i.isIpRelMemoryOperand) return { exact: [ripAddress(i)], stride: 0, stack: [], other: false };
  const base = generals[i.memoryBase];
  const index = generals[i.memoryIndex];
  const displacement = Number(BigInt.asIntN(64, i.memoryDisplacement));
  const isTable = program.isFixed && program.isImage(displacement);
  if (index === undefined) {
    if (base === undefined) return { exact: [displacement], stride: 0, stack: [], other: false };
    const found = placesOf(state.registers[base.index]!, displacement);
    // In fixed programs the displacement may be the table, and the register what was scaled already.
    return isTable && found.other ? { ...found, exact: [...found.exact, displacement], stride: 1 } : found;
  }
  const scale = i.memoryIndexScale;
  const indices = state.registers[index.index]!;
  if (base === undefined)
    return isTable ? { exact: [displacement], stride: scale, stack: [], other: false } : ELSEWHERE;
  const bases = state.registers[base.index]!;
  const exact: number[] = [];
  let other = false;
  let onStack = false;
  for (const { kind, n, flag } of scale === 1 ? [...bases, ...indices] : bases) {
    if (kind === "number" && flag && program.isImage(n + displacement)) exact.push(n + displacement);
    else if (kind === "stack") onStack = true;
    else if (kind !== "number") other = true;
  }
  if (isTable) exact.push(displacement);
  return { exact, stride: scale, stack: onStack ? [SOMEWHERE] : [], other: other && exact.length === 0 };
}

/** Where a register leads to, and so far from there. */
export function placesOf(value: Value, displacement: number): Place {
  const exact: number[] = [];
  const stack: Atom[] = [];
  let other = false;
  let inData = false;
  for (const atom of value) {
    if (atom.kind === "number") exact.push(atom.n + displacement);
    else if (atom.kind === "data" && !atom.flag) inData = true;
    else if (atom.kind === "stack")
      stack.push(displacement === 0 ? atom : new Atom("stack", atom.n + displacement, false, atom.extra));
    else other = true;
  }
  return { exact, stride: 0, stack, inData, other };
}
