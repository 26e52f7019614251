/**
 * The whole unwind table of a function: at every address how to find the caller's frame and each saved register.
 *
 * cfa-rows.ts has its first column, for those who ask about rsp; this has all of them, for those who write such rows
 * again somewhere else. Two states are equal if and only if `stateKey` is.
 *
 * DW_CFA_restore gives a register back the rule of the CIE. libgcc takes it for "no rule" instead; compilers use it for
 * registers without one there, where it is the same. remember_state and restore_state keep the CFA and all rules, not
 * the size of pushed arguments (libgcc keeps that elsewhere).
 *
 * Specification: DWARF 5 section 6.4; LSB 5.0 for DW_CFA_GNU_args_size.
 */
import { type Vaddr, vaddr } from "../address.js";
import { type RegisterRule, walkCallFrames } from "./call-frames.js";
import { damaged, type EhCursor } from "./eh-cursor.js";
import type { CallFrameProgram } from "./eh-frame.js";

type CfaRule =
  | { readonly kind: "register"; readonly register: number; readonly offset: number }
  | { readonly kind: "expression"; readonly expression: Uint8Array };

/** One row. Rules are by DWARF's register numbers; a register without one keeps its value, as the ABI has it. */
export interface FrameState {
  readonly cfa: CfaRule | undefined;
  readonly rules: ReadonlyMap<number, RegisterRule>;
  /** Bytes of arguments that have been pushed: a landing pad gets rsp back without them. */
  readonly argsSize: number;
}

interface FrameRow {
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

/** @throws InputError where the instructions are damaged */
export function readFrameTable(program: CallFrameProgram): FrameTable {
  let cfa: CfaRule | undefined;
  let rules = new Map<number, RegisterRule>();
  let argsSize = 0;
  let initial: FrameState = { cfa, rules: new Map(), argsSize };
  const snapshot = (): FrameState => ({ cfa, rules: new Map(rules), argsSize });
  const rows: FrameRow[] = [];
  const remembered: FrameState[] = [];
  let location: number = program.start;
  const emit = (): void => {
    const state = snapshot();
    const last = rows.at(-1);
    if (last !== undefined && last.start === location) rows[rows.length - 1] = { start: last.start, state };
    else if (last === undefined || !isSameState(last.state, state)) rows.push({ start: vaddr(location), state });
  };
  const walk = (cursor: EhCursor): void =>
    walkCallFrames(cursor, program, location, {
      moveTo(address) {
        if (address < location) throw damaged("the location goes back", cursor.at);
        emit();
        location = address;
      },
      defineCfa(register, offset) {
        cfa = { kind: "register", register, offset };
      },
      cfaRegister(register) {
        if (cfa?.kind !== "register") throw damaged("a register for a CFA that goes by none", cursor.at);
        cfa = { ...cfa, register };
      },
      cfaOffset(offset) {
        if (cfa?.kind !== "register") throw damaged("an offset for a CFA that goes by no register", cursor.at);
        cfa = { ...cfa, offset };
      },
      cfaExpression(expression) {
        cfa = { kind: "expression", expression };
      },
      rule(register, rule) {
        rules.set(register, rule);
      },
      restore(register) {
        const rule = initial.rules.get(register);
        if (rule === undefined) rules.delete(register);
        else rules.set(register, rule);
      },
      rememberState() {
        remembered.push(snapshot());
      },
      restoreState() {
        const state = remembered.pop();
        if (state === undefined) throw damaged("a state is restored that was not remembered", cursor.at);
        cfa = state.cfa;
        rules = new Map(state.rules);
      },
      argsSize(bytes) {
        argsSize = bytes;
      },
    });
  walk(program.initial);
  initial = snapshot();
  walk(program.instructions);
  emit();
  return { initial, rows };
}
