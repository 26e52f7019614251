/**
 * Read, compare, exchange: xadd, cmpxchg, cmpxchg8b, cmpxchg16b. A lock prefix changes nothing: there is one CPU.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Fault } from "../fault.js";
import { addressOf, type Compile, type Family, getOf, putBackOf, putOf, sizeOf, updateOf } from "../operands.js";
import { FZ, Gpr } from "../state.js";
import { add, sub } from "./arithmetic.js";

const { Mnemonic } = iced;
const RAX = 2 * Gpr.RAX;
const RCX = 2 * Gpr.RCX;
const RDX = 2 * Gpr.RDX;
const RBX = 2 * Gpr.RBX;

/** The source gets the old value before the destination gets the sum: of one register twice, the sum stays. */
const xadd: Compile = ({ operands }) => {
  const [to, from] = operands;
  const alu = add[sizeOf(to!)];
  const getFrom = getOf(from!);
  const getTo = updateOf(to!);
  const putFrom = putOf(from!);
  const putTo = putBackOf(to!);
  return (cpu) => {
    const b = getFrom(cpu);
    const bHi = cpu.hi;
    const a = getTo(cpu);
    const aHi = cpu.hi;
    const sum = alu(cpu, a, aHi, b, bHi);
    const sumHi = cpu.hi;
    putFrom(cpu, a, aHi);
    putTo(cpu, sum, sumHi);
  };
};

/**
 * Only what is exchanged is written: where the values differ, a 32-bit destination register keeps its upper half, and
 * where they are equal, rax does.
 */
const cmpxchg: Compile = ({ operands }) => {
  const [to, from] = operands;
  const size = sizeOf(to!);
  const compare = sub[size];
  const accumulator = { kind: "gpr", size, index: Gpr.RAX, high: false } as const;
  const getA = getOf(accumulator);
  const putA = putOf(accumulator);
  const getFrom = getOf(from!);
  const getTo = updateOf(to!);
  const putTo = putBackOf(to!);
  return (cpu) => {
    const old = getTo(cpu);
    const oldHi = cpu.hi;
    const a = getA(cpu);
    compare(cpu, a, cpu.hi, old, oldHi);
    if (cpu.w[FZ] === 0) {
      const lo = getFrom(cpu);
      putTo(cpu, lo, cpu.hi);
    } else putA(cpu, old, oldHi);
  };
};

const cmpxchg8b: Compile = ({ operands }) => {
  const operand = operands[0]!;
  const get = updateOf(operand);
  const put = putBackOf(operand);
  return (cpu) => {
    const { w } = cpu;
    const lo = get(cpu);
    const hi = cpu.hi;
    if (lo === w[RAX] && hi === w[RDX]) {
      w[FZ] = 0;
      put(cpu, w[RBX]!, w[RCX]!);
      return;
    }
    w[FZ] = 1;
    w[RAX] = lo;
    w[RAX + 1] = 0;
    w[RDX] = hi;
    w[RDX + 1] = 0;
  };
};

const cmpxchg16b: Compile = ({ operands }) => {
  const operand = operands[0]!;
  if (operand.kind !== "memory") return undefined;
  const address = addressOf(operand);
  return (cpu) => {
    const at = address(cpu);
    if ((at & 15) !== 0) throw new Fault("general-protection");
    cpu.memory.probeWrite(at, cpu.addressHi, 16);
    cpu.memory.read128(at, cpu.addressHi);
    exchange16(cpu);
  };
};

function exchange16({ w, memory, addressLo, addressHi }: Core): void {
  const { q } = memory;
  if (q[0] === w[RAX] && q[1] === w[RAX + 1] && q[2] === w[RDX] && q[3] === w[RDX + 1]) {
    w[FZ] = 0;
    memory.write128(addressLo, addressHi, w[RBX]!, w[RBX + 1]!, w[RCX]!, w[RCX + 1]!);
    return;
  }
  w[FZ] = 1;
  w[RAX] = q[0]!;
  w[RAX + 1] = q[1]!;
  w[RDX] = q[2]!;
  w[RDX + 1] = q[3]!;
}

export const atomic: Family = new Map<number, Compile>([
  [Mnemonic.Xadd, xadd],
  [Mnemonic.Cmpxchg, cmpxchg],
  [Mnemonic.Cmpxchg8b, cmpxchg8b],
  [Mnemonic.Cmpxchg16b, cmpxchg16b],
]);
