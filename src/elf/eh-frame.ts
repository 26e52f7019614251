/**
 * `.eh_frame`: the one table in a stripped binary that still says where functions begin and end.
 *
 * A record is a CIE (what a family of functions has in common) or an FDE (one function, or one part of a function that
 * the compiler split into hot and cold). Only what the rest of this project asks for is read: the range, where the range
 * field stands in the file, the language-specific data (see lsda.ts), and the addresses at which the unwind rule changes.
 * Ranges of all FDEs are read at once, into typed arrays (libjvm.so has 50,000); the rest on demand.
 *
 * Specification: LSB 5.0 "Exception Frames"; DWARF 5 section 6.4 for the call frame instructions.
 */
import { type FileOffset, fileOffset, type Vaddr, vaddr } from "../address.js";
import * as elf from "./constants.js";
import { DW_EH_PE_indirect, DW_EH_PE_omit, damaged, EhCursor } from "./eh-cursor.js";
import type { ElfImage, Section } from "./image.js";
import { readRuleChanges } from "./rule-changes.js";

const SHT_X86_64_UNWIND = 0x70000001;

/** A Common Information Entry, as far as it is needed to read its FDEs. */
interface Cie {
  readonly fdeEncoding: number;
  readonly lsdaEncoding: number;
  readonly hasAugmentationData: boolean;
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  /** The file offset of the initial instructions, and of their end. */
  readonly instructions: number;
  readonly end: number;
}

/** The call frame instructions of one FDE, for cfa-rows.ts. */
export interface CallFrameProgram {
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  readonly fdeEncoding: number;
  /** The instructions of the CIE, then those of the FDE. */
  readonly initial: EhCursor;
  readonly instructions: EhCursor;
}

/** One FDE: a contiguous range of code with one set of unwind rules. */
export interface Fde {
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** Where the 4-byte pc_range field stands in the file, or undefined where it has another size. */
  readonly rangeOffset: FileOffset | undefined;
  /** Where the language-specific data stands, or undefined where the function has none. */
  readonly lsda: Vaddr | undefined;
  /** Link-time addresses, inside or at the end of the range, at which the unwind rule changes. */
  readonly ruleChanges: readonly Vaddr[];
}

/** All FDEs of a file, sorted by start. */
export interface EhFrame {
  readonly count: number;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  /** True where a CIE of the file announces language-specific data. */
  readonly hasLsda: boolean;
  /** Reads one FDE whole. @throws InputError where it is damaged */
  fde(index: number): Fde;
  /** The call frame instructions of one FDE. @throws InputError where it is damaged */
  program(index: number): CallFrameProgram;
}

/**
 * Reads the ranges of all FDEs.
 * @throws InputError where the section is damaged
 */
export function readEhFrame(image: ElfImage): EhFrame {
  const { view } = image;
  const cies = new Map<number, Cie>();
  const sections = image.sections.filter(isEhFrame);
  // The smallest FDE has 16 bytes; the list is kept in arrays since there may be 100,000 of them.
  const most = sections.reduce((sum, s) => sum + Math.floor(s.sh_size / 16), 0);
  const starts = new Float64Array(most);
  const ends = new Float64Array(most);
  const records = new Float64Array(most);
  let count = 0;
  let hasLsda = false;
  const sectionOf = (at: number): Section => sections.find((s) => at >= s.sh_offset && at < s.sh_offset + s.sh_size)!;
  const cieOf = (at: number, section: Section): Cie => {
    const position = at + 4 - view.getUint32(at + 4, true);
    let cie = cies.get(position);
    if (cie === undefined) {
      const end = section.sh_offset + section.sh_size;
      if (position < section.sh_offset || position >= end) throw damaged("an FDE has no CIE", at);
      cie = readCie(view, section, position, end);
      cies.set(position, cie);
      hasLsda ||= cie.lsdaEncoding !== DW_EH_PE_omit;
    }
    return cie;
  };
  for (const section of sections) {
    const end = section.sh_offset + section.sh_size;
    const cursor = new EhCursor(view, section, section.sh_offset, end);
    let at: number = section.sh_offset;
    while (at + 4 <= end) {
      const length = view.getUint32(at, true);
      // A zero length ends the section for some readers; linkers also leave one between input sections.
      if (length === 0) {
        at += 4;
        continue;
      }
      if (length === 0xffffffff) throw damaged("64-bit records are not supported", at);
      const next = at + 4 + length;
      if (next > end || length < 4) throw damaged("a record is longer than the section", at);
      if (view.getUint32(at + 4, true) !== 0) {
        const { fdeEncoding } = cieOf(at, section);
        cursor.at = at + 8;
        const start = cursor.pointer(fdeEncoding);
        const range = cursor.number(fdeEncoding & 0x0f);
        if (start !== undefined && range > 0) {
          starts[count] = start;
          ends[count] = start + range;
          records[count] = at;
          count++;
        }
      }
      at = next;
    }
  }
  const order = sortedOrder(starts.subarray(0, count));
  return {
    count,
    starts: inOrder(starts, order),
    ends: inOrder(ends, order),
    hasLsda,
    fde(index) {
      const at = records[order[index]!]!;
      const section = sectionOf(at);
      return readFde(view, section, at, cieOf(at, section));
    },
    program(index) {
      const at = records[order[index]!]!;
      const section = sectionOf(at);
      const cie = cieOf(at, section);
      const { codeAlignment, dataAlignment, fdeEncoding } = cie;
      const instructions = new EhCursor(view, section, at + 8, at + 4 + view.getUint32(at, true));
      const start = instructions.pointer(fdeEncoding) ?? 0;
      const end = start + instructions.number(fdeEncoding & 0x0f);
      if (cie.hasAugmentationData) instructions.skip(instructions.uleb());
      const initial = new EhCursor(view, section, cie.instructions, cie.end);
      return { start: vaddr(start), end: vaddr(end), codeAlignment, dataAlignment, fdeEncoding, initial, instructions };
    },
  };
}

