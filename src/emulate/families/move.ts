/**
 * Moving integers: mov, movabs, lea, movzx, movsx, movsxd, xchg, cmovcc, setcc, bswap, cbw and its kin. No flags
 * change.
 */
import { iced } from "../../x86/iced.js";
import { fusedLea, fusedMove } from "../fused.js";
import type { MemoryOperand } from "../instruction.js";
import {
  addressOf,
  type Compile,
  type Family,
  type Get,
  getOf,
  putBackOf,
  putOf,
  type Step,
  sizeOf,
  updateOf,
} from "../operands.js";
import { Gpr } from "../state.js";
import { conditionOf } from "./conditions.js";

const { Mnemonic, ConditionCode } = iced;
const RAX = 2 * Gpr.RAX;
const RDX = 2 * Gpr.RDX;

const mov: Compile = ({ operands }) => {
  const [to, from] = operands;
  if (to === undefined || from === undefined || to.kind === "other" || from.kind === "other") return undefined;
  const fused = fusedMove(to, from);
  if (fused !== undefined) return fused;
  const get = getOf(from);
  const put = putOf(to);
  return (cpu) => {
    const lo = get(cpu);
    put(cpu, lo, cpu.hi);
  };
};

type Operand = Parameters<typeof getOf>[0];

const lea: Compile = ({ operands }) => {
  const [to, from] = operands;
  if (to === undefined || from?.kind !== "memory") return undefined;
  // Segments do not count for lea.
  const operand: MemoryOperand = { ...from, segment: -1 };
  const fused = fusedLea(to, operand);
  if (fused !== undefined) return fused;
  const address = addressOf(operand);
  const put = putOf(to);
  return (cpu) => {
    const lo = address(cpu);
    put(cpu, lo, cpu.addressHi);
  };
};

/** Zero extension: readers give values without a sign already. */
const movzx: Compile = ({ operands }) => {
  const get = getOf(operands[1]!);
  const put = putOf(operands[0]!);
  return (cpu) => put(cpu, get(cpu), 0);
};

/** A reader whose result is sign-extended to 64 bits. */
function signExtended(operand: Operand): Get {
  const get = getOf(operand);
  const shift = 32 - 8 * Math.min(4, sizeOf(operand));
  return (cpu) => {
    const lo = (get(cpu) << shift) >> shift;
    cpu.hi = lo >> 31;
    return lo;
  };
}

const movsx: Compile = ({ operands }) => {
  const get = signExtended(operands[1]!);
  const put = putOf(operands[0]!);
  return (cpu) => {
    const lo = get(cpu);
    put(cpu, lo, cpu.hi);
  };
};

const xchg: Compile = ({ operands }) => {
  const [a, b] = operands;
  // Of two operands at most one is memory: it is read first, since it may fault.
  const [first, second] = b?.kind === "memory" ? [b, a!] : [a!, b!];
  const getFirst = updateOf(first);
  const getSecond = getOf(second);
  const putFirst = putBackOf(first);
  const putSecond = putOf(second);
  return (cpu) => {
    const x = getFirst(cpu);
    const xHi = cpu.hi;
    const y = getSecond(cpu);
    putFirst(cpu, y, cpu.hi);
    putSecond(cpu, x, xHi);
  };
};

/** The source is read whether the condition holds or not, and a 32-bit destination loses its upper half either way. */
const cmov =
  (code: number): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    const condition = conditionOf(code);
    const get = getOf(from!);
    const keep = getOf(to!);
    const put = putOf(to!);
    return (cpu) => {
      let lo = get(cpu);
      if (!condition(cpu)) lo = keep(cpu);
      put(cpu, lo, cpu.hi);
    };
  };

const set =
  (code: number): Compile =>
  ({ operands }) => {
    const condition = conditionOf(code);
    const put = putOf(operands[0]!);
    return (cpu) => put(cpu, condition(cpu) ? 1 : 0, 0);
  };

const swapBytes = (v: number): number => (v << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24);

const bswap: Compile = ({ operands }) => {
  const operand = operands[0]!;
  const size = sizeOf(operand);
  if (size < 4) return undefined; // of 16 bits the result is undefined
  const get = getOf(operand);
  const put = putOf(operand);
  return (cpu) => {
    const lo = swapBytes(get(cpu));
    if (size === 4) put(cpu, lo, 0);
    else put(cpu, swapBytes(cpu.hi), lo);
  };
};

const extendA = new Map<number, Step>([
  [
    Mnemonic.Cbw,
    ({ h, b }) => {
      h[0] = (b[0]! << 24) >> 24;
    },
  ],
  [
    Mnemonic.Cwde,
    ({ w, h }) => {
      w[RAX] = (h[0]! << 16) >> 16;
      w[RAX + 1] = 0;
    },
  ],
  [
    Mnemonic.Cdqe,
    ({ w }) => {
      w[RAX + 1] = w[RAX]! >> 31;
    },
  ],
  [
    Mnemonic.Cwd,
    ({ h }) => {
      h[4 * Gpr.RDX] = (h[0]! << 16) >> 31;
    },
  ],
  [
    Mnemonic.Cdq,
    ({ w }) => {
      w[RDX] = w[RAX]! >> 31;
      w[RDX + 1] = 0;
    },
  ],
  [
    Mnemonic.Cqo,
    ({ w }) => {
      w[RDX] = w[RAX + 1]! >> 31;
      w[RDX + 1] = w[RDX]!;
    },
  ],
]);

const conditional = (prefix: "Cmov" | "Set", compile: (code: number) => Compile): [number, Compile][] =>
  (["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"] as const).map((cc) => [
    Mnemonic[`${prefix}${cc}` as keyof typeof Mnemonic] as number,
    compile(ConditionCode[cc]),
  ]);

export const move: Family = new Map<number, Compile>([
  [Mnemonic.Mov, mov],
  [Mnemonic.Lea, lea],
  [Mnemonic.Movzx, movzx],
  [Mnemonic.Movsx, movsx],
  [Mnemonic.Movsxd, movsx],
  [Mnemonic.Xchg, xchg],
  [Mnemonic.Bswap, bswap],
  ...conditional("Cmov", cmov),
  ...conditional("Set", set),
  ...[...extendA].map(([mnemonic, step]): [number, Compile] => [mnemonic, () => step]),
]);
