/**
 * The records of `.eh_frame` as they stand: a CIE (what a family of functions has in common) or an FDE (one function,
 * or one part of a function that the compiler split into hot and cold), one after the other.
 *
 *     u32 length   of what follows; 0xffffffff: the u64 after it is the length; 0: the end for some readers
 *     u32 id       0: a CIE. Else an FDE, and the distance back from this field to its CIE
 *
 * A zero length stands at the end (crtend.o), and in the middle where a linker put other input after it. What follows
 * then is reached by no reader that walks, but by those that come from `.eh_frame_hdr`.
 *
 * Specification: LSB 5.0 "Exception Frames". There the id has 4 bytes even where the length has 8.
 */
import { type FileOffset, fileOffset } from "../address.js";
import * as elf from "./constants.js";
import { readDynamicTags } from "./dynamic.js";
import { DW_EH_PE_indirect, DW_EH_PE_omit, damaged, EhCursor } from "./eh-cursor.js";
import { type ElfImage, read64, type Section } from "./image.js";

const SHT_X86_64_UNWIND = 0x70000001;
const LONG = 0xffffffff;

/** One record, in file offsets. */
export interface EhRecord {
  readonly at: FileOffset;
  /** Where its id stands; the rest follows after these 4 bytes. */
  readonly idAt: FileOffset;
  readonly end: FileOffset;
  /** Undefined for a CIE, else where its CIE stands. */
  readonly cieAt: FileOffset | undefined;
}

/** A Common Information Entry. */
export interface Cie {
  readonly at: FileOffset;
  readonly augmentation: string;
  readonly hasAugmentationData: boolean;
  readonly fdeEncoding: number;
  readonly lsdaEncoding: number;
  /**
   * Where the pointer to the personality routine stands, how it is encoded, and what it names (not followed where
   * indirect).
   */
  readonly personality:
    | { readonly at: FileOffset; readonly encoding: number; readonly value: number | undefined }
    | undefined;
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  readonly returnColumn: number;
  /** The file offset of the initial instructions, and of their end. */
  readonly instructions: number;
  readonly end: number;
}

export const isEhFrame = (s: Section): boolean =>
  s.name === ".eh_frame" &&
  (s.sh_flags & elf.SHF_ALLOC) !== 0 &&
  (s.sh_type === elf.SHT_PROGBITS || s.sh_type === SHT_X86_64_UNWIND);

/** What DW_EH_PE_datarel in `.eh_frame` is relative to: the global offset table. */
export function ehDataBase(image: ElfImage): number | undefined {
  const got = readDynamicTags(image).find((t) => t.d_tag === elf.DT_PLTGOT)?.d_val;
  return got ?? image.sections.find((s) => s.name === ".got.plt" || s.name === ".got")?.sh_addr;
}

/**
 * Walks through a section, past zero lengths.
 * @throws InputError where a record leads out of it
 */
export function* ehRecords(view: DataView, section: Section): Generator<EhRecord> {
  const end = section.sh_offset + section.sh_size;
  let at: number = section.sh_offset;
  while (at + 4 <= end) {
    const record = ehRecordAt(view, section, at);
    if (record === undefined) at += 4;
    else {
      yield record;
      at = record.end;
    }
  }
}

/** The record at a file offset; undefined for a zero length. @throws InputError where it leads out of the section */
export function ehRecordAt(view: DataView, section: Section, at: number): EhRecord | undefined {
  const sectionEnd = section.sh_offset + section.sh_size;
  if (at + 4 > sectionEnd) throw damaged("a record is cut short", at);
  let length = view.getUint32(at, true);
  if (length === 0) return undefined;
  let idAt = at + 4;
  if (length === LONG) {
    if (at + 12 > sectionEnd) throw damaged("a record is cut short", at);
    length = read64(view, at + 4);
    idAt = at + 12;
  }
  const end = idAt + length;
  if (end > sectionEnd || length < 4) throw damaged("a record is longer than the section", at);
  const id = view.getUint32(idAt, true);
  const cieAt = idAt - id;
  if (id !== 0 && cieAt < section.sh_offset) throw damaged("an FDE has no CIE", at);
  return {
    at: fileOffset(at),
    idAt: fileOffset(idAt),
    end: fileOffset(end),
    cieAt: id === 0 ? undefined : fileOffset(cieAt),
  };
}

/** The CIE at a file offset. @throws InputError where there is none */
export function readCie(view: DataView, section: Section, at: number, dataBase?: number): Cie {
  const record = ehRecordAt(view, section, at);
  if (record === undefined || record.cieAt !== undefined) throw damaged("an FDE has no CIE", at);
  const cursor = new EhCursor(view, section, record.idAt + 4, record.end, dataBase);
  const version = cursor.u8();
  if (version !== 1 && version !== 3 && version !== 4) throw damaged(`CIE version ${version}`, at);
  const augmentation = cursor.string();
  if (version === 4) cursor.skip(2);
  const codeAlignment = cursor.uleb();
  const dataAlignment = cursor.sleb();
  const returnColumn = version === 1 ? cursor.u8() : cursor.uleb();
  let fdeEncoding = 0;
  let lsdaEncoding = DW_EH_PE_omit;
  let personality: Cie["personality"];
  let instructions = cursor.at;
  const hasAugmentationData = augmentation.startsWith("z");
  if (augmentation !== "" && !hasAugmentationData) throw damaged(`augmentation "${augmentation}" is not supported`, at);
  if (hasAugmentationData) {
    const size = cursor.uleb();
    instructions = cursor.at + size;
    for (const letter of augmentation.slice(1)) {
      if (letter === "R") fdeEncoding = cursor.u8();
      else if (letter === "L") lsdaEncoding = cursor.u8();
      else if (letter === "P") {
        const encoding = cursor.u8();
        const where = fileOffset(cursor.at);
        personality = { at: where, encoding, value: cursor.pointer(encoding & ~DW_EH_PE_indirect) };
      } else if (letter !== "S" && letter !== "B") throw damaged(`augmentation "${augmentation}" is not supported`, at);
    }
    if (instructions > record.end) throw damaged("a record is cut short", at);
  }
  return {
    at: fileOffset(at),
    augmentation,
    hasAugmentationData,
    fdeEncoding,
    lsdaEncoding,
    personality,
    codeAlignment,
    dataAlignment,
    returnColumn,
    instructions,
    end: record.end,
  };
}
