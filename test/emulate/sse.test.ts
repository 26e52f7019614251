/**
 * SSE where random instances on the processor (judge/) do not reach: MXCSR and the control word, conversions whose result
 * hangs on one bit, what is not implemented, and that a fault comes before any change.
 */
import { Const, Keystone, loadKeystone } from "keystone-wasm";
import { beforeAll, describe, expect, test } from "vitest";
import { runtimeAddress } from "../../src/address.js";
import { Cpu } from "../../src/emulate/cpu.js";
import { lanesOf } from "../../src/emulate/lanes.js";
import { Perm } from "../../src/emulate/memory.js";
import { FPU_CONTROL, Gpr, MXCSR, XMM } from "../../src/emulate/state.js";

const CODE = 0x1000;
const DATA = 0x10000;
const DEFAULT_MXCSR = 0x1f80;

let keystone: Keystone;
beforeAll(async () => {
  await loadKeystone();
  keystone = new Keystone(Const.KS_ARCH_X86, Const.KS_MODE_64);
});

/** A CPU in front of the code, two pages of zeroes at DATA, rbx on the first of them. */
function cpuFor(assembly: string): Cpu {
  const cpu = new Cpu();
  cpu.memory.map(runtimeAddress(CODE), 4096, Perm.RX);
  cpu.memory.poke(runtimeAddress(CODE), keystone.asm(assembly, { address: CODE }));
  cpu.memory.map(runtimeAddress(DATA), 2 * 4096, Perm.RW);
  cpu.ip = CODE;
  cpu.setGpr(Gpr.RBX, BigInt(DATA));
  return cpu;
}

const count = (assembly: string): number => assembly.split(";").length;

/** Runs all of it, which must go well. */
function run(assembly: string, prepare: (cpu: Cpu) => void = () => {}): Cpu {
  const cpu = cpuFor(assembly);
  prepare(cpu);
  expect(cpu.run(count(assembly)), assembly).toEqual({ kind: "limit" });
  return cpu;
}

const poke32 = (cpu: Cpu, offset: number, value: number): void =>
  cpu.memory.poke(runtimeAddress(DATA + offset), new Uint8Array(new Uint32Array([value]).buffer));
const peek32 = (cpu: Cpu, offset: number): number =>
  new DataView(cpu.memory.peek(runtimeAddress(DATA + offset), 4).buffer).getUint32(0, true);

