/**
 * Whether anything but the section and program headers leads to where a file's unwind tables stand.
 *
 * Start files that register the table themselves do (`__register_frame_info`: crtbeginT.o of static programs, clang's
 * crtbegin.o), and programs that ask the linker for its address. Such a table stays where it is, beside the new one: an
 * unwinder that looks into what was registered first, and finds nothing there for new code, goes on to PT_GNU_EH_FRAME.
 *
 * A mistake costs bytes of the file in one direction and a program that crashes in the other: whatever looks like an
 * address in the table counts.
 */
import * as elf from "../elf/constants.js";
import { forEachRelocation } from "../elf/dynamic.js";
import { type ElfImage, isCode, type Section, sectionBytes } from "../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../elf/symbols.js";
import { isLea, isMove } from "./scan-code.js";
import { AddressFilter, sweepAddresses, sweepDistances } from "./sweep.js";

/** @param byCode whether code leads there, where that is known: else all of it is swept once more */
export function leadsInto(image: ElfImage, section: Section, byCode?: boolean): boolean {
  const table = dynsym(image);
  // What is registered is the table of records, and never the one that PT_GNU_EH_FRAME leads to.
  const isRegistered = section.name === ".eh_frame";
  // Static programs register their tables, and without dynamic symbols nobody knows.
  if (table === null && isRegistered) return true;
  const low: number = section.sh_addr;
  // Records are led to in the middle of a section too, since linkers put many inputs together; a header has one
  // beginning.
  const high = isRegistered ? low + section.sh_size : low + 1;
  const isFixed = image.header.e_type === elf.ET_EXEC;
  let found = false;
  if (table !== null)
    forEachSymbol(table, (value, _size, _info, shndx, index) => {
      if (shndx !== elf.SHN_UNDEF) found ||= value >= low && value < high;
      else found ||= isRegistered && /^__(de)?register_frame/.test(symbolName(table, index));
    });
  if (found) return true;
  forEachRelocation(image, (_place, value) => {
    found ||= value >= low && value < high;
  });
  if (found) return true;
  return (
    (byCode ?? anyCodeLeadsTo(image, low, high, isFixed)) ||
    (isFixed && image.sections.some((s) => isData(s) && dataLeadsTo(image, s, low, high)))
  );
}

function anyCodeLeadsTo(image: ElfImage, low: number, high: number, isFixed: boolean): boolean {
  const filter = new AddressFilter();
  for (let address = low; address < high + 64; address += 64) filter.add(Math.min(address, high - 1));
  return image.sections.some((s) => isCode(s) && codeLeadsTo(image, s, low, high, filter, isFixed));
}

const isData = (s: Section): boolean =>
  (s.sh_flags & elf.SHF_ALLOC) !== 0 &&
  (s.sh_flags & elf.SHF_EXECINSTR) === 0 &&
  s.sh_type !== elf.SHT_NOBITS &&
  !s.name.startsWith(".eh_frame") &&
  s.sh_addralign >= 8;

/**
 * Whether something that looks like `lea table(%rip),%reg`, or in a fixed program `mov $table,%reg`, stands in code.
 */
function codeLeadsTo(
  image: ElfImage,
  section: Section,
  low: number,
  high: number,
  filter: AddressFilter,
  isFixed: boolean,
): boolean {
  const { buffer, byteOffset, length } = sectionBytes(image, section);
  const bytes = new Uint8Array(buffer, byteOffset, length);
  const leads = (target: number): boolean => target >= low && target < high;
  let found = false;
  sweepDistances(bytes, section.sh_addr, filter, (p, v) => {
    found ||= leads(section.sh_addr + p + 4 + v) && isLea(bytes, p);
  });
  if (found || !isFixed) return found;
  sweepAddresses(bytes, filter, (p, v) => {
    found ||= leads(v >>> 0) && isMove(bytes, p);
  });
  return found;
}

/** Whether an aligned word of data is an address in the table. */
function dataLeadsTo(image: ElfImage, section: Section, low: number, high: number): boolean {
  const bytes = sectionBytes(image, section);
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const value = bytes.readUInt32LE(at);
    if (value >= low && value < high && bytes.readUInt32LE(at + 4) === 0) return true;
  }
  return false;
}
