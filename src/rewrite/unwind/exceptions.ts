/**
 * The exception table of a piece of new code: every address in it has the landing pad and the actions that its origin
 * has.
 *
 *     LPStart    given explicitly: landing pads stay in the old function
 *     call sites one for each stretch of new code whose origin has a record; what has none there has none here, and leads to
 *                terminate or passes through, as the personality has it
 *     actions    those that are used, with the same filters: a landing pad compares them with constants of its own
 *     types      as far as filters name them, in their old places counted from the table's end, which is what filters count
 *
 * With a personality routine whose tables are not known (elf/personalities.ts), code whose exceptions matter stays
 * where it is.
 */
import type { Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { DW_EH_PE_application, DW_EH_PE_omit } from "../../elf/eh-cursor.js";
import { encodePointer, pointerSize } from "../../elf/eh-pointers.js";
import { type CallSiteRecord, type ExceptionTable, readExceptionTable } from "../../elf/exception-table.js";
import type { ElfImage } from "../../elf/image.js";
import { encodeSleb, encodeUleb } from "../../elf/leb128.js";
import type { OriginStretch } from "./origins.js";

const DW_EH_PE_pcrel_sdata4 = 0x1b;
const DW_EH_PE_uleb128 = 0x01;

interface NewCallSite {
  readonly start: Vaddr;
  end: Vaddr;
  readonly record: CallSiteRecord;
}

/**
 * The table for a run of new code that begins at the first stretch's start.
 * @param functionStart where the function part begins that the stretches are from
 * @param at where the table will stand
 * @returns the bytes, or why there can be none
 * @throws InputError where the original table is damaged
 */
export function encodeExceptionTable(
  image: ElfImage,
  functionStart: Vaddr,
  lsda: Vaddr,
  stretches: readonly OriginStretch[],
  at: Vaddr,
): Uint8Array | string {
  const table = readExceptionTable(image, functionStart, lsda);
  const sites = callSitesFor(table, stretches);
  const base = stretches[0]!.start;
  const pads = sites.flatMap(({ record }) => (record.landingPad === undefined ? [] : [record.landingPad]));
  // A pad at the base itself would read as none.
  const landingPadBase = Math.min(table.landingPadBase, ...pads.map((pad) => pad - 1));
  const actions = encodeActions(sites.map(({ record }) => record.filters));
  const callSites = sites.flatMap(({ start, end, record: { landingPad, filters } }) => [
    ...encodeUleb(start - base),
    ...encodeUleb(end - start),
    ...encodeUleb(landingPad === undefined ? 0 : landingPad - landingPadBase),
    ...encodeUleb(filters === undefined ? 0 : actions.at.get(filters.join())!),
  ]);
  const behindTypes = [DW_EH_PE_uleb128, ...encodeUleb(callSites.length), ...callSites, ...actions.bytes];

  const lpStart = encodePointer(DW_EH_PE_pcrel_sdata4, landingPadBase, at + 1);
  if (lpStart === undefined) return "its landing pads are out of reach";
  const head = [DW_EH_PE_pcrel_sdata4, ...lpStart];
  const used = usedFilters(table, sites);
  if (!used.hasTypes) return Uint8Array.from([...head, DW_EH_PE_omit, ...behindTypes]);

  const { typeEncoding } = table;
  const size = pointerSize(typeEncoding);
  if (size === undefined || size === 0) return "its exception types are in an encoding of no fixed size";
  if ((typeEncoding & DW_EH_PE_application) === 0 && image.header.e_type !== elf.ET_EXEC)
    return "its exception types are relocated when it is loaded";
  // The distance to the types' end depends on its own length, by way of what aligns them.
  for (let length = 1; ; length++) {
    const typesFrom = at + head.length + 1 + length;
    const pad = (4 - ((typesFrom + behindTypes.length) % 4)) % 4;
    const distance = behindTypes.length + pad + used.mostType * size;
    const encoded = encodeUleb(distance);
    if (encoded.length !== length) continue;
    const typesAt = typesFrom + behindTypes.length + pad;
    const types = encodeTypes(table, used.types, used.mostType, size, typesAt);
    if (types === undefined) return "its exception types are out of reach";
    return Uint8Array.from([
      ...head,
      typeEncoding,
      ...encoded,
      ...behindTypes,
      ...new Array<number>(pad).fill(0),
      ...types,
      ...used.specifications,
    ]);
  }
}

/** A record for each stretch whose origin has one; neighbours with the same record are one. */
function callSitesFor({ callSites }: ExceptionTable, stretches: readonly OriginStretch[]): NewCallSite[] {
  const sites: NewCallSite[] = [];
  for (const { start, end, origin, lastByte } of stretches) {
    const asked = origin + lastByte;
    const record = callSites.find((s) => asked >= s.start && asked < s.end);
    if (record === undefined) continue;
    const last = sites.at(-1);
    if (last?.record === record && last.end === start) last.end = end;
    else sites.push({ start, end, record });
  }
  return sites;
}

/** Action chains, one for each list of filters; and 1 + where each begins, as call sites name them. */
function encodeActions(lists: readonly (readonly number[] | undefined)[]): {
  bytes: number[];
  at: ReadonlyMap<string, number>;
} {
  const bytes: number[] = [];
  const at = new Map<string, number>();
  for (const filters of lists) {
    if (filters === undefined || at.has(filters.join())) continue;
    at.set(filters.join(), bytes.length + 1);
    // The next action stands right after the distance, which is counted from itself and has one byte.
    filters.forEach((filter, i) => {
      bytes.push(...encodeSleb(filter), i === filters.length - 1 ? 0 : 1);
    });
  }
  return { bytes, at };
}

interface UsedFilters {
  readonly hasTypes: boolean;
  readonly types: ReadonlySet<number>;
  readonly mostType: number;
  /** The lists that negative filters name, each in its old place. */
  readonly specifications: readonly number[];
}

function usedFilters(table: ExceptionTable, sites: readonly NewCallSite[]): UsedFilters {
  const filters = new Set(sites.flatMap(({ record }) => record.filters ?? []));
  const types = new Set([...filters].filter((f) => f > 0));
  const specifications: number[] = [];
  for (const filter of [...filters].filter((f) => f < 0)) {
    const list = table.specification(filter);
    for (const type of list) types.add(type);
    const bytes = [...list.flatMap(encodeUleb), 0];
    const from = -filter - 1;
    while (specifications.length < from + bytes.length) specifications.push(0);
    bytes.forEach((byte, i) => {
      specifications[from + i] = byte;
    });
  }
  return {
    hasTypes: types.size > 0 || specifications.length > 0,
    types,
    mostType: Math.max(0, ...types),
    specifications,
  };
}

function encodeTypes(
  table: ExceptionTable,
  types: ReadonlySet<number>,
  mostType: number,
  size: number,
  at: number,
): number[] | undefined {
  const bytes: number[] = [];
  for (let filter = mostType; filter > 0; filter--) {
    const type = types.has(filter) ? table.type(filter) : undefined;
    if (type === undefined) {
      bytes.push(...new Array<number>(size).fill(0));
      continue;
    }
    const pointer = encodePointer(table.typeEncoding, type, at + bytes.length);
    if (pointer === undefined) return undefined;
    bytes.push(...pointer);
  }
  return bytes;
}
