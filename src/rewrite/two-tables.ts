/**
 * Tables that say twice what is so, where two readers go by either.
 *
 * The search table of `.eh_frame_hdr` says where a function begins, and its frame record says so, too. libgcc goes by the one, gdb,
 * perf and this program by the other: where they differ, each finds other frames and other handlers for an address.
 *
 * DT_RELACOUNT says how many relocations are R_X86_64_RELATIVE, and so does each of them. glibc does not look at the type of those that
 * it counts.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { readDynamicTags } from "../elf/dynamic.js";
import type { EhFrame } from "../elf/eh-frame.js";
import { readEhFrameHdr } from "../elf/eh-frame-hdr.js";
import { isEhFrame } from "../elf/eh-records.js";
import { type ElfImage, offsetOf } from "../elf/image.js";
import { InputError } from "../errors.js";

/** @throws InputError where search table and frame records say different things */
export function refuseOtherFrames(image: ElfImage, frames: EhFrame): void {
  const header = image.programHeaders.find((p) => p.p_type === elf.PT_GNU_EH_FRAME);
  const table = image.sections.find((s) => s.sh_addr === header?.p_vaddr && s.sh_type !== elf.SHT_NOBITS);
  const [section, another] = image.sections.filter(isEhFrame);
  if (header === undefined || table === undefined || section === undefined || another !== undefined) return;
  const { starts, fdes } = readEhFrameHdr(image, table);
  const by = section.sh_addr - section.sh_offset;
  const unlike = unlikeEntries(starts, fdes, frames, by);
  if (unlike.length === 0) return;
  const startOf = new Map(Array.from(frames.places, (place, i) => [place + by, frames.starts[i]!] as const));
  for (const i of unlike) {
    const own = startOf.get(fdes[i]!);
    if (own !== undefined && own !== starts[i] && starts[i] !== 0)
      throw new InputError(
        `damaged: the search table says that the frame record at ${hex(fdes[i]!)} begins at ${hex(starts[i]!)}, and the record that it begins at ${hex(own)}`,
        ".eh_frame_hdr",
      );
  }
}

/** The entries for which no record begins where they say; nearly always none, and then nothing is looked up. */
function unlikeEntries(listed: Float64Array, fdes: Float64Array, frames: EhFrame, by: number): readonly number[] {
  const { starts, places, count } = frames;
  const unlike: number[] = [];
  let first = 0;
  for (let i = 0; i < listed.length; i++) {
    while (first < count && starts[first]! < listed[i]!) first++;
    let at = first;
    while (at < count && starts[at] === listed[i] && places[at]! + by !== fdes[i]) at++;
    if (at >= count || starts[at] !== listed[i]) unlike.push(i);
  }
  return unlike;
}

const R_INFO = 8;

/** @throws InputError where a relocation is counted as relative, and is another */
export function refuseOtherCount(image: ElfImage): void {
  const tags = readDynamicTags(image);
  const valueAt = (tag: number): number => tags.find(({ d_tag }) => d_tag === tag)?.d_val ?? 0;
  const address: Vaddr = vaddr(valueAt(elf.DT_RELA));
  const offset = offsetOf(image, address);
  if (offset === undefined) return;
  const size = Math.min(valueAt(elf.DT_RELASZ), image.bytes.length - offset);
  const counted = Math.min(valueAt(elf.DT_RELACOUNT), Math.floor(size / elf.RELA_SIZE));
  for (let i = 0; i < counted; i++) {
    const type = image.view.getUint32(offset + i * elf.RELA_SIZE + R_INFO, true);
    if (type !== elf.R_X86_64_RELATIVE)
      throw new InputError(
        `damaged: DT_RELACOUNT counts ${hex(valueAt(elf.DT_RELACOUNT))} relative relocations, and one of them is of type ${type}`,
        `address ${hex(address + i * elf.RELA_SIZE)}`,
      );
  }
}
