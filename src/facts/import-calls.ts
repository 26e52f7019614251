/**
 * All places where a file calls an imported function, and the numbers that it hands over there.
 *
 * An import is a word that the loader fills. Code gets at the function by a jump or call through that word, most of the
 * time by way of a stub of the linkage table; so the stubs that jump through the words are found first, and then
 * whatever leads to either is looked for at every position of the code. Whatever else names the word or the stub (a
 * pointer in data, a `mov` or `lea`) may hand the function to anybody: then it is not known who calls it.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { forEachRelocation, readDynamicTags } from "../elf/dynamic.js";
import { type ElfImage, isCode, offsetOf, read64, type Section, sectionBytes, words32 } from "../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../elf/symbols.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { constantsOf, namedAddress } from "../x86/relocate.js";
import type { FileFacts } from "./file-facts.js";
import type { FunctionIndex } from "./functions.js";
import { REACH_BEHIND } from "./neighbourhoods.js";
import type { ProgramFacts } from "./program.js";
import { RegisterConstants } from "./register-constants.js";
import { AddressFilter, sweepAddresses, sweepDistances } from "./sweep.js";

/** Numbers of the registers that the first arguments of a function are passed in. */
export const ARGUMENTS = [7, 6, 2] as const;

export interface ImportCall {
  readonly at: Vaddr;
  /** The low 32 bits that the first arguments may have; undefined where they are not known. */
  readonly arguments: readonly (readonly number[] | undefined)[];
}

/** A call whose arguments nobody has looked at yet, and the instructions around it. */
interface FoundCall {
  readonly at: Vaddr;
  readonly code: DecodedCode;
}

/** The calls of imported functions, by their names; or why they cannot be told. */
interface FoundCalls {
  readonly byName: ReadonlyMap<string, readonly FoundCall[] | string>;
  /** Places around which facts have to be gathered before it can be said what is handed over. */
  readonly places: readonly Vaddr[];
}

/**
 * Finds the calls of each of the imported functions with these names that the file has.
 * @throws InputError where tables of the file are damaged
 */
export function findImportCalls(file: FileFacts, names: readonly string[]): FoundCalls {
  const { image } = file;
  const byName = new Map<string, readonly FoundCall[] | string>();
  const slots = names.length === 0 ? new Map<string, Vaddr[] | string>() : importSlots(image, names);
  if (slots.size === 0) return { byName, places: [] };
  const { functions } = file;
  const ways = new Map<string, Ways>();
  for (const [name, slot] of slots) {
    if (typeof slot === "string") byName.set(name, slot);
    else {
      const words = new Set<number>(slot);
      ways.set(name, { words, stubs: stubsOf(image, functions, words) });
    }
  }
  const targets = new Set([...ways.values()].flatMap(({ words, stubs }) => [...words, ...stubs]));
  const hits = references(image, functions.codeSections, targets);
  for (const [name, own] of ways) byName.set(name, callsBy(image, functions, own, hits));
  const calls = [...byName.values()].filter((found) => typeof found !== "string").flat();
  const size = image.sections.filter(isCode).reduce((sum, s) => sum + s.sh_size, 0);
  const places = new Set(calls.flatMap(({ at, code }) => (size > MOST_CODE ? [at] : placesIn(code))));
  return { byName, places: [...places] };
}

/** What the calls hand over. @param facts gathered around all of their places, and maybe others; undefined for none */
export function argumentsOf({ byName }: FoundCalls, facts: ProgramFacts | undefined): ReadonlyMap<string, ImportCalls> {
  const constants = facts && new RegisterConstants(facts);
  const calls = (found: readonly FoundCall[]): ImportCall[] =>
    found.map(({ at, code }) => {
      const index = indexAt(code, at);
      const known = typeof facts?.siteCode(at) === "string" ? undefined : constants;
      return { at, arguments: ARGUMENTS.map((register) => known?.valuesBefore(code, index, register)) };
    });
  return new Map([...byName].map(([name, found]) => [name, typeof found === "string" ? found : calls(found)]));
}

/** The calls of one function, or why they cannot be told. */
export type ImportCalls = readonly ImportCall[] | string;

const LARGEST_FUNCTION = 1 << 16;
/** In a program with more code than this, numbers are looked for close to the calls alone: see system-calls.ts. */
const MOST_CODE = 1 << 24;

