/**
 * What the analysis of values asks of the file: where code and data lie, and which bytes stay what they are.
 */
import { type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation } from "../../elf/dynamic.js";
import { type ElfImage, offsetOf, read64, segmentAt } from "../../elf/image.js";
import type { Memory } from "./sums.js";
import { GIVEN, image as imageValue, join, plain, type Value } from "./value.js";

interface Range {
  readonly start: number;
  readonly end: number;
}

export class ElfMemory implements Memory {
  readonly fixed: boolean;
  private readonly code: readonly Range[];
  private readonly loads: readonly (Range & { readonly isWritable: boolean })[];
  private readonly relro: readonly Range[];
  /** What relocations write, by place: an address of this image, or NaN. */
  private relocated: ReadonlyMap<number, number> | undefined;

  constructor(private readonly elfImage: ElfImage) {
    const { programHeaders, sections, header } = elfImage;
    this.fixed = header.e_type === elf.ET_EXEC;
    this.code = sections
      .filter((s) => (s.sh_flags & elf.SHF_EXECINSTR) !== 0 && s.sh_addr > 0)
      .map((s) => ({ start: s.sh_addr, end: s.sh_addr + s.sh_size }));
    this.loads = programHeaders
      .filter((p) => p.p_type === elf.PT_LOAD)
      .map((p) => ({ start: p.p_vaddr, end: p.p_vaddr + p.p_memsz, isWritable: (p.p_flags & elf.PF_W) !== 0 }));
    this.relro = programHeaders
      .filter((p) => p.p_type === elf.PT_GNU_RELRO)
      .map((p) => ({ start: p.p_vaddr, end: p.p_vaddr + p.p_memsz }));
  }

  isCode(address: number): boolean {
    return this.code.some((r) => address >= r.start && address < r.end);
  }

  isImage(address: number): boolean {
    return this.loads.some((r) => address >= r.start && address < r.end);
  }

  isReadOnly(address: number): boolean {
    const load = this.loads.find((r) => address >= r.start && address < r.end);
    if (load === undefined) return false;
    return !load.isWritable || this.relro.some((r) => address >= r.start && address < r.end);
  }

  pointerAt(address: number): Value | undefined {
    const places = this.relocated ?? this.readRelocations();
    if (!this.isReadOnly(address)) return this.codeAtFirst(address, places);
    const value = places.get(address);
    if (value !== undefined) {
      if (Number.isNaN(value)) return undefined;
      return this.fixed ? plain(value) : imageValue(value);
    }
    for (let at = address - 7; at < address + 8; at++) if (places.has(at)) return undefined;
    const offset = offsetOf(this.elfImage, vaddr(address));
    const segment = segmentAt(this.elfImage, vaddr(address));
    if (offset === undefined || segment === undefined || offset + 8 > segment.p_offset + segment.p_filesz)
      return undefined;
    return plain(Number(this.elfImage.view.getBigInt64(offset, true)));
  }

  /** Where a program may write: the address of code that is there at first, or anything that was handed over. */
  private codeAtFirst(address: number, places: ReadonlyMap<number, number>): Value | undefined {
    const offset = offsetOf(this.elfImage, vaddr(address));
    const isStored = this.fixed && offset !== undefined && offset + 8 <= this.elfImage.bytes.length;
    const value = places.get(address) ?? (isStored ? read64(this.elfImage.view, offset) : Number.NaN);
    if (!this.isCode(value)) return undefined;
    return join(GIVEN, this.fixed ? plain(value) : imageValue(value));
  }

  /** Whether a relocation writes to any of `size` bytes. */
  isRelocated(address: Vaddr, size: number): boolean {
    const places = this.relocated ?? this.readRelocations();
    for (let at = address - 7; at < address + size; at++) if (places.has(at)) return true;
    return false;
  }

  /**
   * What a relocation writes to a place: a link-time address of this image, NaN for others, undefined where there is
   * none.
   */
  relocationAt(address: number): number | undefined {
    return (this.relocated ?? this.readRelocations()).get(address);
  }

  private readRelocations(): ReadonlyMap<number, number> {
    const places = new Map<number, number>();
    // Only what the loader computes from nothing but the load address is sure to be an address of this file.
    forEachRelocation(this.elfImage, (place, value, type) =>
      places.set(place, type === elf.R_X86_64_RELATIVE ? value : Number.NaN),
    );
    this.relocated = places;
    return places;
  }
}
