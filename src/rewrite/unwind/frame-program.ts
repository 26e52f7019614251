/**
 * Call frame instructions that say of each stretch of new code what those of the input say of its origin.
 *
 * The new FDE has the CIE of its origin, so what the CIE says in the beginning need not be said again, and factors and
 * encodings are the same. From one stretch to the next only what differs is written.
 */
import type { RegisterRule } from "../../elf/call-frames.js";
import { DWARF_RSP } from "../../elf/cfa-rows.js";
import { loweredExpression } from "../../elf/dwarf-expressions.js";
import { type FrameState, isSameRule } from "../../elf/frame-states.js";
import { encodeSleb, encodeUleb } from "../../elf/leb128.js";

const DW_CFA_advance_loc = 0x40;
const DW_CFA_offset = 0x80;
const DW_CFA_restore = 0xc0;
const DW_CFA_advance_loc1 = 0x02;
const DW_CFA_advance_loc2 = 0x03;
const DW_CFA_advance_loc4 = 0x04;
const DW_CFA_restore_extended = 0x06;
const DW_CFA_undefined = 0x07;
const DW_CFA_same_value = 0x08;
const DW_CFA_register = 0x09;
const DW_CFA_def_cfa = 0x0c;
const DW_CFA_def_cfa_expression = 0x0f;
const DW_CFA_expression = 0x10;
const DW_CFA_offset_extended_sf = 0x11;
const DW_CFA_def_cfa_sf = 0x12;
const DW_CFA_val_offset_sf = 0x15;
const DW_CFA_val_expression = 0x16;
const DW_CFA_GNU_args_size = 0x2e;

/** The factors of a CIE. */
interface Factors {
  readonly codeAlignment: number;
  readonly dataAlignment: number;
}

export interface ProgramRow {
  readonly start: number;
  readonly state: FrameState;
}

/**
 * The state of a place where rsp is `lower` bytes lower and nothing else differs; undefined where that is not certain.
 * @param hasHandlers whether the function has landing pads: they get rsp as it is at the place that an exception comes
 * from,
 *     without the arguments that have been pushed there, and so without what it is lower here
 */
export function loweredState(origin: FrameState, lower: number, hasHandlers: boolean): FrameState | undefined {
  const { cfa } = origin;
  if (cfa === undefined) return undefined;
  const state: FrameState = { ...origin, argsSize: origin.argsSize + (hasHandlers ? lower : 0) };
  const rules = new Map<number, RegisterRule>();
  for (const [register, rule] of state.rules) {
    if (rule.kind === "register" && rule.register === DWARF_RSP && lower > 0) return undefined;
    if (rule.kind !== "expression" && rule.kind !== "val_expression") rules.set(register, rule);
    else {
      const expression = loweredExpression(rule.expression, lower);
      if (expression === undefined) return undefined;
      rules.set(register, { kind: rule.kind, expression });
    }
  }
  if (cfa.kind === "register")
    return { ...state, rules, cfa: cfa.register === DWARF_RSP ? { ...cfa, offset: cfa.offset + lower } : cfa };
  const expression = loweredExpression(cfa.expression, lower);
  return expression && { ...state, rules, cfa: { kind: "expression", expression } };
}

/**
 * The instructions of an FDE that begins at the first row's start.
 * @param initial what the CIE says
 * @returns undefined where the CIE's factors have no way to say it
 */
export function encodeFrameProgram(
  rows: readonly ProgramRow[],
  initial: FrameState,
  factors: Factors,
): Uint8Array | undefined {
  const out: number[] = [];
  let state = initial;
  let location = rows[0]?.start ?? 0;
  for (const row of rows) {
    const change = encodeChange(state, row.state, initial, factors.dataAlignment);
    if (change === undefined) return undefined;
    if (change.length === 0) continue;
    const distance = (row.start - location) / factors.codeAlignment;
    if (!Number.isInteger(distance)) return undefined;
    out.push(...encodeAdvance(distance), ...change);
    location = row.start;
    state = row.state;
  }
  return Uint8Array.from(out);
}

