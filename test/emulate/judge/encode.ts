/**
 * Writes an instruction of a given form with operands chosen at random, byte by byte: an assembler would write one of
 * the encodings that mean the same, and a decoder has to know them all. ModRM and SIB in every combination,
 * displacements that could be shorter, REX prefixes that change nothing, segment and address-size prefixes, prefixes in
 * any order.
 */
import { type Form, isStack } from "./forms.js";
import { FS_BASE, GS_BASE } from "./layout.js";
import type { Random } from "./random.js";

/** An explicit memory operand: base + index * scale + displacement, cut to 32 bits or not, + segment. */
export interface MemoryForm {
  /** Numbers of registers, or -1. */
  base: number;
  index: number;
  scale: number;
  displacement: bigint;
  /** Size of the displacement in the encoding, in bytes. */
  displacementSize: 0 | 1 | 4 | 8;
  /** Counts from the next instruction. */
  relative: boolean;
}

export interface Encoded {
  readonly bytes: number[];
  readonly memory: MemoryForm | undefined;
  /** Where in `bytes` the displacement stands. */
  readonly displacementAt: number;
  /** Where the displacement of a direct branch stands, or -1. */
  readonly branchAt: number;
  readonly branchSize: 0 | 1 | 4;
  readonly addressSize: 4 | 8;
  /** Base of the segment that memory operands (but not [rdi] of string instructions) are in. */
  readonly segmentBase: bigint;
  /** Has f3 or f2 as a repeat prefix. */
  readonly repeated: boolean;
}

interface Parts {
  modrm: boolean;
  mod: number;
  reg: number;
  rm: number;
  sib: number;
  /** Register whose low bits are in the last byte of the opcode. */
  opcodeRegister: number;
  rex: number;
  memory: MemoryForm | undefined;
  readonly immediates: number[];
  branchSize: 0 | 1 | 4;
}

/** The counts and constants that matter to shifts, shuffles and sign extension. */
const bytes8 = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff];

export interface Restrictions {
  /** Memory operands are relative to rip: they need no register to lead anywhere. Implied operands in memory remain. */
  readonly relativeMemory?: boolean;
}

/** One encoding. Whether it is one of `form` a decoder has to say: some choices make another instruction of it. */
export function encode(form: Form, random: Random, restrictions: Restrictions = {}): Encoded {
  const relative = restrictions.relativeMemory ?? false;
  const narrow = form.addressSize !== 0 ? form.addressSize === 32 : usesAddress(form) && !relative && random.oneIn(10);
  const parts: Parts = {
    modrm: form.group >= 0 || form.rmGroup >= 0,
    mod: 3,
    reg: Math.max(form.group, 0),
    rm: Math.max(form.rmGroup, 0),
    sib: -1,
    opcodeRegister: -1,
    rex: form.operandSize === 64 && (!form.defaultOpSize64 || random.oneIn(8)) ? 8 : 0,
    memory: undefined,
    immediates: [],
    branchSize: 0,
  };
  for (const operand of form.operands) chooseOperand(form, operand, random, parts, narrow, relative);
  // The same register twice: programs test it, or clear it, and emulators have a way of their own for that.
  if (parts.modrm && parts.mod === 3 && form.group < 0 && form.rmGroup < 0 && random.oneIn(5)) {
    parts.rm = parts.reg;
    parts.rex = (parts.rex & ~1) | (parts.reg > 7 ? 1 : 0);
  }

  const prefixes: number[] = [];
  if (narrow) prefixes.push(0x67);
  if (form.operandSize === 16) prefixes.push(0x66);
  if (form.mandatoryPrefix !== 0) prefixes.push(form.mandatoryPrefix);
  let segmentBase = 0n;
  if (usesAddress(form) && !relative && random.oneIn(8)) {
    const prefix = random.pick([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]);
    prefixes.push(prefix);
    if (prefix === 0x64) segmentBase = BigInt(FS_BASE);
    if (prefix === 0x65) segmentBase = BigInt(GS_BASE);
  }
  let repeated = false;
  if ((form.rep || form.repne) && random.below(3) > 0) {
    prefixes.push(form.rep && (!form.repne || random.oneIn(2)) ? 0xf3 : 0xf2);
    repeated = true;
  }
  if (form.lock && parts.memory !== undefined && random.oneIn(4)) prefixes.push(0xf0);
  addIdle(form, prefixes, random);
  shuffle(prefixes, random);
  // A REX prefix that another prefix follows does nothing.
  if (prefixes.length > 0 && random.oneIn(30)) prefixes.unshift(0x40 | random.below(16));

  const bytes = [...prefixes];
  if (parts.rex !== 0 || random.oneIn(5)) bytes.push(0x40 | parts.rex);
  bytes.push(...form.table, ...form.opcode);
  if (parts.opcodeRegister >= 0) bytes[bytes.length - 1]! += parts.opcodeRegister & 7;
  if (parts.modrm) bytes.push((parts.mod << 6) | ((parts.reg & 7) << 3) | (parts.rm & 7));
  if (parts.sib >= 0) bytes.push(parts.sib);
  const displacementAt = bytes.length;
  if (parts.memory !== undefined) for (let i = 0; i < parts.memory.displacementSize; i++) bytes.push(0);
  const branchAt = parts.branchSize > 0 ? bytes.length : -1;
  for (let i = 0; i < parts.branchSize; i++) bytes.push(0);
  bytes.push(...parts.immediates);
  return {
    bytes,
    memory: parts.memory,
    displacementAt,
    branchAt,
    branchSize: parts.branchSize,
    addressSize: narrow ? 4 : 8,
    segmentBase,
    repeated,
  };
}

