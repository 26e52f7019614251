/**
 * The sixteen conditions of jcc, setcc and cmovcc (Intel SDM vol. 1, appendix B), by iced's ConditionCode.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { FC, FO, FP, FS, FZ, parity } from "../state.js";

export type Condition = (cpu: Core) => boolean;

const { ConditionCode } = iced;

export const overflow: Condition = ({ w }) => w[FO]! < 0;
export const notOverflow: Condition = ({ w }) => w[FO]! >= 0;
export const below: Condition = ({ w }) => w[FC] !== 0;
export const aboveOrEqual: Condition = ({ w }) => w[FC] === 0;
export const equal: Condition = ({ w }) => w[FZ] === 0;
export const notEqual: Condition = ({ w }) => w[FZ] !== 0;
export const belowOrEqual: Condition = ({ w }) => w[FC] !== 0 || w[FZ] === 0;
export const above: Condition = ({ w }) => w[FC] === 0 && w[FZ] !== 0;
export const sign: Condition = ({ w }) => w[FS]! < 0;
export const notSign: Condition = ({ w }) => w[FS]! >= 0;
export const parityEven: Condition = ({ w }) => parity(w[FP]!);
export const parityOdd: Condition = ({ w }) => !parity(w[FP]!);
export const less: Condition = ({ w }) => (w[FS]! ^ w[FO]!) < 0;
export const greaterOrEqual: Condition = ({ w }) => (w[FS]! ^ w[FO]!) >= 0;
export const lessOrEqual: Condition = ({ w }) => w[FZ] === 0 || (w[FS]! ^ w[FO]!) < 0;
export const greater: Condition = ({ w }) => w[FZ] !== 0 && (w[FS]! ^ w[FO]!) >= 0;

const conditions = new Map<number, Condition>([
  [ConditionCode.o, overflow],
  [ConditionCode.no, notOverflow],
  [ConditionCode.b, below],
  [ConditionCode.ae, aboveOrEqual],
  [ConditionCode.e, equal],
  [ConditionCode.ne, notEqual],
  [ConditionCode.be, belowOrEqual],
  [ConditionCode.a, above],
  [ConditionCode.s, sign],
  [ConditionCode.ns, notSign],
  [ConditionCode.p, parityEven],
  [ConditionCode.np, parityOdd],
  [ConditionCode.l, less],
  [ConditionCode.ge, greaterOrEqual],
  [ConditionCode.le, lessOrEqual],
  [ConditionCode.g, greater],
]);

/** @throws RangeError for ConditionCode.None */
export function conditionOf(code: number): Condition {
  const condition = conditions.get(code);
  if (condition === undefined) throw new RangeError(`no condition: ${code}`);
  return condition;
}
