/**
 * Places inside of functions whose address something has: a jump by a pointer may lead to them. They are named by
 * relocations, by lea, and in programs with fixed addresses by words of data and of code. Where functions begin is not
 * among them: a jump there is a call.
 */
import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { forEachRelocation } from "../elf/dynamic.js";
import { type ElfImage, isCode, sectionBytes } from "../elf/image.js";
import type { CodeRange, FunctionIndex } from "../facts/functions.js";
import { indexOf } from "../x86/decode.js";

/** An address fits into so many bits in a word of code or data of a program with fixed addresses. */
const WORD = 4;

export class Labels {
  /** By the index of the range that they are in. */
  private found: ReadonlyMap<number, ReadonlySet<Vaddr>> | undefined;

  /** @param functions where the image's functions begin and end */
  constructor(
    private readonly image: ElfImage,
    private readonly functions: FunctionIndex,
  ) {}

  /** Those in a range that begin an instruction, in no order. @throws InputError where a relocation table is damaged */
  inside(range: CodeRange): readonly Vaddr[] {
    this.found ??= this.find();
    return [...(this.found.get(range.index) ?? [])];
  }

  private find(): ReadonlyMap<number, ReadonlySet<Vaddr>> {
    const { image, functions } = this;
    const found = new Map<number, Set<Vaddr>>();
    const low = functions.count === 0 ? 0 : functions.range(0).start;
    const high = functions.count === 0 ? 0 : functions.range(functions.count - 1).end;
    const add = (address: number): void => {
      const range = address > low && address < high ? functions.containing(address) : undefined;
      if (range === undefined || !this.isInside(range, address)) return;
      const known = found.get(range.index);
      if (known === undefined) found.set(range.index, new Set([vaddr(address)]));
      else known.add(vaddr(address));
    };
    forEachRelocation(image, (_place, value) => add(value));
    const isFixed = image.header.e_type === elf.ET_EXEC;
    for (const section of image.sections) {
      if ((section.sh_flags & elf.SHF_ALLOC) === 0 || section.sh_type === elf.SHT_NOBITS) continue;
      const { buffer, byteOffset, length } = sectionBytes(image, section);
      const view = new DataView(buffer, byteOffset, length);
      for (let p = 0; p + WORD <= length; p++) {
        if (isFixed) add(view.getUint32(p, true));
        // 8d and a ModRM byte whose operand is relative to rip: lea.
        if (isCode(section) && p > 1 && (view.getUint8(p - 1) & 0xc7) === 0x05 && view.getUint8(p - 2) === 0x8d)
          add(section.sh_addr + p + WORD + view.getInt32(p, true));
      }
    }
    return found;
  }

  private isInside(range: CodeRange, address: number): boolean {
    if (range.start === address) return false;
    const code = this.functions.code(range);
    return code.unclean !== undefined || indexOf(code, address) >= 0;
  }
}
