/**
 * The whole language-specific data of a function: its call sites with their actions, and the types that the actions
 * name. lsda.ts reads what most ask for, the landing pads; this is for those who write such a table again.
 *
 *     u8 encoding, pointer       where landing pads are counted from; omitted: the start of the function part
 *     u8 encoding, uleb          distance to the end of the type table; omitted: there is none
 *     u8 encoding, uleb          size of the call-site table
 *     call sites                 start, size, landing pad, and 1 + the place of the first action; 0: cleanup only
 *     actions                    sleb filter, sleb distance from itself to the next action; 0: the last
 *     types                      counted down from the end: filter 1 is the last one
 *     exception specifications   counted up from there in bytes: filter -1 is the first; uleb filters, 0 at the end
 *
 * Specification: as for lsda.ts.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import * as elf from "./constants.js";
import { DW_EH_PE_indirect, DW_EH_PE_omit, EhCursor } from "./eh-cursor.js";
import { pointerSize } from "./eh-pointers.js";
import type { ElfImage } from "./image.js";

export interface CallSiteRecord {
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly landingPad: Vaddr | undefined;
  /** Filters in the order in which they are tried; undefined for a cleanup alone. */
  readonly filters: readonly number[] | undefined;
}

export interface ExceptionTable {
  readonly landingPadBase: Vaddr;
  readonly callSites: readonly CallSiteRecord[];
  readonly typeEncoding: number;
  /**
   * What a positive filter names: the address of a type's description, or of a pointer to it where indirect; undefined:
   * any.
   */
  type(filter: number): number | undefined;
  /** The filters of an exception specification, which a negative filter names. */
  specification(filter: number): readonly number[];
}

const MOST_ACTIONS = 4096;

/** @throws InputError where the table is damaged or lies in no section */
export function readExceptionTable(image: ElfImage, functionStart: Vaddr, lsda: Vaddr): ExceptionTable {
  const fail = (what: string): never => {
    throw new InputError(`damaged exception table: ${what}`, `address ${hex(lsda)}`);
  };
  const section =
    image.sections.find(
      (s) => s.sh_flags & elf.SHF_ALLOC && s.sh_addr > 0 && lsda >= s.sh_addr && lsda < s.sh_addr + s.sh_size,
    ) ?? fail("it lies in no section");
  if (section.sh_type === elf.SHT_NOBITS) fail("it lies in no section");
  const at = lsda - section.sh_addr + section.sh_offset;
  const sectionEnd = section.sh_offset + section.sh_size;
  const cursorAt = (where: number): EhCursor =>
    where < section.sh_offset || where >= sectionEnd
      ? fail("it leads outside of its section")
      : new EhCursor(image.view, section, where, sectionEnd);
  const cursor = cursorAt(at);
  const landingPadBase = vaddr(cursor.pointer(cursor.u8()) ?? functionStart);
  const typeEncoding = cursor.u8();
  const typeDistance = typeEncoding === DW_EH_PE_omit ? 0 : cursor.uleb();
  const typesEnd = cursor.at + typeDistance;
  const siteEncoding = cursor.u8() & 0x0f;
  const size = cursor.uleb();
  const actions = cursor.at + size;
  if (actions > sectionEnd) fail("it leads outside of its section");
  const typeSize = pointerSize(typeEncoding);

  const filtersOf = (action: number): number[] => {
    const filters: number[] = [];
    let where = actions + action - 1;
    for (;;) {
      const reader = cursorAt(where);
      filters.push(reader.sleb());
      const from = reader.at;
      const next = reader.sleb();
      if (next === 0) return filters;
      if (filters.length > MOST_ACTIONS) fail("its actions have no end");
      where = from + next;
    }
  };
  const callSites: CallSiteRecord[] = [];
  while (cursor.at < actions) {
    const start = functionStart + cursor.number(siteEncoding);
    const end = start + cursor.number(siteEncoding);
    const pad = cursor.number(siteEncoding);
    const action = cursor.uleb();
    callSites.push({
      start: vaddr(start),
      end: vaddr(end),
      landingPad: pad === 0 ? undefined : vaddr(landingPadBase + pad),
      filters: action === 0 ? undefined : filtersOf(action),
    });
  }
  return {
    landingPadBase,
    callSites,
    typeEncoding,
    type(filter) {
      if (typeSize === undefined || typeSize === 0) return fail("its types have no fixed size");
      return cursorAt(typesEnd - filter * typeSize).pointer(typeEncoding & ~DW_EH_PE_indirect);
    },
    specification(filter) {
      if (typeEncoding === DW_EH_PE_omit) fail("it has a specification and no types");
      const reader = cursorAt(typesEnd - filter - 1);
      const filters: number[] = [];
      for (let next = reader.uleb(); next !== 0; next = reader.uleb()) filters.push(next);
      return filters;
    },
  };
}
