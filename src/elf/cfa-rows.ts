/**
 * Where an unwinder finds the caller's frame, for every address of a function: the rows of the table that the call
 * frame instructions of an FDE stand for, cut down to their first column, the CFA (canonical frame address).
 *
 * On x86-64 the CFA is rsp before the call that entered the function plus 0: what rsp is at the function's first
 * instruction, plus 8. A row gives it as a register plus an offset, or as an expression, which is not evaluated here.
 *
 * Specification: DWARF 5 section 6.4.1; System V ABI, AMD64 supplement, figure 3.36 for the register numbers.
 */

import { type Vaddr, vaddr } from "../address.js";
import { upperBound } from "../sorted.js";
import { type CallFrameSink, IGNORED, walkCallFrames } from "./call-frames.js";
import type { CallFrameProgram } from "./eh-frame.js";

/** DWARF's numbers of the registers that hold frames. */
export const DWARF_RBP = 6;
export const DWARF_RSP = 7;
/** The CFA of the row is an expression. */
const CFA_EXPRESSION = -1;

/** Rows in ascending order; each holds up to the next one, the last up to the end of the range. */
export interface CfaRows {
  readonly starts: readonly Vaddr[];
  /** A DWARF register number, or CFA_EXPRESSION. */
  readonly registers: readonly number[];
  /** CFA = register + offset, in bytes. */
  readonly offsets: readonly number[];
}

/** The index of the row that holds at an address of the range, or -1. */
export function rowAt(rows: CfaRows, address: number): number {
  return upperBound(rows.starts, address) - 1;
}

/** @throws InputError where the instructions are damaged */
export function readCfaRows(program: CallFrameProgram): CfaRows {
  const starts: Vaddr[] = [];
  const registers: number[] = [];
  const offsets: number[] = [];
  let register = CFA_EXPRESSION;
  let offset = 0;
  let location: number = program.start;
  const emit = (): void => {
    const last = starts.length - 1;
    if (last >= 0 && starts[last]! === location) {
      registers[last] = register;
      offsets[last] = offset;
    } else if (last < 0 || registers[last] !== register || offsets[last] !== offset) {
      starts.push(vaddr(location));
      registers.push(register);
      offsets.push(offset);
    }
  };
  const remembered: [register: number, offset: number][] = [];
  const sink: CallFrameSink = {
    ...IGNORED,
    moveTo: (address) => {
      emit();
      location = address;
    },
    defineCfa: (newRegister, newOffset) => {
      register = newRegister;
      offset = newOffset;
    },
    cfaRegister: (newRegister) => {
      register = newRegister;
    },
    cfaOffset: (newOffset) => {
      offset = newOffset;
    },
    cfaExpression: () => {
      register = CFA_EXPRESSION;
      offset = 0;
    },
    rememberState: () => remembered.push([register, offset]),
    restoreState: () => {
      [register, offset] = remembered.pop() ?? [register, offset];
    },
  };
  walkCallFrames(program.initial, program, location, sink);
  walkCallFrames(program.instructions, program, location, sink);
  emit();
  return { starts, registers, offsets };
}
