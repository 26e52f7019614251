/**
 * The call frame instructions of unwind tables, in one place: how each is encoded, and what it asks for. Three tables
 * are made of them, each by a sink of its own: where rules change at all (rule-changes.ts), the CFA (cfa-rows.ts), and
 * all rules (frame-states.ts).
 *
 * Specification: DWARF 5 section 6.4.2; LSB 5.0 for DW_CFA_GNU_args_size.
 */
import { hex } from "../address.js";
import { damaged, type EhCursor } from "./eh-cursor.js";

/** How one register of the caller is found. Offsets are in bytes, relative to the CFA. */
export type RegisterRule =
  | { readonly kind: "undefined" | "same value" }
  | { readonly kind: "offset" | "val_offset"; readonly offset: number }
  | { readonly kind: "register"; readonly register: number }
  | { readonly kind: "expression" | "val_expression"; readonly expression: Uint8Array };

/** What the instructions ask for. Registers are DWARF's numbers, offsets are in bytes, factors applied. */
export interface CallFrameSink {
  /** What follows holds from this link-time address on. */
  moveTo(location: number): void;
  defineCfa(register: number, offset: number): void;
  cfaRegister(register: number): void;
  cfaOffset(offset: number): void;
  cfaExpression(expression: Uint8Array): void;
  rule(register: number, rule: RegisterRule): void;
  /** Back to the rule of the CIE. */
  restore(register: number): void;
  rememberState(): void;
  restoreState(): void;
  argsSize(bytes: number): void;
}

/** Takes no notice of anything: for sinks that ask for little. */
export const IGNORED: CallFrameSink = {
  moveTo() {},
  defineCfa() {},
  cfaRegister() {},
  cfaOffset() {},
  cfaExpression() {},
  rule() {},
  restore() {},
  rememberState() {},
  restoreState() {},
  argsSize() {},
};

/** What the encoding of the instructions depends on. */
export interface CallFrameEncoding {
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  readonly fdeEncoding: number;
}

/**
 * Hands on what a run of instructions asks for.
 * @param location the link-time address at which it begins
 * @throws InputError where the instructions are damaged
 */
export function walkCallFrames(
  cursor: EhCursor,
  { codeAlignment, dataAlignment, fdeEncoding }: CallFrameEncoding,
  location: number,
  sink: CallFrameSink,
): void {
  let now = location;
  const moveTo = (address: number): void => {
    now = address;
    sink.moveTo(address);
  };
  const advance = (by: number): void => moveTo(now + by * codeAlignment);
  const offset = (register: number, by: number): void =>
    sink.rule(register, { kind: "offset", offset: by * dataAlignment });
  const valueOffset = (register: number, by: number): void =>
    sink.rule(register, { kind: "val_offset", offset: by * dataAlignment });
  const expression = (): Uint8Array => {
    const size = cursor.uleb();
    const { at, view } = cursor;
    cursor.skip(size);
    return new Uint8Array(view.buffer, view.byteOffset + at, size).slice();
  };
  while (cursor.at < cursor.end) {
    const op = cursor.u8();
    // The two upper bits are three instructions with an operand in the lower six.
    switch (op >> 6) {
      case 1:
        advance(op & 0x3f);
        continue;
      case 2:
        offset(op & 0x3f, cursor.uleb());
        continue;
      case 3:
        sink.restore(op & 0x3f);
        continue;
    }
    switch (op) {
      case 0x00: // nop
      case 0x2d: // GNU_window_save
        break;
      case 0x01: // set_loc
        moveTo(cursor.pointer(fdeEncoding) ?? now);
        break;
      case 0x02: // advance_loc1, 2, 4
        advance(cursor.u8());
        break;
      case 0x03:
        advance(cursor.u16());
        break;
      case 0x04:
        advance(cursor.u32());
        break;
      case 0x05: // offset_extended
        offset(cursor.uleb(), cursor.uleb());
        break;
      case 0x06: // restore_extended
        sink.restore(cursor.uleb());
        break;
      case 0x07:
        sink.rule(cursor.uleb(), { kind: "undefined" });
        break;
      case 0x08:
        sink.rule(cursor.uleb(), { kind: "same value" });
        break;
      case 0x09:
        sink.rule(cursor.uleb(), { kind: "register", register: cursor.uleb() });
        break;
      case 0x0a:
        sink.rememberState();
        break;
      case 0x0b:
        sink.restoreState();
        break;
      case 0x0c: // def_cfa
        sink.defineCfa(cursor.uleb(), cursor.uleb());
        break;
      case 0x0d:
        sink.cfaRegister(cursor.uleb());
        break;
      case 0x0e:
        sink.cfaOffset(cursor.uleb());
        break;
      case 0x0f:
        sink.cfaExpression(expression());
        break;
      case 0x10:
        sink.rule(cursor.uleb(), { kind: "expression", expression: expression() });
        break;
      case 0x11: // offset_extended_sf
        offset(cursor.uleb(), cursor.sleb());
        break;
      case 0x12: // def_cfa_sf
        sink.defineCfa(cursor.uleb(), cursor.sleb() * dataAlignment);
        break;
      case 0x13: // def_cfa_offset_sf
        sink.cfaOffset(cursor.sleb() * dataAlignment);
        break;
      case 0x14:
        valueOffset(cursor.uleb(), cursor.uleb());
        break;
      case 0x15: // val_offset_sf
        valueOffset(cursor.uleb(), cursor.sleb());
        break;
      case 0x16:
        sink.rule(cursor.uleb(), { kind: "val_expression", expression: expression() });
        break;
      case 0x2e: // GNU_args_size
        sink.argsSize(cursor.uleb());
        break;
      case 0x2f: // GNU_negative_offset_extended
        offset(cursor.uleb(), -cursor.uleb());
        break;
      default:
        throw damaged(`unknown call frame instruction ${hex(op)}`, cursor.at - 1);
    }
  }
}