function encodeAdvance(distance: number): number[] {
  if (distance === 0) return [];
  if (distance < 0x40) return [DW_CFA_advance_loc | distance];
  if (distance < 0x100) return [DW_CFA_advance_loc1, distance];
  if (distance < 0x10000) return [DW_CFA_advance_loc2, distance & 0xff, distance >> 8];
  return [DW_CFA_advance_loc4, ...[0, 8, 16, 24].map((shift) => (distance >>> shift) & 0xff)];
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function encodeChange(
  from: FrameState,
  to: FrameState,
  initial: FrameState,
  dataAlignment: number,
): number[] | undefined {
  const out: number[] = [];
  const { cfa } = to;
  if (cfa === undefined) return undefined;
  const isSameCfa =
    from.cfa?.kind === "register" && cfa.kind === "register"
      ? from.cfa.register === cfa.register && from.cfa.offset === cfa.offset
      : from.cfa?.kind === "expression" && cfa.kind === "expression" && sameBytes(from.cfa.expression, cfa.expression);
  if (!isSameCfa) {
    if (cfa.kind === "expression") out.push(DW_CFA_def_cfa_expression, ...block(cfa.expression));
    else if (cfa.offset >= 0) out.push(DW_CFA_def_cfa, ...encodeUleb(cfa.register), ...encodeUleb(cfa.offset));
    else {
      const factored = cfa.offset / dataAlignment;
      if (!Number.isInteger(factored)) return undefined;
      out.push(DW_CFA_def_cfa_sf, ...encodeUleb(cfa.register), ...encodeSleb(factored));
    }
  }
  const registers = new Set([...from.rules.keys(), ...to.rules.keys()]);
  for (const register of [...registers].sort((a, b) => a - b)) {
    const rule = to.rules.get(register);
    if (isSameRule(from.rules.get(register), rule)) continue;
    const bytes = rule === undefined ? encodeNoRule(register, initial) : encodeRule(register, rule, dataAlignment);
    if (bytes === undefined) return undefined;
    out.push(...bytes);
  }
  if (from.argsSize !== to.argsSize) out.push(DW_CFA_GNU_args_size, ...encodeUleb(to.argsSize));
  return out;
}

const block = (bytes: Uint8Array): number[] => [...encodeUleb(bytes.length), ...bytes];

/**
 * A register without a rule where it had one. Only restore says that, and where the CIE has one for it not even that.
 */
function encodeNoRule(register: number, initial: FrameState): number[] | undefined {
  if (initial.rules.has(register)) return undefined;
  return register < 0x40 ? [DW_CFA_restore | register] : [DW_CFA_restore_extended, ...encodeUleb(register)];
}

function encodeRule(register: number, rule: RegisterRule, dataAlignment: number): number[] | undefined {
  const number = encodeUleb(register);
  switch (rule.kind) {
    case "undefined":
      return [DW_CFA_undefined, ...number];
    case "same value":
      return [DW_CFA_same_value, ...number];
    case "register":
      return [DW_CFA_register, ...number, ...encodeUleb(rule.register)];
    case "expression":
      return [DW_CFA_expression, ...number, ...block(rule.expression)];
    case "val_expression":
      return [DW_CFA_val_expression, ...number, ...block(rule.expression)];
  }
  const factored = rule.offset / dataAlignment;
  if (!Number.isInteger(factored)) return undefined;
  if (rule.kind === "val_offset") return [DW_CFA_val_offset_sf, ...number, ...encodeSleb(factored)];
  return factored >= 0 && register < 0x40
    ? [DW_CFA_offset | register, ...encodeUleb(factored)]
    : [DW_CFA_offset_extended_sf, ...number, ...encodeSleb(factored)];
}
