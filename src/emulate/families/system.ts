/**
 * What concerns the machine more than its registers: nops, fences, prefetches, syscall, int3, ud2, cpuid, rdtsc, and
 * what user mode may not do.
 *
 * cpuid describes a processor of the baseline, x86-64-v1: programs that choose code by it take the code that all
 * processors run. Instructions of later extensions that are implemented nevertheless run, whatever cpuid says.
 */
import { iced } from "../../x86/iced.js";
import { type Core, Event } from "../core.js";
import { Fault } from "../fault.js";
import type { Instruction } from "../instruction.js";
import { addressOf, type Compile, type Family, type Step } from "../operands.js";
import { Gpr, IP } from "../state.js";

const { Mnemonic, Code } = iced;
const RAX = 2 * Gpr.RAX;
const RCX = 2 * Gpr.RCX;
const RDX = 2 * Gpr.RDX;
const RBX = 2 * Gpr.RBX;
const R11 = 2 * Gpr.R11;

const nothing: Step = () => {};

const undefinedInstruction: Step = () => {
  throw new Fault("undefined");
};

const privileged: Step = () => {
  throw new Fault("general-protection");
};

/** An instruction is 15 bytes long at most; iced gives up on a longer one after those. */
const LONGEST = 15;

/** Bytes that are no instruction, or one that is too long: then nothing but prefixes and escapes has been seen. */
const invalid: Compile = ({ length }) => (length >= LONGEST ? privileged : undefinedInstruction);

const syscall: Compile = ({ next }) => {
  return (cpu) => {
    const { w } = cpu;
    w[RCX] = next.lo;
    w[RCX + 1] = next.hi;
    w[R11] = cpu.rflags;
    w[R11 + 1] = 0;
    w[IP] = next.lo;
    w[IP + 1] = next.hi;
    cpu.event = Event.Syscall;
  };
};

const BREAKPOINT_VECTOR = 3;

/** int3, and its two-byte form. What other interrupts do is for a kernel to say: they are not implemented. */
const breakpoint: Compile = ({ code, operands, next }) => {
  const [vector] = operands;
  if (code === Code.Int_imm8 && !(vector?.kind === "immediate" && (vector.value.lo & 0xff) === BREAKPOINT_VECTOR))
    return undefined;
  return (cpu) => {
    cpu.w[IP] = next.lo;
    cpu.w[IP + 1] = next.hi;
    cpu.event = Event.Breakpoint;
  };
};

/** clflush faults as a read of its byte does. */
const flush: Compile = ({ operands }) => {
  const [operand] = operands;
  if (operand?.kind !== "memory") return undefined;
  const address = addressOf(operand);
  return (cpu) => {
    cpu.memory.read8(address(cpu), cpu.addressHi);
  };
};

/** Counts instructions: the time stamps of a program are the same each time it runs. */
function readTimeStamp({ w, instructions }: Core): void {
  w[RAX] = instructions;
  w[RAX + 1] = 0;
  w[RDX] = Math.floor(instructions / 0x1_0000_0000);
  w[RDX + 1] = 0;
}

const ascii = (text: string): number =>
  text.charCodeAt(0) | (text.charCodeAt(1) << 8) | (text.charCodeAt(2) << 16) | (text.charCodeAt(3) << 24);

/** Bits of cpuid's leaf 1, edx: what every x86-64 processor has. */
export const FEATURES =
  (1 << 0) | // x87
  (1 << 4) | // time stamp counter
  (1 << 8) | // cmpxchg8b
  (1 << 15) | // cmov
  (1 << 19) | // clflush
  (1 << 23) | // MMX
  (1 << 24) | // fxsave
  (1 << 25) | // SSE
  (1 << 26); // SSE2

/** eax, ebx, ecx, edx by leaf; other leaves are all zeros. */
const leaves = new Map<number, readonly [number, number, number, number]>([
  [0, [2, ascii("Genu"), ascii("ntel"), ascii("ineI")]],
  // Family 15 model 4, the first of that maker with 64 bits; lines of 64 bytes for clflush.
  [1, [0x0f41, 0x0800, 0, FEATURES]],
  // Caches: 32 KiB of data (0x2c) and of code (0x30) in level 1, 2 MiB (0x7d) in level 2; nothing more to ask.
  [2, [0x7d302c01, 0, 0, 0]],
  [0x80000000 | 0, [0x80000008 | 0, 0, 0, 0]],
  // lahf in 64-bit mode; syscall, no-execute, 64 bits.
  [0x80000001 | 0, [0, 0, 1, (1 << 11) | (1 << 20) | (1 << 29)]],
  // Bits of physical and of virtual addresses.
  [0x80000008 | 0, [0x3028, 0, 0, 0]],
]);

