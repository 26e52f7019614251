/**
 * Where an unwinder finds the caller's frame, for every address of a function: the rows of the table that the call frame
 * instructions of an FDE stand for, cut down to their first column, the CFA (canonical frame address).
 *
 * On x86-64 the CFA is rsp before the call that entered the function plus 0: what rsp is at the function's first
 * instruction, plus 8. A row gives it as a register plus an offset, or as an expression, which is not evaluated here.
 *
 * Specification: DWARF 5 section 6.4; System V ABI, AMD64 supplement, figure 3.36 for the register numbers.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import type { EhCursor } from "./eh-cursor.js";
import type { CallFrameProgram } from "./eh-frame.js";

/** DWARF's numbers of the registers that hold frames. */
export const DWARF_RBP = 6;
export const DWARF_RSP = 7;
/** The CFA of the row is an expression. */
export const CFA_EXPRESSION = -1;

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
  let low = 0;
  let high = rows.starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows.starts[middle]! <= address) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

interface Rule {
  register: number;
  offset: number;
}

/** @throws InputError where the instructions are damaged */
export function readCfaRows(program: CallFrameProgram): CfaRows {
  const starts: Vaddr[] = [];
  const registers: number[] = [];
  const offsets: number[] = [];
  const rule: Rule = { register: CFA_EXPRESSION, offset: 0 };
  let location: number = program.start;
  const emit = (): void => {
    const last = starts.length - 1;
    if (last >= 0 && starts[last]! === location) {
      registers[last] = rule.register;
      offsets[last] = rule.offset;
    } else if (last < 0 || registers[last] !== rule.register || offsets[last] !== rule.offset) {
      starts.push(vaddr(location));
      registers.push(rule.register);
      offsets.push(rule.offset);
    }
  };
  const moveTo = (address: number): void => {
    emit();
    location = address;
  };
  const remembered: Rule[] = [];
  for (const cursor of [program.initial, program.instructions]) {
    while (cursor.at < cursor.end) step(cursor, program, rule, remembered, () => location, moveTo);
  }
  emit();
  return { starts, registers, offsets };
}

function step(
  cursor: EhCursor,
  program: CallFrameProgram,
  rule: Rule,
  remembered: Rule[],
  location: () => number,
  moveTo: (address: number) => void,
): void {
  const op = cursor.u8();
  const advance = (by: number): void => moveTo(location() + by * program.codeAlignment);
  if (op >= 0xc0) return; // DW_CFA_restore
  if (op >= 0x80) {
    cursor.uleb(); // DW_CFA_offset
    return;
  }
  if (op >= 0x40) {
    advance(op & 0x3f);
    return;
  }
  switch (op) {
    case 0x00: // nop
    case 0x2d: // GNU_window_save
      return;
    case 0x01: // set_loc
      moveTo(cursor.pointer(program.fdeEncoding) ?? location());
      return;
    case 0x02:
      advance(cursor.u8());
      return;
    case 0x03:
      advance(cursor.u16());
      return;
    case 0x04:
      advance(cursor.u32());
      return;
    case 0x0a: // remember_state
      remembered.push({ ...rule });
      return;
    case 0x0b: // restore_state
      Object.assign(rule, remembered.pop());
      return;
    case 0x0c: // def_cfa
      rule.register = cursor.uleb();
      rule.offset = cursor.uleb();
      return;
    case 0x12: // def_cfa_sf
      rule.register = cursor.uleb();
      rule.offset = cursor.sleb() * program.dataAlignment;
      return;
    case 0x0d: // def_cfa_register
      rule.register = cursor.uleb();
      return;
    case 0x0e: // def_cfa_offset
      rule.offset = cursor.uleb();
      return;
    case 0x13: // def_cfa_offset_sf
      rule.offset = cursor.sleb() * program.dataAlignment;
      return;
    case 0x0f: // def_cfa_expression
      cursor.skip(cursor.uleb());
      rule.register = CFA_EXPRESSION;
      rule.offset = 0;
      return;
    case 0x06: // restore_extended
    case 0x07: // undefined
    case 0x08: // same_value
    case 0x2e: // GNU_args_size
      cursor.uleb();
      return;
    case 0x05: // offset_extended
    case 0x09: // register
    case 0x14: // val_offset
    case 0x2f: // GNU_negative_offset_extended
      cursor.uleb();
      cursor.uleb();
      return;
    case 0x11: // offset_extended_sf
    case 0x15: // val_offset_sf
      cursor.uleb();
      cursor.sleb();
      return;
    case 0x10: // expression
    case 0x16: // val_expression
      cursor.uleb();
      cursor.skip(cursor.uleb());
      return;
    default:
      throw new InputError(
        `damaged .eh_frame: unknown call frame instruction ${hex(op)}`,
        `offset ${hex(cursor.at - 1)}`,
      );
  }
}