describe("MXCSR", () => {
  test("is the default one at first", () => {
    expect(peek32(run("stmxcsr [rbx]"), 0)).toBe(DEFAULT_MXCSR);
  });

  test("keeps the exception flags that it is loaded with", () => {
    const cpu = run("ldmxcsr [rbx]; stmxcsr [rbx + 4]", (c) => poke32(c, 0, 0x1fb5));
    expect(peek32(cpu, 4)).toBe(0x1fb5);
  });

  test.each([
    ["rounds down", 0x3f80],
    ["rounds up", 0x5f80],
    ["cuts", 0x7f80],
    ["flushes to zero", 0x9f80],
    ["takes denormals for zeroes", 0x1fc0],
    ["raises division by zero", 0x1d80],
    ["raises all", 0],
    ["allows misaligned operands, on AMD", 0x21f80],
  ])("that %s is not implemented", (_what, value) => {
    const cpu = cpuFor("ldmxcsr [rbx]");
    poke32(cpu, 0, value);
    expect(cpu.run(1)).toMatchObject({ kind: "unimplemented", instruction: expect.stringContaining("ldmxcsr") });
    expect([cpu.w[MXCSR], cpu.ip]).toEqual([DEFAULT_MXCSR, CODE]);
  });

  test("with reserved bits is a fault", () => {
    const cpu = cpuFor("ldmxcsr [rbx]");
    poke32(cpu, 0, 0x11f80);
    expect(cpu.run(1)).toMatchObject({ kind: "fault", fault: "general-protection" });
    expect([cpu.w[MXCSR], cpu.ip]).toEqual([DEFAULT_MXCSR, CODE]);
  });

  test.each([
    "addsd xmm0, xmm1",
    "subps xmm0, xmm1",
    "sqrtss xmm0, xmm1",
    "maxpd xmm0, xmm1",
    "cmpeqss xmm0, xmm1",
    "ucomisd xmm0, xmm1",
    "comiss xmm0, xmm1",
    "cvtsi2sd xmm0, rax",
    "cvtsi2ss xmm0, eax",
    "cvttsd2si eax, xmm1",
    "cvtdq2ps xmm0, xmm1",
    "cvtps2dq xmm0, xmm1",
    "cvtpd2dq xmm0, xmm1",
    "cvtss2sd xmm0, xmm1",
    "cvtpd2ps xmm0, xmm1",
  ])("cannot be stored after %s, and can again once it is loaded", (arithmetic) => {
    const cpu = cpuFor(`${arithmetic}; stmxcsr [rbx]; ldmxcsr [rbx + 4]; stmxcsr [rbx]`);
    poke32(cpu, 4, 0x1f81);
    expect(cpu.run(1)).toEqual({ kind: "limit" });
    const at = cpu.ip;
    expect(cpu.run(1)).toMatchObject({ kind: "unimplemented", instruction: expect.stringContaining("flags") });
    expect([cpu.ip, peek32(cpu, 0)]).toEqual([at, 0]);
    cpu.ip = at + 3;
    expect(cpu.run(2)).toEqual({ kind: "limit" });
    expect(peek32(cpu, 0)).toBe(0x1f81);
  });

  test.each([
    "movsd xmm0, xmm1",
    "movaps xmm0, [rbx]",
    "paddd xmm0, xmm1",
    "xorps xmm0, xmm0",
    "andpd xmm0, xmm1",
    "shufps xmm0, xmm1, 3",
    "unpcklpd xmm0, xmm1",
    "cvtsi2sd xmm0, eax",
    "cvtdq2pd xmm0, xmm1",
  ])("can be stored after %s, which raises no exception", (instruction) => {
    expect(peek32(run(`${instruction}; stmxcsr [rbx]`), 0)).toBe(DEFAULT_MXCSR);
  });
});

describe("the x87 control word", () => {
  test("is stored as it was loaded, without its reserved bits", () => {
    const cpu = run("fnstcw [rbx]; fldcw [rbx + 8]; fnstcw [rbx + 4]; fninit; fnstcw [rbx + 12]", (c) =>
      poke32(c, 8, 0xffff),
    );
    expect([0, 4, 12].map((at) => peek32(cpu, at))).toEqual([0x37f, 0x1f7f, 0x37f]);
    expect(cpu.w[FPU_CONTROL]).toBe(0x37f);
  });
});

/** The low 64 bits of xmm0, and rax. */
const xmm0 = (cpu: Cpu): bigint => BigInt.asUintN(64, new BigInt64Array(cpu.buffer)[XMM / 2]!);
const setXmm = (cpu: Cpu, index: number, value: bigint): void => {
  new BigUint64Array(cpu.buffer)[XMM / 2 + 2 * index] = value;
};

