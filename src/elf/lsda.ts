/**
 * The language-specific data of a function (`.gcc_except_table`): which parts of it are covered by which landing pad.
 *
 * A landing pad is an address that the unwinder jumps to, so it is an entry into the code that no branch shows. Each
 * call-site record covers a range; ranges without a record lead to std::terminate.
 *
 * Specification: the Itanium C++ ABI leaves the format to the implementation; it is described in GCC's
 * libsupc++/eh_personality.cc and LLVM's "Exception Handling in LLVM", section "Exception Tables".
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import { DW_EH_PE_omit, EhCursor } from "./eh-cursor.js";
import type { Fde } from "./eh-frame.js";
import type { ElfImage } from "./image.js";

export interface CallSite {
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** Where the unwinder lands for an exception in this range, or undefined where it passes through. */
  readonly landingPad: Vaddr | undefined;
}

/**
 * Reads the call sites of a function with language-specific data.
 * @throws InputError where the table is damaged or lies in no section
 */
export function readCallSites(image: ElfImage, fde: Fde): readonly CallSite[] {
  const { lsda } = fde;
  if (lsda === undefined) return [];
  const section = image.sections.find(
    (s) => lsda >= s.sh_addr && lsda < s.sh_addr + s.sh_size && s.sh_addr > 0 && (s.sh_flags & 2) !== 0,
  );
  if (section === undefined)
    throw new InputError("damaged exception table: it lies in no section", `address ${hex(lsda)}`);
  const at = lsda - section.sh_addr + section.sh_offset;
  const cursor = new EhCursor(image.view, section, at, section.sh_offset + section.sh_size);
  const startEncoding = cursor.u8();
  const landingPadBase = cursor.pointer(startEncoding) ?? fde.start;
  if (cursor.u8() !== DW_EH_PE_omit) cursor.uleb();
  const encoding = cursor.u8() & 0x0f;
  const length = cursor.uleb();
  const end = cursor.at + length;
  const sites: CallSite[] = [];
  while (cursor.at < end) {
    const start = fde.start + cursor.number(encoding);
    const size = cursor.number(encoding);
    const pad = cursor.number(encoding);
    cursor.uleb();
    sites.push({
      start: vaddr(start),
      end: vaddr(start + size),
      landingPad: pad === 0 ? undefined : vaddr(landingPadBase + pad),
    });
  }
  return sites;
}
