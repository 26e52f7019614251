/**
 * All instructions that there are, as forms: iced's Code is a mnemonic with the kinds of its operands. Which of them
 * this processor has is read from /proc/cpuinfo.
 */
import { readFileSync } from "node:fs";
import { iced } from "../../../src/x86/iced.js";

const { Code, CpuidFeature, EncodingKind, MandatoryPrefix, Mnemonic, OpCodeOperandKind, OpCodeTableKind } = iced;

export interface Form {
  /** iced's Code, and its name. */
  readonly code: number;
  readonly name: string;
  /** In lower case. */
  readonly mnemonic: string;
  readonly mnemonicNumber: number;
  /** The operands, as iced's OpCodeOperandKind names them: r32_or_mem, imm8sex64, es_rDI. */
  readonly operands: readonly string[];
  /** 16, 32, 64, or 0 where no prefix decides it. */
  readonly operandSize: number;
  readonly defaultOpSize64: boolean;
  /** 32 or 64 where the address size makes another instruction (jecxz), else 0. */
  readonly addressSize: number;
  /** The bytes that choose the table: none, 0f, 0f 38, 0f 3a. */
  readonly table: readonly number[];
  readonly opcode: readonly number[];
  /** 66, f2, f3 where it is part of the opcode, else 0. */
  readonly mandatoryPrefix: number;
  /** What ModRM.reg or ModRM.rm holds of the opcode, or -1. */
  readonly group: number;
  readonly rmGroup: number;
  readonly lock: boolean;
  readonly rep: boolean;
  readonly repne: boolean;
  /** iced's names of the CPUID features that it needs. */
  readonly features: readonly string[];
}

/** Instructions in the legacy encoding, as they are in 64-bit mode and outside of the kernel. */
export function allForms(): readonly Form[] {
  const forms: Form[] = [];
  const instruction = new iced.Instruction();
  const count = Object.keys(Code).filter((key) => !/^\d/.test(key)).length;
  for (let code = 0; code < count; code++) {
    instruction.code = code;
    const info = instruction.opCode;
    if (info.mode64 && info.isInstruction && info.encoding === EncodingKind.Legacy && !info.mustBeCpl0) {
      forms.push({
        code,
        name: Code[code]!,
        mnemonic: Mnemonic[info.mnemonic]!.toLowerCase(),
        mnemonicNumber: info.mnemonic,
        operands: Array.from({ length: info.opCount }, (_, i) => OpCodeOperandKind[info.opKind(i)]!),
        operandSize: info.operandSize,
        defaultOpSize64: info.defaultOpSize64,
        addressSize: info.addressSize,
        table: tables.get(info.table) ?? [],
        opcode: info.opCodeLength === 2 ? [info.opCode >> 8, info.opCode & 0xff] : [info.opCode],
        mandatoryPrefix: mandatory.get(info.mandatoryPrefix) ?? 0,
        group: info.groupIndex,
        rmGroup: info.rmGroupIndex,
        lock: info.canUseLockPrefix,
        rep: info.canUseRepPrefix,
        repne: info.canUseRepnePrefix,
        features: [...instruction.cpuidFeatures()].map((f) => CpuidFeature[f]!),
      });
    }
    info.free();
  }
  instruction.free();
  return forms;
}

const tables = new Map<number, readonly number[]>([
  [OpCodeTableKind.T0F, [0x0f]],
  [OpCodeTableKind.T0F38, [0x0f, 0x38]],
  [OpCodeTableKind.T0F3A, [0x0f, 0x3a]],
]);

const mandatory = new Map<number, number>([
  [MandatoryPrefix.P66, 0x66],
  [MandatoryPrefix.PF2, 0xf2],
  [MandatoryPrefix.PF3, 0xf3],
]);

/** What every x86-64 processor has. */
const baseline = new Set([
  ...["INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "MULTIBYTENOP", "PAUSE", "CPUID", "SYSCALL"],
  // endbr64 and rdsspq are in the space of nops, and nothing but that where CET is not enabled.
  "CET_IBT",
]);

/** Where Linux has another name for it than iced in lower case. */
const linuxNames = new Map([
  ["SSE3", "pni"],
  ["LZCNT", "abm"],
  ["CMPXCHG16B", "cx16"],
  ["SHA", "sha_ni"],
  ["FXSR", "fxsr"],
  ["CLFSH", "clflush"],
  ["PREFETCHW", "3dnowprefetch"],
  ["FPU387", "fpu"],
  ["FPU287", "fpu"],
]);

let flags: ReadonlySet<string> | undefined;

/** The first CPUID feature that the form needs and this processor lacks, or undefined. */
function missingFeature(form: Form): string | undefined {
  flags ??= new Set(/^flags\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "latin1"))?.[1]?.split(" "));
  return form.features.find((f) => !baseline.has(f) && !flags!.has(linuxNames.get(f) ?? f.toLowerCase()));
}

/** Why this processor cannot judge the form, or undefined. */
export function obstacle(form: Form): string | undefined {
  const feature = missingFeature(form);
  if (feature !== undefined) return `this processor has no ${feature}`;
  if (form.operands.some((o) => /^br(16|32)/.test(o)) || (isReturn.test(form.mnemonic) && form.operandSize === 16))
    return "a branch with an operand-size prefix: what it does depends on the maker of the processor";
  if (form.name === "Movsxd_r16_rm16") return "its operand has 16 bits on Intel's processors and 32 on AMD's";
  if (/^Reservednop.*0F0D$/.test(form.name)) return "a nop on Intel's processors, undefined on AMD's";
  return notJudged.get(form.mnemonic);
}

const isReturn = /^(ret|call|jmp)/;

/** What runs here, but says nothing about an emulator. By mnemonic, with the reason. */
const notJudged: ReadonlyMap<string, string> = new Map([
  ["syscall", "what it does is the kernel's, not the processor's"],
  ["sysenter", "what it does is the kernel's, not the processor's"],
  ["int", "what it does is the kernel's, not the processor's"],
  ["cpuid", "says what processor this is; the emulator is another one"],
  ["xgetbv", "says what processor this is; the emulator is another one"],
  ["rdtsc", "the time"],
  ["rdtscp", "the time"],
  ["rdpid", "says where the thread runs"],
  ["rdrand", "random numbers"],
  ["rdseed", "random numbers"],
  ["rcpps", "an approximation that differs between processors"],
  ["rcpss", "an approximation that differs between processors"],
  ["rsqrtps", "an approximation that differs between processors"],
  ["rsqrtss", "an approximation that differs between processors"],
]);

/** Whether it has an implied operand at [rsi] or [rdi]. */
export const isString = (form: Form): boolean => form.operands.some((o) => o === "seg_rSI" || o === "es_rDI");

/** Whether it reads or writes at rsp without naming it as an operand. */
export const isStack = (form: Form): boolean =>
  /^(push|pop|call|ret|enter|leave)/.test(form.mnemonic) && form.mnemonic !== "popcnt";
