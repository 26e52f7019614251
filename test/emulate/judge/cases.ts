/**
 * One case: an instruction with its bytes, and the state that it starts from. Everything follows from the seed, the form
 * and the number of the case, so that a case that fails can be made again alone.
 *
 * Values are random with a preference for boundaries (random.ts). Then what the instruction needs to do something
 * interesting is arranged: memory operands lead into the scratch memory, a few of them out of it on purpose; shift counts
 * are small, quotients fit, comparisons find equals, repeat counts are small, branches have somewhere to go.
 */
import { iced } from "../../../src/x86/iced.js";
import { type Encoded, encode, setBranch, setDisplacement } from "./encode.js";
import type { Form } from "./forms.js";
import * as at from "./layout.js";
import { HIGH, instructionAt, type Layout, LOW, Record } from "./layout.js";
import { Random } from "./random.js";
import { NOTHING_UNDEFINED, type Undefined, undefinedResults } from "./undefined-results.js";

const { OpKind, Register, RegisterExt } = iced;

export interface Case {
  readonly form: Form;
  readonly number: number;
  readonly layout: Layout;
  readonly bytes: Uint8Array;
  /** "r", "m", ... for each explicit operand: what the coverage table counts. */
  readonly shape: string;
  /** How many instructions it is. */
  readonly count: number;
  /**
   * What it leaves undefined.
   * @param before the state before
   * @param faultAt how many bytes in front of the instruction that faulted, or undefined
   */
  undefinedAfter(before: DataView, faultAt: number | undefined): Undefined;
}

