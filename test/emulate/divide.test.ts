/**
 * Multiplication and division of 64 and 32 bits against BigInt, over pairs of boundary values: random operands (judge/)
 * seldom come near the places where an estimated quotient is one off.
 */
import { expect, test } from "vitest";
import { PAGE_SIZE, type RuntimeAddress } from "../../src/address.js";
import { Cpu } from "../../src/emulate/cpu.js";
import { Perm } from "../../src/emulate/memory.js";
import { Gpr, Rflags } from "../../src/emulate/state.js";
import { assemble } from "./assemble.js";

const CODE = 0x400000 as RuntimeAddress;

function runner(source: string): (rax: bigint, rdx: bigint, rcx: bigint) => Cpu | undefined {
  const cpu = new Cpu();
  cpu.memory.map(CODE, PAGE_SIZE, Perm.RX);
  cpu.memory.poke(CODE, assemble(source, CODE));
  return (rax, rdx, rcx) => {
    cpu.setGpr(Gpr.RAX, rax);
    cpu.setGpr(Gpr.RDX, rdx);
    cpu.setGpr(Gpr.RCX, rcx);
    cpu.ip = CODE;
    const outcome = cpu.step();
    if (outcome.kind === "limit") return cpu;
    expect(outcome).toMatchObject({ kind: "fault", fault: "divide" });
    return undefined;
  };
}

/** Values around all powers of two, and what lies between. */
function boundaries(bits: number): bigint[] {
  const values = new Set<bigint>();
  for (let n = 0; n <= bits; n++)
    for (const by of [-2n, -1n, 0n, 1n, 3n]) values.add(BigInt.asUintN(bits, (1n << BigInt(n)) + by));
  for (const text of ["0x123456789abcdef0", "0xfedcba9876543210", "0xaaaaaaaaaaaaaaaa", "0x8000000000000001"])
    values.add(BigInt.asUintN(bits, BigInt(text)));
  return [...values];
}

const signed = BigInt.asIntN;
const unsigned = BigInt.asUintN;

/** What division must give: quotient and remainder, or undefined where it faults. */
function quotientOf(dividend: bigint, divisor: bigint, bits: number, sign: boolean): [bigint, bigint] | undefined {
  if (divisor === 0n) return undefined;
  const quotient = dividend / divisor;
  if ((sign ? signed(bits, quotient) : unsigned(bits, quotient)) !== quotient) return undefined;
  return [unsigned(bits, quotient), unsigned(bits, dividend % divisor)];
}

const cases = [
  ["div rcx", 64, false],
  ["idiv rcx", 64, true],
  ["div ecx", 32, false],
  ["idiv ecx", 32, true],
] as const;

test.each(cases)("%s", (source, bits, sign) => {
  const run = runner(source);
  const values = boundaries(bits);
  // Products of values, give or take a little, are where quotients are nearly whole numbers.
  const uppers = [0n, 1n, 5n, (1n << BigInt(bits)) - 1n, 1n << BigInt(bits - 1), (1n << BigInt(bits - 1)) - 1n];
  const check = (dividend: bigint, divisor: bigint): void => {
    const lo = unsigned(bits, dividend);
    const hi = unsigned(bits, dividend >> BigInt(bits));
    const cpu = run(lo, hi, divisor);
    const found = cpu && [unsigned(bits, cpu.gpr(Gpr.RAX)), unsigned(bits, cpu.gpr(Gpr.RDX))];
    const whole = (hi << BigInt(bits)) | lo;
    const expected = sign
      ? quotientOf(signed(2 * bits, whole), signed(bits, divisor), bits, true)
      : quotientOf(whole, divisor, bits, false);
    if (String(found) !== String(expected)) expect.fail(`${whole} / ${divisor}: ${found}, not ${expected}`);
  };
  values.forEach((divisor, i) => {
    for (const lo of values) check(lo, divisor);
    for (const hi of uppers) check((hi << BigInt(bits)) | values[(i * 7) % values.length]!, divisor);
    for (let j = i % 5; j < values.length; j += 5)
      for (const by of [-1n, 0n, 1n]) check(divisor * values[j]! + by, divisor);
  });
});

test.each([
  ["mul rcx", 64, false],
  ["imul rcx", 64, true],
  ["mul ecx", 32, false],
  ["imul ecx", 32, true],
] as const)("%s", (source, bits, sign) => {
  const run = runner(source);
  for (const a of boundaries(bits))
    for (const b of boundaries(bits)) {
      const cpu = run(a, 0n, b)!;
      const product = sign ? signed(bits, a) * signed(bits, b) : a * b;
      const expected = [unsigned(bits, product), unsigned(bits, product >> BigInt(bits))];
      const fits = (sign ? signed(bits, product) : unsigned(bits, product)) === product;
      const found = [cpu.gpr(Gpr.RAX), cpu.gpr(Gpr.RDX)];
      const flags = cpu.rflags & (Rflags.CF | Rflags.OF);
      if (String(found) !== String(expected) || flags !== (fits ? 0 : Rflags.CF | Rflags.OF))
        expect.fail(`${a} * ${b}: ${found}, not ${expected}`);
    }
});
