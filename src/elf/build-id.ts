/**
 * The build-id: the NT_GNU_BUILD_ID note that ties a binary to its debug information.
 *
 * It is looked for where tools look: in the note sections, and where those are gone, in the PT_NOTE segments.
 */
import { alignUp, type FileOffset, fileOffset, hex } from "../address.js";
import { InputError } from "../errors.js";
import * as elf from "./constants.js";
import type { ElfImage } from "./image.js";

const NT_GNU_BUILD_ID = 3;
const NOTE_HEADER_SIZE = 12;
const SECTION_NAME = ".note.gnu.build-id";

/** Where the identifier's own bytes (the note's descriptor) stand in the file. */
export interface BuildId {
  readonly offset: FileOffset;
  readonly size: number;
  /** The identifier in hexadecimal digits, as readelf prints it. */
  readonly text: string;
}

/**
 * Finds a file's build-id, or null where it has none.
 * @throws InputError where the section `.note.gnu.build-id` is cut short or its sizes lie
 */
export function readBuildId(image: ElfImage): BuildId | null {
  for (const section of image.sections) {
    if (section.sh_type !== elf.SHT_NOTE) continue;
    const found = findIn(image, section.sh_offset, section.sh_size, section.sh_addralign, section.name);
    if (found !== null) return found;
  }
  for (const segment of image.programHeaders) {
    if (segment.p_type !== elf.PT_NOTE) continue;
    const found = findIn(image, segment.p_offset, segment.p_filesz, segment.p_align, null);
    if (found !== null) return found;
  }
  return null;
}

function findIn(image: ElfImage, start: number, size: number, align: number, name: string | null): BuildId | null {
  const { bytes, view } = image;
  const end = start + size;
  // Notes are padded to 4 bytes, except where their section says 8, as .note.gnu.property does.
  const padding = align === 8 ? 8 : 4;
  let at = start;
  while (at < end) {
    const descsz = at + NOTE_HEADER_SIZE <= end ? view.getUint32(at + 4, true) : Number.POSITIVE_INFINITY;
    const namesz = descsz < Number.POSITIVE_INFINITY ? view.getUint32(at, true) : 0;
    const desc = start + alignUp(at - start + NOTE_HEADER_SIZE + namesz, padding);
    if (desc + descsz > end) {
      // Other note sections are not ours to judge.
      if (name === SECTION_NAME) throw new InputError(`damaged ${SECTION_NAME}: cut short`, `offset ${hex(at)}`);
      return null;
    }
    const isGnu = namesz === 4 && bytes.toString("latin1", at + 12, at + 16) === "GNU\0";
    if (isGnu && view.getUint32(at + 8, true) === NT_GNU_BUILD_ID) {
      return { offset: fileOffset(desc), size: descsz, text: bytes.toString("hex", desc, desc + descsz) };
    }
    at = start + alignUp(desc - start + descsz, padding);
  }
  return null;
}
