/**
 * `.eh_frame`: the one table in a stripped binary that still says where functions begin and end.
 *
 * How records stand in it is told in eh-records.ts. Here is what most of this project asks for: the range, where the
 * range field stands in the file, the language-specific data (see lsda.ts), and the addresses at which the unwind rule
 * changes. Ranges of all FDEs are read at once, into typed arrays (libjvm.so has 50,000); the rest on demand.
 *
 * Specification: LSB 5.0 "Exception Frames"; DWARF 5 section 6.4 for the call frame instructions.
 */

import { type FileOffset, fileOffset, type Vaddr, vaddr } from "../address.js";
import { countWhile } from "../sorted.js";
import { DW_EH_PE_indirect, DW_EH_PE_omit, EhCursor } from "./eh-cursor.js";
import { type Cie, type EhRecord, ehDataBase, ehRecordAt, isEhFrame, readCie } from "./eh-records.js";
import { type ElfImage, type Section, words32 } from "./image.js";
import { readRuleChanges } from "./rule-changes.js";

/** The call frame instructions of one FDE, for cfa-rows.ts. */
export interface CallFrameProgram {
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly codeAlignment: number;
  readonly dataAlignment: number;
  readonly fdeEncoding: number;
  readonly returnColumn: number;
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
  /** Where each record stands in the file. */
  readonly places: Float64Array;
  /** True where a CIE of the file announces language-specific data. */
  readonly hasLsda: boolean;
  /** Reads one FDE whole. @throws InputError where it is damaged */
  fde(index: number): Fde;
  /** The call frame instructions of one FDE. @throws InputError where it is damaged */
  program(index: number): CallFrameProgram;
  /** Where an FDE stands. @throws InputError where it is damaged */
  record(index: number): FdeRecord;
  /** The index of the FDE that covers an address, or -1. Where ranges overlap, of the one that begins last. */
  indexAt(address: number): number;
}

/** An FDE as it stands in the file. */
interface FdeRecord extends EhRecord {
  readonly section: Section;
  readonly cie: Cie;
}

/** How compilers for x86-64 write addresses in FDEs. */
const PCREL_SDATA4 = 0x1b;

/**
 * Reads the ranges of all FDEs.
 * @throws InputError where the section is damaged
 */
export function readEhFrame(image: ElfImage): EhFrame {
  const { view } = image;
  const cies = new Map<number, Cie>();
  const sections = image.sections.filter(isEhFrame);
  const dataBase = sections.length > 0 ? ehDataBase(image) : undefined;
  // The smallest FDE has 16 bytes; the list is kept in arrays since there may be 100,000 of them.
  const most = sections.reduce((sum, s) => sum + Math.floor(s.sh_size / 16), 0);
  const starts = new Float64Array(most);
  const ends = new Float64Array(most);
  const records = new Float64Array(most);
  let count = 0;
  let hasLsda = false;
  const cieAt = (at: number, section: Section): Cie => {
    let cie = cies.get(at);
    if (cie === undefined) {
      cie = readCie(view, section, at, dataBase);
      cies.set(at, cie);
      hasLsda ||= cie.lsdaEncoding !== DW_EH_PE_omit;
    }
    return cie;
  };
  const add = (start: number | undefined, range: number, at: number): void => {
    if (start === undefined || range <= 0) return;
    starts[count] = start;
    ends[count] = start + range;
    records[count++] = at;
  };
  for (const section of sections) {
    const { sh_offset, sh_addr, sh_size } = section;
    const cursor = new EhCursor(view, section, sh_offset, sh_offset + sh_size, dataBase);
    const words = words32(image, sh_offset, sh_size);
    for (let at = 0; at + 4 <= sh_size; ) {
      // What linkers write, by its words and without an object for each; everything else as eh-records.ts says.
      const length = words[at >>> 2]!;
      const idAt = at + 4;
      if (at % 4 === 0 && length >= 12 && idAt + length <= sh_size) {
        const id = words[idAt >>> 2]!;
        if (id !== 0 && id <= idAt && cieAt(sh_offset + idAt - id, section).fdeEncoding === PCREL_SDATA4) {
          const distance = words[(at >>> 2) + 2]! | 0;
          const range = words[(at >>> 2) + 3]! | 0;
          add(distance === 0 ? undefined : sh_addr + at + 8 + distance, range, sh_offset + at);
          at = idAt + length;
          continue;
        }
      }
      const record = ehRecordAt(view, section, sh_offset + at);
      if (record?.cieAt !== undefined) {
        const { fdeEncoding } = cieAt(record.cieAt, section);
        cursor.at = record.idAt + 4;
        const start = cursor.pointer(fdeEncoding);
        add(start, cursor.number(fdeEncoding & 0x0f), record.at);
      }
      at = record === undefined ? idAt : record.end - sh_offset;
    }
  }
  const order = sortedOrder(starts.subarray(0, count));
  const sorted = inOrder(starts, order);
  const sortedEnds = inOrder(ends, order);
  const recordOf = (index: number): FdeRecord => {
    const at = records[order[index]!]!;
    const section = sections.find((s) => at >= s.sh_offset && at < s.sh_offset + s.sh_size)!;
    const record = ehRecordAt(view, section, at)!;
    return { ...record, section, cie: cieAt(record.cieAt!, section) };
  };
  return {
    count,
    starts: sorted,
    ends: sortedEnds,
    places: inOrder(records, order),
    hasLsda,
    record: recordOf,
    fde: (index) => readFde(view, recordOf(index), dataBase),
    program(index) {
      const { section, cie, idAt, end: recordEnd } = recordOf(index);
      const { codeAlignment, dataAlignment, fdeEncoding, returnColumn } = cie;
      const instructions = new EhCursor(view, section, idAt + 4, recordEnd, dataBase);
      const start = vaddr(instructions.pointer(fdeEncoding) ?? 0);
      const end = vaddr(start + instructions.number(fdeEncoding & 0x0f));
      if (cie.hasAugmentationData) instructions.skip(instructions.uleb());
      const initial = new EhCursor(view, section, cie.instructions, cie.end, dataBase);
      return { start, end, codeAlignment, dataAlignment, fdeEncoding, returnColumn, initial, instructions };
    },
    indexAt(address) {
      const low = countWhile(count, (i) => sorted[i]! <= address);
      return low > 0 && sortedEnds[low - 1]! > address ? low - 1 : -1;
    },
  };
}

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

function readFde(view: DataView, { section, idAt, end, cie }: FdeRecord, dataBase: number | undefined): Fde {
  const cursor = new EhCursor(view, section, idAt + 4, end, dataBase);
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
