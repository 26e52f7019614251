/**
 * Reading the little language of exception tables: LEB128 numbers and pointers in the DW_EH_PE encodings, as .eh_frame
 * and .gcc_except_table have them.
 *
 * Specification: LSB 5.0 "DWARF Exception Header Encoding"; DWARF 5 section 7.6.
 */
import { hex } from "../address.js";
import { InputError } from "../errors.js";
import { read64, type Section } from "./image.js";

export const DW_EH_PE_omit = 0xff;
export const DW_EH_PE_indirect = 0x80;
/** The half of an encoding that says what a pointer is relative to. */
export const DW_EH_PE_application = 0x70;
export const DW_EH_PE_pcrel = 0x10;
export const DW_EH_PE_datarel = 0x30;

/** The error for a table that cannot be read on; `at` is a file offset, `section` the name of what holds the table. */
export const damaged = (what: string, at: number, section = ".eh_frame"): InputError =>
  new InputError(`damaged ${section}: ${what}`, `offset ${hex(at)}`);

/** A reader that walks through one section; positions are file offsets. */
export class EhCursor {
  constructor(
    readonly view: DataView,
    readonly section: Section,
    public at: number,
    readonly end: number,
    /** What DW_EH_PE_datarel is relative to, where that is known. */
    readonly dataBase?: number,
  ) {}

  private need(bytes: number): number {
    const at = this.at;
    if (at + bytes > this.end) throw damaged("a record is cut short", at, this.section.name);
    this.at += bytes;
    return at;
  }
  u8(): number {
    return this.view.getUint8(this.need(1));
  }
  u16(): number {
    return this.view.getUint16(this.need(2), true);
  }
  u32(): number {
    return this.view.getUint32(this.need(4), true);
  }
  u64(): number {
    return read64(this.view, this.need(8));
  }
  uleb(): number {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = this.u8();
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return value;
      if (shift > 2 ** 49) throw damaged("a number is too large", this.at, this.section.name);
    }
  }
  sleb(): number {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = this.u8();
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return byte & 0x40 ? value - shift * 128 : value;
      if (shift > 2 ** 49) throw damaged("a number is too large", this.at, this.section.name);
    }
  }
  skip(bytes: number): void {
    this.need(bytes);
  }
  string(): string {
    let text = "";
    for (let byte = this.u8(); byte !== 0; byte = this.u8()) text += String.fromCharCode(byte);
    return text;
  }
  /** A pointer in one of the DW_EH_PE encodings; undefined where it is omitted or null. */
  pointer(encoding: number): number | undefined {
    if (encoding === DW_EH_PE_omit) return undefined;
    const where = this.at - this.section.sh_offset + this.section.sh_addr;
    const raw = this.number(encoding & 0x0f);
    if (raw === 0) return undefined;
    switch (encoding & DW_EH_PE_application) {
      case 0x00:
        return raw;
      case DW_EH_PE_pcrel:
        return raw + where;
      case DW_EH_PE_datarel:
        if (this.dataBase !== undefined) return raw + this.dataBase;
        throw damaged("a pointer is relative to a global offset table that is not there", this.at, this.section.name);
      default:
        throw damaged(`pointer encoding ${hex(encoding)} is not supported`, this.at, this.section.name);
    }
  }
  /** A number in the format half of a DW_EH_PE encoding. */
  number(format: number): number {
    switch (format) {
      case 0x00:
      case 0x04:
        return this.u64();
      case 0x01:
        return this.uleb();
      case 0x02:
        return this.u16();
      case 0x03:
        return this.u32();
      case 0x09:
        return this.sleb();
      case 0x0a:
        return (this.u16() << 16) >> 16;
      case 0x0b:
        return this.u32() | 0;
      case 0x0c: {
        const low = this.u32();
        return low + (this.u32() | 0) * 2 ** 32;
      }
      default:
        throw damaged(`pointer format ${hex(format)} is not supported`, this.at, this.section.name);
    }
  }
}
