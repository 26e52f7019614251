/**
 * The whole unwind table of a function: at every address how to find the caller's frame and each saved register.
 *
 * cfa-rows.ts has its first column, for those who ask about rsp; this has all of them, for those who write such rows again
 * somewhere else. Two states are equal if and only if `stateKey` is.
 *
 * DW_CFA_restore gives a register back the rule of the CIE. libgcc takes it for "no rule" instead; compilers use it for
 * registers without one there, where it is the same. remember_state and restore_state keep the CFA and all rules, not the
 * size of pushed arguments (libgcc keeps that elsewhere).
 *
 * Specification: DWARF 5 section 6.4; LSB 5.0 for DW_CFA_GNU_args_size.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import type { EhCursor } from "./eh-cursor.js";
import type { CallFrameProgram } from "./eh-frame.js";

/** How one register of the caller is found. Offsets are in bytes, relative to the CFA. */
export type RegisterRule =
  | { readonly kind: "undefined" | "same value" }
  | { readonly kind: "offset" | "val_offset"; readonly offset: number }
  | { readonly kind: "register"; readonly register: number }
  | { readonly kind: "expression" | "val_expression"; readonly expression: Uint8Array };

export type CfaRule =
  | { readonly kind: "register"; readonly register: number; readonly offset: number }
  | { readonly kind: "expression"; readonly expression: Uint8Array };

/** One row. Rules are by DWARF's register numbers; a register without one keeps its value, as the ABI has it. */
export interface FrameState {
  readonly cfa: CfaRule | undefined;
  readonly rules: ReadonlyMap<number, RegisterRule>;
  /** Bytes of arguments that have been pushed: a landing pad gets rsp back without them. */
  readonly argsSize: number;
}

export interface FrameRow {
  readonly start: Vaddr;
  readonly state: FrameState;
}

/** All rows of an FDE, ascending; each holds up to the next one. */
export interface FrameTable {
  /** What the CIE says, before the FDE's own instructions. */
  readonly initial: FrameState;
  readonly rows: readonly FrameRow[];
}

/** The state that holds at an address of the range. */
export function stateAt({ rows, initial }: FrameTable, address: number): FrameState {
  let found = initial;
  for (const { start, state } of rows) {
    if (start > address) break;
    found = state;
  }
  return found;
}

/** A text that is the same for equal states, and only for those. */
export function stateKey({ cfa, rules, argsSize }: FrameState): string {
  const bytes = (b: Uint8Array): string => Buffer.from(b).toString("hex");
  const rule = (r: RegisterRule): string => {
    switch (r.kind) {
      case "offset":
      case "val_offset":
        return `${r.kind} ${r.offset}`;
      case "register":
        return `register ${r.register}`;
      case "expression":
      case "val_expression":
        return `${r.kind} ${bytes(r.expression)}`;
      default:
        return r.kind;
    }
  };
  const first =
    cfa === undefined ? "none" : cfa.kind === "register" ? `r${cfa.register}+${cfa.offset}` : bytes(cfa.expression);
  const others = [...rules].sort(([a], [b]) => a - b).map(([register, r]) => `r${register}: ${rule(r)}`);
  return [`CFA ${first}`, ...others, ...(argsSize === 0 ? [] : [`args ${argsSize}`])].join(", ");
}

function isSameState(a: FrameState, b: FrameState): boolean {
  if (a.rules.size !== b.rules.size || a.argsSize !== b.argsSize || !isSameCfa(a.cfa, b.cfa)) return false;
  for (const [register, rule] of a.rules) if (!isSameRule(rule, b.rules.get(register))) return false;
  return true;
}

const isSameCfa = (a: CfaRule | undefined, b: CfaRule | undefined): boolean =>
  a === b ||
  (a?.kind === "register" && b?.kind === "register"
    ? a.register === b.register && a.offset === b.offset
    : a?.kind === "expression" && b?.kind === "expression" && Buffer.compare(a.expression, b.expression) === 0);

/** Whether two rules say the same; undefined is no rule. */
export function isSameRule(a: RegisterRule | undefined, b: RegisterRule | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined || a.kind !== b.kind) return false;
  if ("offset" in a && "offset" in b) return a.offset === b.offset;
  if ("register" in a && "register" in b) return a.register === b.register;
  return "expression" in a && "expression" in b ? Buffer.compare(a.expression, b.expression) === 0 : true;
}

interface Machine {
  cfa: CfaRule | undefined;
  rules: Map<number, RegisterRule>;
  argsSize: number;
}

