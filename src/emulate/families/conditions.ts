/**
 * The sixteen conditions of jcc, setcc and cmovcc (Intel SDM vol. 1, appendix B), by iced's ConditionCode.
 */
import { iced } from "../../x86/iced.js";
import type { Cpu } from "../cpu.js";
import { FC, FO, FP, FS, FZ, parity } from "../state.js";

export type Condition = (cpu: Cpu) => boolean;

const { ConditionCode } = iced;

const conditions = new Map<number, Condition>([
  [ConditionCode.o, ({ w }) => w[FO]! < 0],
  [ConditionCode.no, ({ w }) => w[FO]! >= 0],
  [ConditionCode.b, ({ w }) => w[FC] !== 0],
  [ConditionCode.ae, ({ w }) => w[FC] === 0],
  [ConditionCode.e, ({ w }) => w[FZ] === 0],
  [ConditionCode.ne, ({ w }) => w[FZ] !== 0],
  [ConditionCode.be, ({ w }) => w[FC] !== 0 || w[FZ] === 0],
  [ConditionCode.a, ({ w }) => w[FC] === 0 && w[FZ] !== 0],
  [ConditionCode.s, ({ w }) => w[FS]! < 0],
  [ConditionCode.ns, ({ w }) => w[FS]! >= 0],
  [ConditionCode.p, ({ w }) => parity(w[FP]!)],
  [ConditionCode.np, ({ w }) => !parity(w[FP]!)],
  [ConditionCode.l, ({ w }) => (w[FS]! ^ w[FO]!) < 0],
  [ConditionCode.ge, ({ w }) => (w[FS]! ^ w[FO]!) >= 0],
  [ConditionCode.le, ({ w }) => w[FZ] === 0 || (w[FS]! ^ w[FO]!) < 0],
  [ConditionCode.g, ({ w }) => w[FZ] !== 0 && (w[FS]! ^ w[FO]!) >= 0],
]);

/** @throws RangeError for ConditionCode.None */
export function conditionOf(code: number): Condition {
  const condition = conditions.get(code);
  if (condition === undefined) throw new RangeError(`no condition: ${code}`);
  return condition;
}
