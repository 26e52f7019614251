/**
 * A case in the making: the instruction as it is decoded, where its operands are, and the record that its state is
 * written to. A register on which an address depends is pinned: nobody else may set it.
 */
import { iced } from "../../../src/x86/iced.js";
import { decodeOne } from "./decode-one.js";
import type { Encoded } from "./encode.js";
import { type Element, fillRecord } from "./fill-record.js";
import { type Form, isString } from "./forms.js";
import * as at from "./layout.js";
import { instructionAt, type Layout, Record } from "./layout.js";
import type { Random } from "./random.js";

const { OpKind, Register, RegisterExt } = iced;
const MASK = 0xffffffffffffffffn;

/** An explicit operand in a register or in memory. */
export interface Place {
  readonly kind: "gpr" | "xmm" | "memory";
  /** Number of the register. */
  readonly register: number;
  /** In bytes. */
  readonly size: number;
  readonly high: boolean;
}

export class CaseState {
  readonly view: DataView;
  readonly address: number;
  /** Registers whose values must stay: they make addresses. */
  pinned = 0;
  /** Where the explicit memory operand leads, the segment's base included. */
  target: number;
  readonly memorySize: number;
  readonly places: readonly (Place | undefined)[];

  constructor(
    readonly form: Form,
    readonly random: Random,
    readonly encoded: Encoded,
    readonly layout: Layout,
    slot: number,
    readonly record: Uint8Array,
  ) {
    this.view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    this.address = instructionAt(layout, slot);
    this.target = layout.area + 256;
    const decoded = decodeOne(Uint8Array.from(encoded.bytes));
    this.memorySize = iced.MemorySizeExt.size(decoded.memorySize);
    this.places = form.operands.map((_, i) => placeOf(decoded, i));
    fillRecord(record, this.address, random, chooseElement(form, random));
  }

  gpr(register: number): bigint {
    return this.view.getBigUint64(Record.GPR + 8 * register, true);
  }

  setGpr(register: number, value: bigint): void {
    this.view.setBigUint64(Record.GPR + 8 * register, value & MASK, true);
  }

  /** Sets a register unless an address depends on it. Says whether it could. */
  trySetGpr(register: number, value: bigint): boolean {
    if (this.pinned & (1 << register)) return false;
    this.setGpr(register, value);
    return true;
  }

  pin(...registers: readonly number[]): void {
    for (const register of registers) if (register >= 0) this.pinned |= 1 << register;
  }

  /** Where in the record a place is, or -1 where it is not in the record. */
  offsetOf(place: Place): number {
    if (place.kind === "xmm") return Record.XMM + 16 * place.register;
    if (place.kind === "gpr") return Record.GPR + 8 * place.register + (place.high ? 1 : 0);
    return this.offsetIn(this.target, place.size);
  }

  offsetIn(address: number, size: number): number {
    if (address >= this.layout.area && address + size <= this.layout.area + at.AREA_SIZE)
      return Record.AREA + address - this.layout.area;
    if (address >= this.layout.edge && address + size <= this.layout.edge + at.EDGE_SIZE)
      return Record.EDGE + address - this.layout.edge;
    return -1;
  }

  read(place: Place): bigint | undefined {
    const offset = this.offsetOf(place);
    if (offset < 0 || place.size > 8 || place.size === 0) return undefined;
    let value = 0n;
    for (let i = place.size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.record[offset + i]!);
    return value;
  }

  write(place: Place, value: bigint): boolean {
    const offset = this.offsetOf(place);
    if (offset < 0 || (place.kind === "gpr" && this.pinned & (1 << place.register))) return false;
    for (let i = 0; i < Math.min(place.size, 8); i++)
      this.record[offset + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    return true;
  }
}

function placeOf(decoded: ReturnType<typeof decodeOne>, i: number): Place | undefined {
  const kind = decoded.opKind(i);
  if (kind === OpKind.Memory)
    return { kind: "memory", register: -1, size: iced.MemorySizeExt.size(decoded.memorySize), high: false };
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

function chooseElement(form: Form, random: Random): Element {
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