/** Addresses whose neighbourhoods cover a function. */
function placesIn({ start, end }: DecodedCode): Vaddr[] {
  const places: Vaddr[] = [];
  for (let at: number = start; at < Math.min(end, start + LARGEST_FUNCTION); at += REACH_BEHIND) places.push(vaddr(at));
  return places;
}

/** The words that the loader fills with the address of each function. */
function importSlots(image: ElfImage, names: readonly string[]): Map<string, Vaddr[] | string> {
  const slots = new Map<string, Vaddr[] | string>();
  const table = dynsym(image);
  if (table === null) return slots;
  const numbers = new Map<number, string>();
  forEachSymbol(table, (value, _size, _info, shndx, index) => {
    const name = shndx === elf.SHN_UNDEF ? symbolName(table, index) : "";
    if (!names.includes(name)) return;
    numbers.set(index, name);
    if (value !== 0) slots.set(name, "its address is that of the linkage table's stub, which may be handed out");
    else if (!slots.has(name)) slots.set(name, []);
  });
  for (const { start, size } of relocationTables(image)) {
    const entries = words32(image, start, size);
    for (let at = start; at + elf.RELA_SIZE <= start + size; at += elf.RELA_SIZE) {
      // Nearly all name no symbol.
      const number = entries[(at - start + 12) / 4]!;
      const name = number === 0 ? undefined : numbers.get(number);
      const words = name === undefined ? undefined : slots.get(name);
      if (name === undefined || !Array.isArray(words)) continue;
      const type = image.view.getUint32(at + 8, true);
      if (type === elf.R_X86_64_GLOB_DAT || type === elf.R_X86_64_JUMP_SLOT) words.push(vaddr(read64(image.view, at)));
      else slots.set(name, `a pointer to it stands at ${hex(read64(image.view, at))}`);
    }
  }
  return slots;
}

function relocationTables(image: ElfImage): { start: number; size: number }[] {
  const tables = new Map<number, number>();
  for (const s of image.sections)
    if (s.sh_type === elf.SHT_RELA && s.sh_flags & elf.SHF_ALLOC) tables.set(s.sh_offset, s.sh_size);
  const tags = new Map(readDynamicTags(image).map((t) => [t.d_tag, t.d_val]));
  for (const [table, bytes] of [
    [elf.DT_RELA, elf.DT_RELASZ],
    [elf.DT_JMPREL, elf.DT_PLTRELSZ],
  ] as const) {
    const start = tags.has(table) ? offsetOf(image, vaddr(tags.get(table)!)) : undefined;
    const size = tags.get(bytes) ?? 0;
    if (start !== undefined && start + size <= image.bytes.length)
      tables.set(start, Math.max(size, tables.get(start) ?? 0));
  }
  return [...tables].map(([start, size]) => ({ start, size }));
}

/** Words that the loader fills with a function's address, and the stubs that jump through them. */
interface Ways {
  readonly words: ReadonlySet<number>;
  readonly stubs: ReadonlySet<number>;
}

/** The stubs of the linkage table that jump through any of these words. */
function stubsOf(image: ElfImage, functions: FunctionIndex, words: ReadonlySet<number>): ReadonlySet<number> {
  const stubs = new Set<number>();
  for (const { at, isAbsolute } of references(image, functions.codeSections.filter(isLinkage), words)) {
    const where = instructionAround(functions, at, words);
    if (typeof where !== "object" || isAbsolute || !isIndirect(where.code, where.index)) continue;
    for (const entry of stubEntries(where.code, where.index)) stubs.add(entry);
  }
  return stubs;
}

/**
 * The calls by these ways, or what else may use them.
 * @param hits what looks as if it led to them, and maybe to others
 */
function callsBy(
  image: ElfImage,
  functions: FunctionIndex,
  { words, stubs }: Ways,
  hits: readonly Reference[],
): FoundCall[] | string {
  const calls: FoundCall[] = [];
  for (const { at, target, isAbsolute } of hits) {
    if (!words.has(target)) continue;
    const where = instructionAround(functions, at, words);
    if (where === undefined) continue;
    if (typeof where === "string") return where;
    const { code, index } = where;
    if (!isIndirect(code, index) || isAbsolute)
      return `the instruction at ${hex(addressOf(code, index))} reads its address`;
    const section = functions.sectionAt(addressOf(code, index));
    if (section === undefined || !isLinkage(section)) calls.push({ at: addressOf(code, index), code });
  }
  for (const { at, target, isAbsolute } of hits) {
    if (!stubs.has(target)) continue;
    const where = instructionAround(functions, at, stubs);
    if (where === undefined) continue;
    if (typeof where === "string") return where;
    const { code, index } = where;
    const jumps = Flow.Call | Flow.Jump | Flow.Conditional;
    if (isAbsolute || (code.flow[index]! & jumps) === 0)
      return `the instruction at ${hex(addressOf(code, index))} makes its address`;
    calls.push({ at: addressOf(code, index), code });
  }
  const pointer = pointerTo(image, stubs);
  if (pointer !== undefined) return `a pointer to it may stand at ${hex(pointer)}`;
  return calls.length === 0 ? "no call of it is seen" : calls;
}