/** @throws InputError where the instructions are damaged */
export function readFrameTable(program: CallFrameProgram): FrameTable {
  const machine: Machine = { cfa: undefined, rules: new Map(), argsSize: 0 };
  const snapshot = (): FrameState => ({ ...machine, rules: new Map(machine.rules) });
  const rows: FrameRow[] = [];
  const remembered: Machine[] = [];
  let location: number = program.start;
  const emit = (): void => {
    const state = snapshot();
    const last = rows.at(-1);
    if (last !== undefined && last.start === location) rows[rows.length - 1] = { start: last.start, state };
    else if (last === undefined || !isSameState(last.state, state)) rows.push({ start: vaddr(location), state });
  };
  const moveTo = (address: number): void => {
    if (address < location) damagedAt(program.instructions, "the location goes back");
    emit();
    location = address;
  };
  const none: FrameState = { cfa: undefined, rules: new Map(), argsSize: 0 };
  const walk = (cursor: EhCursor, initial: FrameState): void => {
    while (cursor.at < cursor.end) step(cursor, program, machine, initial, remembered, () => location, moveTo);
  };
  walk(program.initial, none);
  const initial = snapshot();
  walk(program.instructions, initial);
  emit();
  return { initial, rows };
}

function damagedAt(cursor: EhCursor, what: string): never {
  throw new InputError(`damaged .eh_frame: ${what}`, `offset ${hex(cursor.at)}`);
}

function step(
  cursor: EhCursor,
  { codeAlignment, dataAlignment, fdeEncoding }: CallFrameProgram,
  machine: Machine,
  initial: FrameState,
  remembered: Machine[],
  location: () => number,
  moveTo: (address: number) => void,
): void {
  const op = cursor.u8();
  const { rules } = machine;
  const advance = (by: number): void => moveTo(location() + by * codeAlignment);
  const expression = (): Uint8Array => {
    const size = cursor.uleb();
    const at = cursor.at;
    cursor.skip(size);
    return new Uint8Array(cursor.view.buffer, cursor.view.byteOffset + at, size).slice();
  };
  const restore = (register: number): void => {
    const rule = initial.rules.get(register);
    if (rule === undefined) rules.delete(register);
    else rules.set(register, rule);
  };
  const cfaOffset = (offset: number): void => {
    if (machine.cfa?.kind !== "register") damagedAt(cursor, "an offset for a CFA that goes by no register");
    machine.cfa = { ...machine.cfa, offset };
  };
  const offset = (register: number, by: number): void => {
    rules.set(register, { kind: "offset", offset: by * dataAlignment });
  };
  if (op >= 0xc0) {
    restore(op & 0x3f);
    return;
  }
  if (op >= 0x80) {
    offset(op & 0x3f, cursor.uleb());
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
      moveTo(cursor.pointer(fdeEncoding) ?? location());
      return;
    case 0x02: // advance_loc1, 2, 4
      advance(cursor.u8());
      return;
    case 0x03:
      advance(cursor.u16());
      return;
    case 0x04:
      advance(cursor.u32());
      return;
    case 0x05: // offset_extended
      offset(cursor.uleb(), cursor.uleb());
      return;
    case 0x06: // restore_extended
      restore(cursor.uleb());
      return;
    case 0x07:
      rules.set(cursor.uleb(), { kind: "undefined" });
      return;
    case 0x08:
      rules.set(cursor.uleb(), { kind: "same value" });
      return;
    case 0x09: {
      const register = cursor.uleb();
      rules.set(register, { kind: "register", register: cursor.uleb() });
      return;
    }
    case 0x0a: // remember_state
      remembered.push({ ...machine, rules: new Map(rules) });
      return;
    case 0x0b: {
      const state = remembered.pop();
      if (state === undefined) damagedAt(cursor, "a state is restored that was not remembered");
      machine.cfa = state.cfa;
      machine.rules = state.rules;
      return;
    }
    case 0x0c: // def_cfa
      machine.cfa = { kind: "register", register: cursor.uleb(), offset: cursor.uleb() };
      return;
    case 0x0d: {
      const register = cursor.uleb();
      if (machine.cfa?.kind !== "register") damagedAt(cursor, "a register for a CFA that goes by none");
      machine.cfa = { ...machine.cfa, register };
      return;
    }
    case 0x0e: // def_cfa_offset
      cfaOffset(cursor.uleb());
      return;
    case 0x0f:
      machine.cfa = { kind: "expression", expression: expression() };
      return;
    case 0x10:
      rules.set(cursor.uleb(), { kind: "expression", expression: expression() });
      return;
    case 0x11: // offset_extended_sf
      offset(cursor.uleb(), cursor.sleb());
      return;
    case 0x12: // def_cfa_sf
      machine.cfa = { kind: "register", register: cursor.uleb(), offset: cursor.sleb() * dataAlignment };
      return;
    case 0x13:
      cfaOffset(cursor.sleb() * dataAlignment);
      return;
    case 0x14:
      rules.set(cursor.uleb(), { kind: "val_offset", offset: cursor.uleb() * dataAlignment });
      return;
    case 0x15:
      rules.set(cursor.uleb(), { kind: "val_offset", offset: cursor.sleb() * dataAlignment });
      return;
    case 0x16:
      rules.set(cursor.uleb(), { kind: "val_expression", expression: expression() });
      return;
    case 0x2e: // GNU_args_size
      machine.argsSize = cursor.uleb();
      return;
    case 0x2f: // GNU_negative_offset_extended
      offset(cursor.uleb(), -cursor.uleb());
      return;
    default:
      damagedAt(cursor, `unknown call frame instruction ${hex(op)}`);
  }
}