describe("rounding", () => {
  test.each([
    // Ties of a float's 24 bits: to even, unless a bit far below says otherwise, which a double would have lost.
    [0x4000004000000000n, 0x5e800000n],
    [0x4000004000000001n, 0x5e800001n],
    [0x400000bfffffffffn, 0x5e800001n],
    [0x400000c000000000n, 0x5e800002n],
    [-0x4000004000000000n, 0xde800000n],
    [-0x4000004000000001n, 0xde800001n],
    [-0x400000bfffffffffn, 0xde800001n],
    [0x7fffffffffffffffn, 0x5f000000n],
    [-0x8000000000000000n, 0xdf000000n],
    [0x20000020000001n, 0x5a000001n],
    [-0x20000020000001n, 0xda000001n],
    [0x1fffffffffffffn, 0x5a000000n],
    [0n, 0n],
    [-1n, 0xbf800000n],
  ])("cvtsi2ss of %d is %d as bits", (integer, bits) => {
    expect(xmm0(run("cvtsi2ss xmm0, rax", (cpu) => cpu.setGpr(Gpr.RAX, integer)))).toBe(bits);
  });

  test.each([
    [0x20000000000001n, 0x4340000000000000n],
    [0x20000000000003n, 0x4340000000000002n],
    [-0x20000000000001n, 0xc340000000000000n],
    [0x7fffffffffffffffn, 0x43e0000000000000n],
    [-0x8000000000000000n, 0xc3e0000000000000n],
  ])("cvtsi2sd of %d is %d as bits", (integer, bits) => {
    expect(xmm0(run("cvtsi2sd xmm0, rax", (cpu) => cpu.setGpr(Gpr.RAX, integer)))).toBe(bits);
  });

  const INDEFINITE = 1n << 63n;
  test.each([
    [0.5, 0n, 0n],
    [1.5, 2n, 1n],
    [2.5, 2n, 2n],
    [-0.5, 0n, 0n],
    [-1.5, -2n, -1n],
    [-2.5, -2n, -2n],
    [0.49999999999999994, 0n, 0n],
    [4503599627370495.5, 4503599627370496n, 4503599627370495n],
    [4503599627370497, 4503599627370497n, 4503599627370497n],
    [-(2 ** 63), -(2n ** 63n), -(2n ** 63n)],
    [2 ** 63, -INDEFINITE, -INDEFINITE],
    [Number.NaN, -INDEFINITE, -INDEFINITE],
    [Number.NEGATIVE_INFINITY, -INDEFINITE, -INDEFINITE],
  ])("cvtsd2si of %d is %d, cvttsd2si %d", (value, rounded, cut) => {
    const cpu = run("cvtsd2si rax, xmm0; cvttsd2si rdx, xmm0", (c) => {
      c.f64[XMM / 2] = value;
    });
    expect(cpu.gpr(Gpr.RAX)).toBe(BigInt.asUintN(64, rounded));
    expect(cpu.gpr(Gpr.RDX)).toBe(BigInt.asUintN(64, cut));
  });
});

describe("what JavaScript does not tell apart", () => {
  const ZERO = 0n;
  const MINUS_ZERO = 0x8000000000000000n;
  const SIGNALLING = 0x7ff0000000000123n;
  const QUIET = 0xfff8000000000456n;
  const ONE = 0x3ff0000000000000n;
  test.each([
    ["minsd", ZERO, MINUS_ZERO, MINUS_ZERO],
    ["minsd", MINUS_ZERO, ZERO, ZERO],
    ["maxsd", ZERO, MINUS_ZERO, MINUS_ZERO],
    ["maxsd", MINUS_ZERO, ZERO, ZERO],
    ["minsd", ONE, SIGNALLING, SIGNALLING],
    ["minsd", SIGNALLING, ONE, ONE],
    ["addsd", MINUS_ZERO, MINUS_ZERO, MINUS_ZERO],
    ["addsd", SIGNALLING, QUIET, SIGNALLING | (1n << 51n)],
    ["mulsd", ONE, SIGNALLING, SIGNALLING | (1n << 51n)],
    ["divsd", QUIET, SIGNALLING, QUIET],
    ["divsd", ZERO, MINUS_ZERO, 0xfff8000000000000n],
    ["sqrtsd", QUIET, 0xbff0000000000000n, 0xfff8000000000000n],
    ["sqrtsd", ONE, MINUS_ZERO, MINUS_ZERO],
    ["sqrtsd", ONE, SIGNALLING, SIGNALLING | (1n << 51n)],
  ])("%s of bits %d and %d is %d", (mnemonic, a, b, result) => {
    const cpu = run(`${mnemonic} xmm0, xmm1`, (c) => {
      setXmm(c, 0, a);
      setXmm(c, 1, b);
    });
    expect(xmm0(cpu)).toBe(result);
  });
});