/**
 * Prefixes that mean nothing here: an operand size that REX.W or a byte operand overrides, repeats and hints of
 * branches.
 */
function addIdle(form: Form, prefixes: number[], random: Random): void {
  if (!random.oneIn(12)) return;
  // A loop with a repeat prefix is another loop on AMD's processors.
  if (form.mnemonic.startsWith("loop")) prefixes.push(random.pick([0x2e, 0x3e]));
  else if (isBranch(form)) prefixes.push(random.pick([0xf2, 0xf3, 0x2e, 0x3e]));
  else if (form.operandSize !== 16 && form.mandatoryPrefix !== 0x66) prefixes.push(0x66);
}

/** Writes the displacement, which is known only when the registers are. */
export function setDisplacement({ bytes, displacementAt, memory }: Encoded): void {
  let value = memory!.displacement;
  for (let i = 0; i < memory!.displacementSize; i++) {
    bytes[displacementAt + i] = Number(value & 0xffn);
    value >>= 8n;
  }
}

export function setBranch({ bytes, branchAt, branchSize }: Encoded, distance: number): void {
  for (let i = 0; i < branchSize; i++) bytes[branchAt + i] = (distance >> (8 * i)) & 0xff;
}

const usesAddress = (form: Form): boolean => form.operands.some((o) => /mem|_rSI|_rDI|_rBX/.test(o));

function chooseOperand(
  form: Form,
  kind: string,
  random: Random,
  parts: Parts,
  narrow: boolean,
  relative: boolean,
): void {
  const width = /^mm_|^seg_reg|^k_|^bnd_|^tr_/.test(kind) ? 8 : 16;
  if (/_or_mem$/.test(kind)) {
    parts.modrm = true;
    if (random.below(5) < 3) chooseMemory(form, random, parts, relative);
    else chooseRm(random.below(width), parts);
  } else if (/^mem(_mib|_mpx)?$/.test(kind)) {
    parts.modrm = true;
    chooseMemory(form, random, parts, relative);
  } else if (/_rm$/.test(kind)) {
    parts.modrm = true;
    chooseRm(random.below(width), parts);
  } else if (/_reg(_mem)?$/.test(kind)) {
    parts.modrm = true;
    parts.reg = random.below(kind === "seg_reg" ? 6 : width);
    parts.rex |= parts.reg > 7 ? 4 : 0;
  } else if (/_opcode$/.test(kind)) {
    parts.opcodeRegister = random.below(kind === "sti_opcode" ? 8 : 16);
    parts.rex |= parts.opcodeRegister > 7 ? 1 : 0;
  } else if (kind === "mem_offs") {
    parts.memory = {
      base: -1,
      index: -1,
      scale: 1,
      displacement: 0n,
      displacementSize: narrow ? 4 : 8,
      relative: false,
    };
  } else if (/^br/.test(kind)) {
    parts.branchSize = kind.endsWith("_1") ? 1 : 4;
  } else if (/^imm/.test(kind)) {
    chooseImmediate(kind, random, parts.immediates);
  }
  // All others are implied: al, cl, es_rDI.
}

