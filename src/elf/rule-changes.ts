/**
 * The addresses at which the unwind rules of a function change: whether code may be moved depends on them. cfa-rows.ts says
 * what the rules are; this only walks through the same instructions, for every function of a file that has landing pads.
 *
 * Specification: DWARF 5 section 6.4.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import type { EhCursor } from "./eh-cursor.js";

/** Walks through the call frame instructions of an FDE and notes each address to which they advance. */
export function readRuleChanges(
  cursor: EhCursor,
  start: number,
  cie: { readonly codeAlignment: number; readonly fdeEncoding: number },
): readonly Vaddr[] {
  const changes: Vaddr[] = [];
  let location = start;
  const advance = (by: number): void => {
    location += by * cie.codeAlignment;
    changes.push(vaddr(location));
  };
  const skipBlock = (): void => cursor.skip(cursor.uleb());
  while (cursor.at < cursor.end) {
    const op = cursor.u8();
    if (op >= 0xc0) continue; // DW_CFA_restore
    if (op >= 0x80) {
      cursor.uleb(); // DW_CFA_offset
      continue;
    }
    if (op >= 0x40) {
      advance(op & 0x3f);
      continue;
    }
    switch (op) {
      case 0x00: // nop
      case 0x0a: // remember_state
      case 0x0b: // restore_state
      case 0x2d: // GNU_window_save
        break;
      case 0x01: // set_loc
        location = cursor.pointer(cie.fdeEncoding) ?? location;
        changes.push(vaddr(location));
        break;
      case 0x02:
        advance(cursor.u8());
        break;
      case 0x03:
        advance(cursor.u16());
        break;
      case 0x04:
        advance(cursor.u32());
        break;
      case 0x06: // restore_extended
      case 0x07: // undefined
      case 0x08: // same_value
      case 0x0d: // def_cfa_register
      case 0x0e: // def_cfa_offset
      case 0x2e: // GNU_args_size
        cursor.uleb();
        break;
      case 0x05: // offset_extended
      case 0x09: // register
      case 0x0c: // def_cfa
      case 0x14: // val_offset
      case 0x2f: // GNU_negative_offset_extended
        cursor.uleb();
        cursor.uleb();
        break;
      case 0x13: // def_cfa_offset_sf
        cursor.sleb();
        break;
      case 0x11: // offset_extended_sf
      case 0x12: // def_cfa_sf
      case 0x15: // val_offset_sf
        cursor.uleb();
        cursor.sleb();
        break;
      case 0x0f: // def_cfa_expression
        skipBlock();
        break;
      case 0x10: // expression
      case 0x16: // val_expression
        cursor.uleb();
        skipBlock();
        break;
      default:
        throw new InputError(
          `damaged .eh_frame: unknown call frame instruction ${hex(op)}`,
          `offset ${hex(cursor.at - 1)}`,
        );
    }
  }
  return changes;
}