describe("faults", () => {
  const fill = (cpu: Cpu): void => {
    for (let i = 0; i < 64; i++) cpu.w[XMM + i] = 0x01010101 * (i & 0x7f);
  };

  test.each([
    ["movaps xmm0, [rbx + 8]", "general-protection"],
    ["movdqa [rbx + 8], xmm0", "general-protection"],
    ["movntps [rbx + 4], xmm0", "general-protection"],
    ["addps xmm0, [rbx + 1]", "general-protection"],
    ["pshufd xmm0, [rbx + 12], 3", "general-protection"],
    ["psllq xmm0, [rbx + 8]", "general-protection"],
    ["movups xmm0, [rbx + 0x1ff8]", "page"],
    ["movups [rbx + 0x1ff8], xmm0", "page"],
    ["cvtpd2ps xmm0, [rbx + 0x2000]", "page"],
    ["cvttsd2si rax, [rbx + 0x1ffc]", "page"],
    ["ucomiss xmm0, [rbx + 0x1ffe]", "page"],
    ["movhps [rbx + 0x1ffc], xmm0", "page"],
  ])("%s leaves everything as it was", (assembly, fault) => {
    const cpu = cpuFor(assembly);
    fill(cpu);
    const registers = cpu.w.slice(0, XMM + 64);
    const data = cpu.memory.peek(runtimeAddress(DATA), 2 * 4096);
    expect(cpu.run(1)).toMatchObject({ kind: "fault", fault });
    expect(cpu.w.slice(0, XMM + 64)).toEqual(registers);
    expect(cpu.memory.peek(runtimeAddress(DATA), 2 * 4096)).toEqual(data);
  });

  test("movups and scalars may stand anywhere, across pages too", () => {
    const cpu = run("movups [rbx + 0xff9], xmm1; movups xmm2, [rbx + 0xff9]; movss xmm3, [rbx + 0xffd]", fill);
    expect(cpu.w.slice(XMM + 8, XMM + 12)).toEqual(cpu.w.slice(XMM + 4, XMM + 8));
    expect([...cpu.w.slice(XMM + 12, XMM + 16)]).toEqual([0x05050505, 0, 0, 0]);
  });
});

test.each([
  "rcpps xmm0, xmm1",
  "rsqrtss xmm0, xmm1",
  "paddb mm0, mm1",
  "pmovmskb eax, mm0",
  "movd mm0, eax",
  "cvtpi2ps xmm0, mm0",
  "cvttps2pi mm0, xmm0",
  "pshufb xmm0, xmm1",
])("%s is not implemented, and says so", (assembly) => {
  const cpu = cpuFor(assembly);
  expect(cpu.run(1)).toMatchObject({ kind: "unimplemented" });
  expect(cpu.ip).toBe(CODE);
});

describe("lanes, every pair of bytes in each lane", () => {
  const bytes = lanesOf(8);
  const sign = (v: number): number => (v << 24) >> 24;
  const clamp = (v: number, low: number, high: number): number => Math.min(high, Math.max(low, v)) & 0xff;
  const expected: Record<keyof typeof bytes, (a: number, b: number) => number> = {
    add: (a, b) => (a + b) & 0xff,
    sub: (a, b) => (a - b) & 0xff,
    addSigned: (a, b) => clamp(sign(a) + sign(b), -128, 127),
    subSigned: (a, b) => clamp(sign(a) - sign(b), -128, 127),
    addUnsigned: (a, b) => clamp(a + b, 0, 255),
    subUnsigned: (a, b) => clamp(a - b, 0, 255),
    equal: (a, b) => (a === b ? 255 : 0),
    greaterSigned: (a, b) => (sign(a) > sign(b) ? 255 : 0),
    minSigned: (a, b) => (sign(a) < sign(b) ? a : b),
    maxSigned: (a, b) => (sign(a) > sign(b) ? a : b),
    minUnsigned: (a, b) => Math.min(a, b),
    maxUnsigned: (a, b) => Math.max(a, b),
    average: (a, b) => (a + b + 1) >> 1,
  };
  test.each(Object.keys(expected) as (keyof typeof bytes)[])("%s", (name) => {
    let wrong = 0;
    for (let a = 0; a < 256; a++)
      for (let b = 0; b < 256; b++) {
        // Other pairs in the neighbouring lanes, so that whatever crosses a border is seen.
        const pairs = [0, 1, 2, 3].map((i) => [(a + 85 * i) & 0xff, (b + 51 * i) & 0xff] as const);
        const word = (of: 0 | 1): number => pairs.reduce((sum, pair, i) => sum | (pair[of] << (8 * i)), 0);
        const result = bytes[name](word(0), word(1));
        for (const [i, [x, y]] of pairs.entries()) if (((result >>> (8 * i)) & 0xff) !== expected[name](x, y)) wrong++;
      }
    expect(wrong).toBe(0);
  });
});
