/**
 * Whether a function may do something else with its return address than return to it.
 *
 * Nothing in the ABI forbids it: dlsym, getters of the caller, tests of who calls, data after a call. A call that runs
 * at another address has another return address, and such a function would notice. So a call moves only to where all of
 * the callee's code is known, and none of it reads or names the word at [CFA - 8] but by `ret`.
 *
 * What is followed: the function's own ranges and those that it goes on to by direct jumps. An indirect jump or one to
 * a function of another file leaves it open. What is assumed: an access with an index goes to the object that it begins
 * in, and the functions that the callee calls do not look further up than their own frame, unwinders apart.
 */
import { hex, type Vaddr } from "../address.js";
import { type CfaRows, DWARF_RBP, DWARF_RSP, rowAt } from "../elf/cfa-rows.js";
import { addressOf, type DecodedCode, Flow } from "../x86/decode.js";
import { Access, type Effects, effectsOf, Kind, NONE, RBP, RSP } from "../x86/effects.js";
import type { ComputedTargets } from "./computed-targets.js";
import type { CodeRange, FunctionIndex } from "./functions.js";

const RETURN_ADDRESS_SIZE = 8;
/** A function goes on in no more ranges than this, or nobody knows. */
const MOST_RANGES = 8;

/**
 * Why a function may look at its return address, or undefined where it does not. @throws InputError where .eh_frame is
 * damaged
 */
export function looksAtReturnAddress(
  functions: FunctionIndex,
  computed: ComputedTargets,
  callee: Vaddr,
): string | undefined {
  const seen = new Set<number>();
  const todo: Vaddr[] = [callee];
  for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
    const range = functions.containing(at);
    if (range === undefined) return `its callee is not known at ${hex(at)}`;
    if (seen.has(range.index)) continue;
    if (seen.add(range.index).size > MOST_RANGES) return "its callee goes on in too many places";
    const code = functions.code(range);
    const rows = functions.cfaRows(range);
    if (code.unclean !== undefined) return `its callee at ${hex(range.start)} cannot be decoded`;
    if (rows === undefined) return `its callee at ${hex(range.start)} has no unwind information`;
    const obstacle = rangeObstacle(range, code, rows, todo);
    if (obstacle !== undefined) return obstacle;
    const { flow } = computed.groupOf(range);
    if (flow === undefined) return `its callee at ${hex(range.start)} cannot be followed`;
    if (flow.looksAtReturn !== undefined)
      return `its callee looks at its return address, at ${hex(flow.looksAtReturn)}`;
  }
  return undefined;
}

/** @param todo gets the places at which the function goes on */
function rangeObstacle(range: CodeRange, code: DecodedCode, rows: CfaRows, todo: Vaddr[]): string | undefined {
  const effects = effectsOf(code);
  for (let i = 0; i < code.count; i++) {
    const at = addressOf(code, i);
    const flow = code.flow[i]!;
    if (flow & Flow.IndirectJump) return `its callee goes on at a place that is not known, from ${hex(at)}`;
    const target = code.targets[i]!;
    if (flow & (Flow.Jump | Flow.Conditional) && (target < range.start || target >= range.end))
      todo.push(target as Vaddr);
    if (!(flow & Flow.Return) && touchesReturnAddress(effects, i, rows, at))
      return `its callee looks at its return address, at ${hex(at)}`;
  }
  return undefined;
}

function touchesReturnAddress(effects: Effects, i: number, rows: CfaRows, at: Vaddr): boolean {
  const row = rowAt(rows, at);
  if (row < 0) return true;
  /** Where a register and a displacement point, in bytes from the CFA; undefined where the row does not tell. */
  const fromCfa = (register: number, displacement: number): number | undefined => {
    const base = rows.registers[row];
    if ((base === DWARF_RSP && register === RSP) || (base === DWARF_RBP && register === RBP))
      return displacement - rows.offsets[row]!;
    return undefined;
  };
  const overlaps = (start: number | undefined, size: number): boolean =>
    start !== undefined && start < 0 && start + size > -RETURN_ADDRESS_SIZE;
  const kind = effects.kind[i];
  if (kind === Kind.Pop && overlaps(fromCfa(RSP, 0), RETURN_ADDRESS_SIZE)) return true;
  if (kind === Kind.Add && effects.target[i] !== RSP && overlaps(fromCfa(effects.source[i]!, effects.constant[i]!), 1))
    return true;
  for (let a = effects.firstAccess[i]!; a < effects.firstAccess[i + 1]!; a++) {
    const mode = effects.mode[a]!;
    if (mode & Access.Write && !(mode & Access.Read)) continue;
    const isWide = mode & Access.Read && effects.index[a] === NONE && !(mode & Access.Vague);
    if (overlaps(fromCfa(effects.base[a]!, effects.displacement[a]!), isWide ? effects.size[a]! : 1)) return true;
  }
  return false;
}