const NO_LEAF = [0, 0, 0, 0] as const;

const cpuid: Step = ({ w }) => {
  const [eax, ebx, ecx, edx] = leaves.get(w[RAX]!) ?? NO_LEAF;
  w[RAX] = eax;
  w[RAX + 1] = 0;
  w[RBX] = ebx;
  w[RBX + 1] = 0;
  w[RCX] = ecx;
  w[RCX + 1] = 0;
  w[RDX] = edx;
  w[RDX + 1] = 0;
};

/**
 * Hints that no processor gives a meaning to. With 0f 0d, those of AMD know only memory operands: that is left open.
 */
const unsettledNops = new Set<number>([
  Code.Reservednop_rm16_r16_0F0D,
  Code.Reservednop_rm32_r32_0F0D,
  Code.Reservednop_rm64_r64_0F0D,
]);

const reservedNop: Compile = ({ code }) => (unsettledNops.has(code) ? undefined : nothing);

/** mov to and from control and debug registers; other forms of mov are with the moves. */
const moveControl: Compile = ({ code }) => (controlMoves.has(code) ? privileged : undefined);

const controlMoves = new Set<number>([Code.Mov_r64_cr, Code.Mov_r64_dr, Code.Mov_cr_r64, Code.Mov_dr_r64]);

const all = (mnemonics: readonly number[], step: Step): [number, Compile][] =>
  mnemonics.map((mnemonic) => [mnemonic, (_: Instruction) => step]);

export const system: Family = new Map<number, Compile>([
  ...all(
    [
      Mnemonic.Nop,
      Mnemonic.Endbr64,
      Mnemonic.Endbr32,
      // Without a shadow stack they leave their register alone, which is how programs ask for one.
      Mnemonic.Rdsspd,
      Mnemonic.Rdsspq,
      Mnemonic.Pause,
      Mnemonic.Lfence,
      Mnemonic.Mfence,
      Mnemonic.Sfence,
      Mnemonic.Prefetch,
      Mnemonic.Prefetchw,
      Mnemonic.Prefetchwt1,
      Mnemonic.Prefetchnta,
      Mnemonic.Prefetcht0,
      Mnemonic.Prefetcht1,
      Mnemonic.Prefetcht2,
    ],
    nothing,
  ),
  ...all(
    [
      Mnemonic.Hlt,
      Mnemonic.Cli,
      Mnemonic.Sti,
      Mnemonic.In,
      Mnemonic.Out,
      Mnemonic.Insb,
      Mnemonic.Insw,
      Mnemonic.Insd,
      Mnemonic.Outsb,
      Mnemonic.Outsw,
      Mnemonic.Outsd,
      Mnemonic.Clts,
      Mnemonic.Invd,
      Mnemonic.Wbinvd,
      Mnemonic.Invlpg,
      Mnemonic.Lgdt,
      Mnemonic.Lidt,
      Mnemonic.Lldt,
      Mnemonic.Ltr,
      Mnemonic.Lmsw,
      Mnemonic.Rdmsr,
      Mnemonic.Wrmsr,
      Mnemonic.Swapgs,
      Mnemonic.Sysret,
      Mnemonic.Sysretq,
      Mnemonic.Sysexit,
      Mnemonic.Sysexitq,
    ],
    privileged,
  ),
  ...all(
    [
      Mnemonic.Ud0,
      Mnemonic.Ud1,
      Mnemonic.Ud2,
      // cpuid does not report OSXSAVE and shadow stacks.
      Mnemonic.Xgetbv,
      Mnemonic.Xsetbv,
      Mnemonic.Incsspd,
      Mnemonic.Incsspq,
    ],
    undefinedInstruction,
  ),
  [Mnemonic.INVALID, invalid],
  [Mnemonic.Reservednop, reservedNop],
  [Mnemonic.Syscall, syscall],
  [Mnemonic.Int3, breakpoint],
  [Mnemonic.Int, breakpoint],
  [Mnemonic.Cpuid, () => cpuid],
  [Mnemonic.Rdtsc, () => readTimeStamp],
  [
    Mnemonic.Rdtscp,
    () => (cpu) => {
      readTimeStamp(cpu);
      cpu.w[RCX] = 0;
      cpu.w[RCX + 1] = 0;
    },
  ],
  [Mnemonic.Clflush, flush],
  [Mnemonic.Mov, moveControl],
]);
