/**
 * SSE and SSE2: comparing floating-point numbers: cmpps, cmppd, cmpss, cmpsd to masks, comiss, comisd, ucomiss, ucomisd
 * to flags (Intel SDM vol. 2). JavaScript's comparisons are false for a NaN, as "unordered" wants it.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import type { Compile, Family } from "../operands.js";
import { FA, FC, FO, FP, FS, FZ, MXCSR_STALE } from "../state.js";
import { ofXmm, ofXmmImmediate, type XmmOperation } from "../xmm.js";

const { Mnemonic, Code } = iced;

/** The predicate of an immediate's low two bits: eq, lt, le, unord; bit 2 turns the answer round. */
function holds(predicate: number, a: number, b: number): boolean {
  switch (predicate) {
    case 0:
      return a === b;
    case 1:
      return a < b;
    case 2:
      return a <= b;
    default:
      return Number.isNaN(a) || Number.isNaN(b);
  }
}

const compareDouble = (immediate: number): XmmOperation => {
  const predicate = immediate & 3;
  const inverse = immediate & 4 ? -1 : 0;
  return ({ w, f64 }, d, s) => {
    const mask = (holds(predicate, f64[d >> 1]!, f64[s >> 1]!) ? -1 : 0) ^ inverse;
    w[d] = mask;
    w[d + 1] = mask;
  };
};

const compareFloat = (immediate: number): XmmOperation => {
  const predicate = immediate & 3;
  const inverse = immediate & 4 ? -1 : 0;
  return ({ w, f32 }, d, s) => {
    w[d] = (holds(predicate, f32[d]!, f32[s]!) ? -1 : 0) ^ inverse;
  };
};

/** Each of `count` elements, `step` words apart. */
const elements =
  (operationOf: (immediate: number) => XmmOperation, count: number, step: number): Compile =>
  (instruction) =>
    // cmpsd of strings has no immediate
    instruction.code === Code.Cmpsd_m32_m32
      ? undefined
      : ofXmmImmediate((immediate) => {
          const operation = operationOf(immediate);
          return (cpu, d, s) => {
            cpu.w[MXCSR_STALE] = 1;
            for (let i = 0; i < count * step; i += step) operation(cpu, d + i, s + i);
          };
        })(instruction);

/** ZF, PF, CF: 000 greater, 001 less, 100 equal, 111 unordered; OF, SF, AF cleared. */
function setFlags({ w }: Core, a: number, b: number): void {
  w[MXCSR_STALE] = 1;
  const unordered = Number.isNaN(a) || Number.isNaN(b);
  w[FZ] = unordered || a === b ? 0 : 1;
  w[FP] = unordered ? 0 : 1;
  w[FC] = unordered || a < b ? 1 : 0;
  w[FO] = 0;
  w[FS] = 0;
  w[FA] = 0;
}

const flagsOfDoubles: XmmOperation = (cpu, d, s) => setFlags(cpu, cpu.f64[d >> 1]!, cpu.f64[s >> 1]!);
const flagsOfFloats: XmmOperation = (cpu, d, s) => setFlags(cpu, cpu.f32[d]!, cpu.f32[s]!);

export const sseCompare: Family = new Map<number, Compile>([
  [Mnemonic.Cmpsd, elements(compareDouble, 1, 2)],
  [Mnemonic.Cmppd, elements(compareDouble, 2, 2)],
  [Mnemonic.Cmpss, elements(compareFloat, 1, 1)],
  [Mnemonic.Cmpps, elements(compareFloat, 4, 1)],
  [Mnemonic.Comisd, ofXmm(flagsOfDoubles)],
  [Mnemonic.Ucomisd, ofXmm(flagsOfDoubles)],
  [Mnemonic.Comiss, ofXmm(flagsOfFloats)],
  [Mnemonic.Ucomiss, ofXmm(flagsOfFloats)],
]);