function chooseRm(register: number, parts: Parts): void {
  parts.mod = 3;
  parts.rm = register;
  parts.rex |= register > 7 ? 1 : 0;
}

function chooseImmediate(kind: string, random: Random, into: number[]): void {
  if (kind === "imm8_const_1") return;
  if (/^imm(8|4)/.test(kind)) {
    into.push(random.oneIn(2) ? random.pick(bytes8) : random.below(256));
    return;
  }
  const size = kind === "imm16" ? 2 : kind === "imm64" ? 8 : 4;
  let value = random.integer();
  for (let i = 0; i < size; i++) {
    into.push(Number(value & 0xffn));
    value >>= 8n;
  }
}

function chooseMemory(form: Form, random: Random, parts: Parts, relative: boolean): void {
  const memory: MemoryForm = {
    base: -1,
    index: -1,
    scale: 1,
    displacement: 0n,
    displacementSize: 0,
    relative: false,
  };
  parts.memory = memory;
  const shape = relative ? 0 : random.below(16);
  if (shape === 0) {
    // disp32(%rip)
    parts.mod = 0;
    parts.rm = 5;
    memory.relative = true;
    memory.displacementSize = 4;
    return;
  }
  if (shape === 1) {
    // disp32(,index,scale), or disp32 alone
    parts.mod = 0;
    parts.rm = 4;
    chooseIndex(form, random, parts, memory);
    setSib(parts, memory, 5, random);
    memory.displacementSize = 4;
    return;
  }
  memory.base = random.below(16);
  parts.rex |= memory.base > 7 ? 1 : 0;
  parts.mod = random.below(3);
  if (parts.mod === 0 && (memory.base & 7) === 5) parts.mod = 1;
  memory.displacementSize = ([0, 1, 4] as const)[parts.mod]!;
  if (memory.displacementSize === 1) memory.displacement = BigInt(random.between(-128, 127));
  if (memory.displacementSize === 4)
    memory.displacement = BigInt(random.oneIn(2) ? random.between(-0x1000, 0x1000) : random.bits() | 0);
  if ((memory.base & 7) === 4 || shape < 9) {
    parts.rm = 4;
    // Beside a stack pointer that the instruction itself moves an index would lead anywhere.
    if (!(isStack(form) && memory.base === 4)) chooseIndex(form, random, parts, memory);
    setSib(parts, memory, memory.base, random);
  } else parts.rm = memory.base;
  if (isStack(form) && memory.base === 4) {
    memory.displacement = BigInt(random.between(-60, 60));
    if (memory.displacementSize === 0) memory.displacement = 0n;
  }
}

/** With an operand-size prefix these differ between makers of processors. */
const isBranch = (form: Form): boolean => /^(j|loop|call|ret)/.test(form.mnemonic);

function chooseIndex(form: Form, random: Random, parts: Parts, memory: MemoryForm): void {
  const index = random.below(16);
  memory.scale = 1 << random.below(4);
  // Number 4 without REX.X means: none.
  if (index === 4) return;
  if (isStack(form) && memory.base === 4) return;
  memory.index = index;
  parts.rex |= index > 7 ? 2 : 0;
}

function setSib(parts: Parts, memory: MemoryForm, base: number, random: Random): void {
  const scale = memory.index >= 0 ? Math.log2(memory.scale) : random.below(4);
  parts.sib = (scale << 6) | ((memory.index < 0 ? 4 : memory.index & 7) << 3) | (base & 7);
}

function shuffle(list: number[], random: Random): void {
  for (let i = list.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
}