const isEhFrame = (s: Section): boolean =>
  s.name === ".eh_frame" &&
  (s.sh_flags & elf.SHF_ALLOC) !== 0 &&
  (s.sh_type === elf.SHT_PROGBITS || s.sh_type === SHT_X86_64_UNWIND);

function inOrder(values: Float64Array, order: Uint32Array): Float64Array {
  const result = new Float64Array(order.length);
  for (let i = 0; i < order.length; i++) result[i] = values[order[i]!]!;
  return result;
}

/** The indices of `values` in ascending order of the values. */
function sortedOrder(values: Float64Array): Uint32Array {
  const order = new Uint32Array(values.length);
  let lowest = Number.POSITIVE_INFINITY;
  let highest = 0;
  for (let i = 0; i < values.length; i++) {
    order[i] = i;
    lowest = Math.min(lowest, values[i]!);
    highest = Math.max(highest, values[i]!);
  }
  if (values.length >= 2 ** 20 || highest - lowest >= 2 ** 33)
    return order.sort((a, b) => values[a]! - values[b]! || a - b);
  // Value and index in one double sort without a comparison function: 20 times faster.
  const keys = new Float64Array(values.length);
  for (let i = 0; i < keys.length; i++) keys[i] = (values[i]! - lowest) * 2 ** 20 + i;
  keys.sort();
  for (let i = 0; i < keys.length; i++) order[i] = keys[i]! % 2 ** 20;
  return order;
}

function readCie(view: DataView, section: Section, at: number, sectionEnd: number): Cie {
  const length = view.getUint32(at, true);
  const end = at + 4 + length;
  if (end > sectionEnd || length < 4 || view.getUint32(at + 4, true) !== 0) throw damaged("an FDE has no CIE", at);
  const cursor = new EhCursor(view, section, at + 8, end);
  const version = cursor.u8();
  if (version !== 1 && version !== 3 && version !== 4) throw damaged(`CIE version ${version}`, at);
  const augmentation = cursor.string();
  if (version === 4) cursor.skip(2);
  const codeAlignment = cursor.uleb();
  const dataAlignment = cursor.sleb();
  if (version === 1) cursor.u8();
  else cursor.uleb();
  let fdeEncoding = 0;
  let lsdaEncoding = DW_EH_PE_omit;
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
        cursor.pointer(encoding & ~DW_EH_PE_indirect);
      } else if (letter !== "S" && letter !== "B") throw damaged(`augmentation "${augmentation}" is not supported`, at);
    }
  }
  return { fdeEncoding, lsdaEncoding, hasAugmentationData, codeAlignment, dataAlignment, instructions, end };
}

function readFde(view: DataView, section: Section, at: number, cie: Cie): Fde {
  const end = at + 4 + view.getUint32(at, true);
  const cursor = new EhCursor(view, section, at + 8, end);
  const start = cursor.pointer(cie.fdeEncoding) ?? 0;
  const rangeAt = cursor.at;
  const range = cursor.number(cie.fdeEncoding & 0x0f);
  const rangeSize = cursor.at - rangeAt;
  let lsda: number | undefined;
  if (cie.hasAugmentationData) {
    const size = cursor.uleb();
    const instructions = cursor.at + size;
    if (cie.lsdaEncoding !== DW_EH_PE_omit && size > 0) lsda = cursor.pointer(cie.lsdaEncoding & ~DW_EH_PE_indirect);
    cursor.at = instructions;
  }
  return {
    start: vaddr(start),
    end: vaddr(start + range),
    rangeOffset: rangeSize === 4 ? fileOffset(rangeAt) : undefined,
    lsda: lsda === undefined ? undefined : vaddr(lsda),
    ruleChanges: readRuleChanges(cursor, start, cie),
  };
}