const [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const MASK = 0xffffffffffffffffn;

const decoded = new iced.Instruction();

/** The layout of a case: every other one is high. */
export const layoutOf = (number: number): Layout => (number % 2 === 0 ? LOW : HIGH);

/**
 * Makes a case in slot `slot` of the code.
 * @param record receives the state before: RECORD_SIZE bytes
 * @returns undefined where no encoding was found that a decoder takes for this form
 */
export function makeCase(form: Form, seed: number, number: number, slot: number, record: Uint8Array): Case | undefined {
  const random = new Random(seed, form.code, number);
  for (let attempt = 0; attempt < 40; attempt++) {
    const encoded = encode(form, random);
    if (encoded.bytes.length > 15 || decode(encoded.bytes) !== form.code) continue;
    return new Builder(form, random, encoded, layoutOf(number), slot, record).build(number);
  }
  return undefined;
}

/** The Code of an instruction that is all of `bytes`, else INVALID. */
export function decode(bytes: readonly number[]): number {
  decodeOne(Uint8Array.from(bytes));
  return decoded.length === bytes.length ? decoded.code : iced.Code.INVALID;
}

/** One instruction object for all of them. */
export function decodeOne(bytes: Uint8Array): typeof decoded {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.decodeOut(decoded);
  decoder.free();
  return decoded;
}

/** What an instruction works on, as far as values for it are chosen. */
export type Element = "integer" | "float32" | "float64" | "bytes";

/** Fills a record with a random state that has the instruction at `address`. */
export function fillRecord(record: Uint8Array, address: number, random: Random, element: Element): void {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  record.fill(0);
  for (let i = 0; i < 16; i++) view.setBigUint64(Record.GPR + 8 * i, random.integer(), true);
  view.setUint32(Record.FLAGS, randomFlags(random), true);
  view.setUint32(Record.IP, address, true);
  view.setUint16(Record.FX, 0x37f, true);
  // The default is all that the emulator runs with: it says so where a program loads anything else.
  view.setUint32(Record.FX_MXCSR, 0x1f80, true);
  fill(view, Record.XMM, 256, random, element);
  fill(view, Record.AREA, at.AREA_SIZE, random, element);
  fill(view, Record.EDGE, at.EDGE_SIZE, random, element);
}

function randomFlags(random: Random): number {
  let flags = 0x202;
  for (const bit of [0x1, 0x4, 0x10, 0x40, 0x80, 0x800]) if (random.oneIn(2)) flags |= bit;
  if (random.oneIn(3)) flags |= 0x400;
  return flags;
}

/** Fills bytes of the record with elements; a multiple of 8 bytes. */
function fill(view: DataView, offset: number, size: number, random: Random, element: Element): void {
  // Few different bytes, so that comparisons of bytes find some equal.
  const alphabet = [0, 0xff, random.below(256), 0x80];
  // Few different numbers, so that zeros of both signs, infinities and NaNs meet each other.
  const special = random.oneIn(6);
  for (let i = 0; i < size; i += 8) {
    switch (element) {
      case "integer":
        view.setBigUint64(offset + i, random.integer(), true);
        break;
      case "float64":
        view.setBigUint64(offset + i, special ? random.special64() : random.float64(), true);
        break;
      case "float32":
        for (const at of [offset + i, offset + i + 4])
          view.setUint32(at, special ? random.special32() : random.float32(), true);
        break;
      case "bytes":
        for (let j = 0; j < 8; j++) view.setUint8(offset + i + j, random.pick(alphabet));
    }
  }
}

interface Place {
  readonly kind: "gpr" | "xmm" | "memory";
  /** Number of the register. */
  readonly register: number;
  /** In bytes. */
  readonly size: number;
  readonly high: boolean;
}

class Builder {
  private readonly view: DataView;
  private readonly address: number;
  /** Registers whose values must stay: they make addresses. */
  private pinned = 0;
  /** Where the explicit memory operand leads: its effective address without the segment's base is not this. */
  private target: number;
  private readonly element: Element;
  private readonly memorySize: number;
  private readonly places: readonly (Place | undefined)[];

  constructor(
    private readonly form: Form,
    private readonly random: Random,
    private readonly encoded: Encoded,
    private readonly layout: Layout,
    slot: number,
    private readonly record: Uint8Array,
  ) {
    this.view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    this.address = instructionAt(layout, slot);
    this.target = layout.area + 256;
    this.memorySize = iced.MemorySizeExt.size(decoded.memorySize);
    this.element = this.chooseElement();
    this.places = form.operands.map((_, i) => this.placeOf(i));
  }

  build(number: number): Case {
    this.fillState();
    this.placeStack();
    this.placeStrings();
    this.placeMemory();
    this.placeEquals();
    this.arrange();
    const { form, layout } = this;
    const bytes = Uint8Array.from(this.encoded.bytes);
    return {
      form,
      number,
      layout,
      bytes,
      shape: this.shape(),
      count: 1,
      undefinedAfter: (before, faultAt) =>
        faultAt === undefined ? undefinedResults(decodeOne(bytes), form.mnemonic, before) : NOTHING_UNDEFINED,
    };
  }

  private shape(): string {
    const letters = this.form.operands.map((kind, i) => {
      const place = this.places[i];
      if (place === undefined) return kind;
      return place.kind === "memory" ? "m" : place.high ? "h" : place.kind === "xmm" ? "x" : "r";
    });
    return letters.join(",");
  }

  // The state.

  private gpr(register: number): bigint {
    return this.view.getBigUint64(Record.GPR + 8 * register, true);
  }

  private setGpr(register: number, value: bigint): void {
    this.view.setBigUint64(Record.GPR + 8 * register, value & MASK, true);
  }

  /** Sets a register unless an address depends on it. Says whether it could. */
  private trySetGpr(register: number, value: bigint): boolean {
    if (this.pinned & (1 << register)) return false;
    this.setGpr(register, value);
    return true;
  }

  private pin(...registers: readonly number[]): void {
    for (const register of registers) if (register >= 0) this.pinned |= 1 << register;
  }

  private fillState(): void {
    fillRecord(this.record, this.address, this.random, this.element);
  }

  private chooseElement(): Element {
    const { form, random } = this;
    const choice = random.below(8);
    if (choice === 0) return "integer";
    if (choice === 1) return "bytes";
    if (isString(form)) return random.oneIn(2) ? "bytes" : "integer";
    if (/^cvt/.test(form.mnemonic)) {
      if (/^cvtt?ss|^cvtt?ps/.test(form.mnemonic)) return "float32";
      if (/^cvtt?sd|^cvtt?pd/.test(form.mnemonic)) return "float64";
      return "integer";
    }
    if (!form.operands.some((o) => /^xmm|^mm/.test(o))) return "integer";
    if (/(ss|ps)$/.test(form.mnemonic)) return "float32";
    if (/(sd|pd)$/.test(form.mnemonic)) return "float64";
    return choice < 5 ? "integer" : choice === 5 ? "float32" : choice === 6 ? "float64" : "bytes";
  }

  // Operands.

  private placeOf(i: number): Place | undefined {
    const kind = decoded.opKind(i);
    if (kind === OpKind.Memory) return { kind: "memory", register: -1, size: this.memorySize, high: false };
    if (kind !== OpKind.Register) return undefined;
    const register = decoded.opRegister(i);
    if (RegisterExt.isGPR(register)) {
      const high = register >= Register.AH && register <= Register.BH;
      const full = RegisterExt.fullRegister(register) - Register.RAX;
      return { kind: "gpr", register: full, size: RegisterExt.size(register), high };
    }
    if (register >= Register.XMM0 && register <= Register.XMM15)
      return { kind: "xmm", register: register - Register.XMM0, size: 16, high: false };
    return undefined;
  }

  /** Where in the record a place is, or -1 where it is not in the record. */
  private offsetOf(place: Place): number {
    if (place.kind === "xmm") return Record.XMM + 16 * place.register;
    if (place.kind === "gpr") return Record.GPR + 8 * place.register + (place.high ? 1 : 0);
    return this.offsetIn(this.target, place.size);
  }

  private offsetIn(address: number, size: number): number {
    if (address >= this.layout.area && address + size <= this.layout.area + at.AREA_SIZE)
      return Record.AREA + address - this.layout.area;
    if (address >= this.layout.edge && address + size <= this.layout.edge + at.EDGE_SIZE)
      return Record.EDGE + address - this.layout.edge;
    return -1;
  }

  private read(place: Place): bigint | undefined {
    const offset = this.offsetOf(place);
    if (offset < 0 || place.size > 8 || place.size === 0) return undefined;
    let value = 0n;
    for (let i = place.size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.record[offset + i]!);
    return value;
  }

  private write(place: Place, value: bigint): boolean {
    const offset = this.offsetOf(place);
    if (offset < 0 || (place.kind === "gpr" && this.pinned & (1 << place.register))) return false;
    for (let i = 0; i < Math.min(place.size, 8); i++)
      this.record[offset + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    return true;
  }

  // Addresses.

  /** Where an access of `size` bytes goes: mostly into AREA, aligned or not; now and then to a place where it faults. */
  private chooseTarget(size: number, room: number): bigint {
    const random = this.random;
    const choice = random.below(40);
    const alignment = size > 0 && (size & (size - 1)) === 0 && random.below(4) > 0 ? size : 1;
    const align = (address: number) => BigInt(address - (address % alignment));
    if (choice < 34) {
      // With 32 bits only the part below 2^32 is in reach.
      const length = this.encoded.addressSize === 4 && this.layout === HIGH ? at.AREA_SIZE / 2 : at.AREA_SIZE;
      return align(this.layout.area + room + random.below(Math.max(1, length - 2 * room - size + 1)));
    }
    // Out of the mapped memory, in part or not quite.
    if (choice < 36) return align(this.layout.edge + at.EDGE_SIZE - random.below(2 * Math.max(size, 1) + 1));
    if (choice < 38) return align(this.layout.readOnly + 64 + random.below(at.READ_ONLY_SIZE - 128 - size));
    if (choice < 39) return align(this.layout.unmapped + random.below(4096));
    // Far from the ends of the canonical addresses: a segment's base is added later, and the processor faults as well where
    // only the address before that is not canonical.
    return random.pick([0x8000000000000000n, 0x0000900000000000n, 0xffff7f0000000000n, 0xffff900000000000n]);
  }

  private placeMemory(): void {
    const { encoded, form, random } = this;
    const memory = encoded.memory;
    if (memory === undefined) return;
    const bits = BigInt(encoded.addressSize * 8);
    const ownStack = isStack(form) && memory.base === RSP;
    const bitOffset = /^bt/.test(form.mnemonic) && form.operands[1]!.endsWith("_reg");
    let target = this.chooseTarget(this.memorySize, bitOffset ? 128 : 0);
    if (ownStack) target = BigInt(this.layout.area + 256 + random.between(-64, 64));
    const narrow = encoded.addressSize === 4;
    const absolute = memory.base < 0 && memory.index < 0;
    const isFar = (address: bigint) => address < 0n || address >= 0x2_0000_0000n;
    if ((narrow || memory.relative || absolute) && isFar(target)) target = BigInt(this.layout.unmapped);
    // The sum that the instruction has to come to, before the segment's base.
    let sum = target - encoded.segmentBase;
    if (narrow && (sum < 0n || sum >= 0x1_0000_0000n)) sum = BigInt(LOW.area + 128);
    if (absolute && memory.displacementSize === 4 && !narrow && !fits32(sum)) sum = BigInt(LOW.readOnly + 128);
    const scale = BigInt(memory.scale);
    if (memory.relative) {
      const distance = sum - BigInt(this.address + encoded.bytes.length);
      memory.displacement = fits32(distance) ? distance : 0n;
    } else if (absolute) memory.displacement = sum;
    else if (memory.base < 0) {
      const near = BigInt(random.between(-1000, 1000));
      const index = fits32(sum - near * scale) ? near : sum / scale - near;
      memory.displacement = sum - index * scale;
      this.setAddressGpr(memory.index, index, bits);
    } else if (memory.base === memory.index) {
      this.setAddressGpr(memory.base, (sum - memory.displacement) / (scale + 1n), bits);
    } else {
      let index = 0n;
      if (memory.index >= 0) {
        index = this.pinned & (1 << memory.index) ? this.gpr(memory.index) : this.chooseIndex();
        this.setAddressGpr(memory.index, index, bits);
      }
      this.setAddressGpr(memory.base, sum - memory.displacement - index * scale, bits);
    }
    this.pin(memory.base, memory.index);
    setDisplacement(encoded);
    this.target = this.effectiveAddress(bits);
    // Values stand where the operand is, aligned to it.
    const offset = this.offsetIn(this.target & ~7, 32);
    if (offset >= 0 && this.target % 8 !== 0) {
      const whole = this.record.slice(offset, offset + 24);
      this.record.set(whole, offset + (this.target % 8));
    }
  }

  private chooseIndex(): bigint {
    return this.random.oneIn(3) ? this.random.bits64() : BigInt(this.random.between(-300, 300));
  }

  private setAddressGpr(register: number, value: bigint, bits: bigint): void {
    const low = BigInt.asUintN(Number(bits), value);
    // With an address-size prefix the upper half is garbage that must not matter.
    this.setGpr(register, bits === 32n ? (BigInt(this.random.bits()) << 32n) | low : low);
  }

  private effectiveAddress(bits: bigint): number {
    const memory = this.encoded.memory!;
    let sum = memory.displacementSize === 4 ? BigInt.asIntN(32, memory.displacement) : memory.displacement;
    if (memory.relative) sum += BigInt(this.address + this.encoded.bytes.length);
    if (memory.base >= 0) sum += this.gpr(memory.base);
    if (memory.index >= 0) sum += this.gpr(memory.index) * BigInt(memory.scale);
    return Number(BigInt.asUintN(64, BigInt.asUintN(Number(bits), sum) + this.encoded.segmentBase));
  }

  private placeStack(): void {
    const { form, random } = this;
    if (!isStack(form)) return;
    const middle = this.layout.area + 256;
    const size = form.operandSize === 16 ? 2 : 8;
    let stack = BigInt(middle + random.between(-120, 120));
    if (random.oneIn(12)) stack = this.chooseTarget(size, 0);
    if (random.oneIn(2)) stack &= ~7n;
    this.setGpr(RSP, stack);
    if (form.mnemonic === "enter" || form.mnemonic === "leave") {
      this.setGpr(RBP, random.oneIn(12) ? this.chooseTarget(8, 0) : BigInt(middle + random.between(-100, 100)));
      this.pin(RBP);
    }
    if (form.mnemonic === "enter") {
      const { bytes } = this.encoded;
      bytes[bytes.length - 3] = random.below(64);
      bytes[bytes.length - 2] = 0;
      bytes[bytes.length - 1] = random.pick([0, 0, 0, 0, 0, 0, 32, 64, 1, 2, 3, 33]);
    }
    this.target = Number(stack);
  }

  private placeStrings(): void {
    const { form, random, encoded } = this;
    const bits = BigInt(encoded.addressSize * 8);
    const put = (register: number, address: bigint, segment: bigint) => {
      const low = address - segment;
      this.setAddressGpr(register, bits === 32n && low < 0n ? address : low, bits);
      this.pin(register);
    };
    const size = Math.max(this.memorySize, 1);
    const choose = () => {
      const chosen = this.chooseTarget(size, 96);
      return bits === 32n && chosen >= 0x1_0000_0000n ? BigInt(this.layout.unmapped) : chosen;
    };
    for (const operand of form.operands) {
      if (operand === "seg_rSI") put(RSI, choose(), encoded.segmentBase);
      else if (operand === "es_rDI") put(RDI, choose(), 0n);
      else if (operand === "seg_rDI") put(RDI, choose(), encoded.segmentBase);
      else if (operand === "seg_rBX_al") put(RBX, BigInt(this.layout.area + random.below(200)), encoded.segmentBase);
    }
    if (isString(form) && encoded.repeated) {
      this.setAddressGpr(RCX, BigInt(random.below(12)), bits);
      this.pin(RCX);
    }
  }

  // Relations between operands.

  /** Where two operands are compared or subtracted, random ones are never equal: now and then they are made so. */
  private placeEquals(): void {
    const [first, second] = this.places;
    if (first === undefined || second === undefined || !this.random.oneIn(8)) return;
    const [from, to] = [this.offsetOf(first), this.offsetOf(second)];
    if (from < 0 || to < 0 || (second.kind === "gpr" && this.pinned & (1 << second.register))) return;
    this.record.copyWithin(to, from, from + Math.min(first.size, second.size));
  }

  private arrange(): void {
    const { form } = this;
    const name = form.mnemonic;
    if (form.operands.includes("cl")) this.trySetGpr(RCX, (this.gpr(RCX) & ~0xffn) | BigInt(this.shiftCount()));
    if (/^bt[cst]?r?$/.test(name) && form.operands[1]!.endsWith("_reg")) this.arrangeBitOffset();
    if (name === "div" || name === "idiv") this.arrangeDivision();
    if (name === "cmpxchg") this.arrangeCompareExchange();
    if (/^cmpxchg(8|16)b$/.test(name)) this.arrangeCompareExchangePair();
    if (/^(bsf|bsr|tzcnt|lzcnt)$/.test(name) && this.random.oneIn(6)) this.write(this.places[1]!, 0n);
    if (/^loop|^j.?cxz$/.test(name)) this.setGpr(RCX, this.loopCount());
    if (/^popf/.test(name)) this.arrangeFlags();
    // Reserved bits fault. The exceptions that may be unmasked are those of later instructions.
    if (name === "ldmxcsr" && !this.random.oneIn(4)) this.write(this.places[0]!, BigInt(this.random.below(0x10000)));
    if (/^(jmp|call|ret|j|loop)/.test(name)) this.arrangeBranch();
  }

  private shiftCount(): number {
    const { random } = this;
    return random.oneIn(3)
      ? random.below(256)
      : random.pick([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x41]);
  }

  private loopCount(): bigint {
    return this.random.pick([0n, 1n, 2n, 3n, 0x100000000n, 0x100000001n, 0xffffffff00000000n, MASK]);
  }

  /** A bit offset in a register leads away from a memory operand by offset / 8 bytes, with its sign. */
  private arrangeBitOffset(): void {
    const { random, places } = this;
    const [base, offset] = places;
    if (base?.kind !== "memory" || offset?.kind !== "gpr") return;
    const value = BigInt.asUintN(64, BigInt(random.between(-900, 900)));
    const kept = BigInt(8 * offset.size);
    const upper = (random.bits64() >> kept) << kept;
    this.trySetGpr(offset.register, kept === 64n ? value : upper | BigInt.asUintN(Number(kept), value));
  }

  /** Makes the quotient fit in three of four cases. */
  private arrangeDivision(): void {
    const { random, form } = this;
    const place = this.places[0]!;
    const divisor = this.read(place);
    if (divisor === undefined || random.oneIn(4)) return;
    const bits = 8 * place.size;
    const signed = form.mnemonic === "idiv";
    const by = signed ? BigInt.asIntN(bits, divisor) : divisor;
    if (by === 0n) return;
    const quotient = this.quotient(bits, signed);
    const magnitude = by < 0n ? -by : by;
    const rest = random.oneIn(4) ? magnitude - 1n : random.integer() % magnitude;
    const product = quotient * by;
    const negative = product < 0n || (product === 0n && random.oneIn(2) && signed);
    const dividend = negative ? product - rest : product + rest;
    const low = BigInt.asUintN(bits, dividend);
    const high = BigInt.asUintN(bits, dividend >> BigInt(bits));
    if (bits === 8) this.trySetGpr(RAX, (this.gpr(RAX) & ~0xffffn) | (high << 8n) | low);
    else {
      const keep = bits === 16 ? ~0xffffn : 0n;
      const garbage = bits === 32 ? BigInt(random.bits()) << 32n : 0n;
      // The divisor itself may be in rax or rdx: then it is what it is.
      if (place.kind === "gpr" && (place.register === RAX || place.register === RDX)) return;
      this.trySetGpr(RAX, (this.gpr(RAX) & keep) | garbage | low);
      this.trySetGpr(RDX, (this.gpr(RDX) & keep) | garbage | high);
    }
  }

  /** One that fits, or is next to the largest or smallest that does. */
  private quotient(bits: number, signed: boolean): bigint {
    const { random } = this;
    const width = BigInt(signed ? bits - 1 : bits);
    if (random.oneIn(3)) {
      const end = signed && random.oneIn(2) ? -(1n << width) : (1n << width) - 1n;
      return end + BigInt(random.between(-1, 1));
    }
    return signed ? BigInt.asIntN(bits, random.integer()) : BigInt.asUintN(bits, random.integer());
  }

  private arrangeCompareExchange(): void {
    const place = this.places[0]!;
    const value = this.read(place);
    if (value === undefined || this.random.oneIn(2)) return;
    const mask = (1n << BigInt(8 * place.size)) - 1n;
    this.trySetGpr(RAX, (this.gpr(RAX) & ~mask) | value);
  }

  private arrangeCompareExchangePair(): void {
    if (this.random.oneIn(2)) return;
    const half = this.memorySize / 2;
    const offset = this.offsetIn(this.target, this.memorySize);
    if (offset < 0) return;
    const read = (from: number) =>
      half === 4 ? BigInt(this.view.getUint32(from, true)) : this.view.getBigUint64(from, true);
    this.trySetGpr(RAX, read(offset));
    this.trySetGpr(RDX, read(offset + half));
  }

  /** TF would trap behind the next instruction, AC fault at every misaligned operand of the program around the case. */
  private arrangeFlags(): void {
    const offset = this.offsetIn(Number(this.gpr(RSP)), 8);
    if (offset < 0) return;
    this.record[offset + 1]! &= ~0x01;
    this.record[offset + 2]! &= ~0x04;
  }

  private arrangeBranch(): void {
    const { encoded, random, form } = this;
    const slot = this.address - at.INSTRUCTION_IN_SLOT;
    const landing = slot + (random.oneIn(2) ? at.LANDING_BEFORE : at.LANDING_BEHIND);
    if (encoded.branchAt >= 0) {
      setBranch(encoded, landing - (this.address + encoded.bytes.length));
      return;
    }
    const target = BigInt(random.oneIn(16) ? this.layout.unmapped + random.below(4096) : landing);
    if (/^ret/.test(form.mnemonic)) {
      const offset = this.offsetIn(Number(this.gpr(RSP)), 8);
      if (offset >= 0) this.view.setBigUint64(offset, target, true);
    } else if (!this.write(this.places[0]!, target)) {
      // Whatever stands there is the target, which may not be canonical: the stack must not fault as well, since which of
      // two faults comes first is not the same on all processors.
      this.trySetGpr(RSP, BigInt(this.layout.area + 256));
    }
  }
}

const fits32 = (value: bigint): boolean => BigInt.asIntN(32, value) === value;

const isString = (form: Form): boolean => form.operands.some((o) => o === "seg_rSI" || o === "es_rDI");

const isStack = (form: Form): boolean =>
  /^(push|pop|call|ret|enter|leave)/.test(form.mnemonic) && form.mnemonic !== "popcnt";