const isLinkage = ({ name }: Section): boolean => name.startsWith(".plt");

/** A call or jump through memory. */
const isIndirect = (code: DecodedCode, index: number): boolean =>
  (code.flow[index]! & Flow.IndirectJump) !== 0 ||
  ((code.flow[index]! & Flow.Call) !== 0 && Number.isNaN(code.targets[index]!));

/**
 * Where the stub that ends with this jump may be entered: at any instruction from the end of what stands before it. (An
 * endbr64 may come first; mold's stubs load a number into r11.)
 */
function stubEntries(code: DecodedCode, index: number): Vaddr[] {
  const entries = [addressOf(code, index)];
  const ends = Flow.Jump | Flow.IndirectJump | Flow.Return | Flow.Trap;
  for (let i = index - 1; i >= 0 && (code.flow[i]! & ends) === 0; i--) entries.push(addressOf(code, i));
  return entries;
}

/** The instruction around `at`, if it leads to, uses or makes one of the addresses; else undefined. */
function instructionAround(
  functions: FunctionIndex,
  at: Vaddr,
  targets: ReadonlySet<number>,
): { code: DecodedCode; index: number } | string | undefined {
  const range = functions.containing(at);
  const code = range === undefined ? functions.gapCode(at) : functions.code(range);
  if (code === undefined) return undefined;
  if (code.unclean !== undefined) return `code that cannot be decoded, at ${hex(at)}, may use it`;
  const index = indexAt(code, at);
  const start = addressOf(code, index);
  const bytes = code.bytes.subarray(start - code.start, start - code.start + lengthOf(code, index));
  const named = namedAddress(bytes, start);
  const isMeant =
    targets.has(code.targets[index]!) ||
    (named !== undefined && targets.has(named)) ||
    constantsOf(bytes, start).some(({ value }) => targets.has(value));
  return isMeant ? { code, index } : undefined;
}

/** A position in code whose 32 bits lead or point to an address. */
interface Reference {
  readonly at: Vaddr;
  readonly target: number;
  readonly isAbsolute: boolean;
}

/** Every such position for the addresses, in the order in which they stand. */
function references(image: ElfImage, sections: readonly Section[], targets: ReadonlySet<number>): Reference[] {
  const found: Reference[] = [];
  if (targets.size === 0) return found;
  const filter = new AddressFilter();
  for (const target of targets) filter.add(target);
  for (const section of sections) {
    const bytes = sectionBytes(image, section);
    const { sh_addr } = section;
    sweepDistances(bytes, sh_addr, filter, (p, v) => {
      const target = sh_addr + p + 4 + v;
      if (targets.has(target)) found.push({ at: vaddr(sh_addr + p), target, isAbsolute: false });
    });
    if (image.header.e_type !== elf.ET_EXEC) continue;
    sweepAddresses(bytes, filter, (p, v) => {
      if (targets.has(v)) found.push({ at: vaddr(sh_addr + p), target: v, isAbsolute: true });
    });
  }
  return found.sort((a, b) => a.at - b.at);
}

/** A word in loaded data that is one of the addresses: relocated, or as it stands where addresses are fixed. */
function pointerTo(image: ElfImage, targets: ReadonlySet<number>): Vaddr | undefined {
  if (targets.size === 0) return undefined;
  let found: Vaddr | undefined;
  forEachRelocation(image, (place, value) => {
    if (targets.has(value)) found ??= place;
  });
  if (found !== undefined || image.header.e_type !== elf.ET_EXEC) return found;
  for (const section of image.sections) {
    if (!(section.sh_flags & elf.SHF_ALLOC) || isCode(section)) continue;
    const bytes = sectionBytes(image, section);
    for (const target of targets) {
      const word = Buffer.alloc(8);
      word.writeBigUInt64LE(BigInt(target));
      const at = bytes.indexOf(word);
      if (at >= 0) return vaddr(section.sh_addr + at);
    }
  }
  return undefined;
}
