/**
 * All places where a file calls an imported function, and the numbers that it hands over there.
 *
 * An import is a word that the loader fills. Code gets at the function by a jump or call through that word, most of the time
 * by way of a stub of the linkage table; so the words are looked for at every position of the code, then the stubs that jump
 * through them, then the calls of the stubs. Whatever else names the word or the stub (a pointer in data, a `mov` or `lea`)
 * may hand the function to anybody: then it is not known who calls it.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { forEachRelocation, readDynamicTags } from "../elf/dynamic.js";
import { type ElfImage, isCode, offsetOf, read64, sectionBytes } from "../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../elf/symbols.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { constantsOf, namedAddress } from "../x86/relocate.js";
import { FunctionIndex } from "./functions.js";
import { REACH_BEHIND } from "./neighbourhoods.js";
import { gatherFacts } from "./program.js";
import { valuesBefore } from "./register-constants.js";

/** Numbers of the registers that the first arguments of a function are passed in. */
export const ARGUMENTS = [7, 6, 2] as const;

export interface ImportCall {
  readonly at: Vaddr;
  /** The low 32 bits that the first arguments may have; undefined where they are not known. */
  readonly arguments: readonly (readonly number[] | undefined)[];
}

/**
 * The calls of each of the imported functions with these names that the file has, or why they cannot be told.
 * @throws InputError where tables of the file are damaged
 */
export function importCalls(
  image: ElfImage,
  names: readonly string[],
): ReadonlyMap<string, readonly ImportCall[] | string> {
  const result = new Map<string, readonly ImportCall[] | string>();
  const slots = importSlots(image, names);
  if (slots.size === 0) return result;
  const functions = FunctionIndex.of(image);
  const found = new Map<string, { at: Vaddr; code: DecodedCode }[]>();
  for (const [name, words] of slots) {
    const calls = typeof words === "string" ? words : callsThrough(image, functions, words);
    if (typeof calls === "string") result.set(name, calls);
    else found.set(name, calls);
  }
  const size = image.sections.filter(isCode).reduce((sum, s) => sum + s.sh_size, 0);
  const places = new Set(
    [...found.values()].flat().flatMap(({ at, code }) => (size > MOST_CODE ? [at] : placesIn(code))),
  );
  if (places.size === 0) {
    for (const name of found.keys()) result.set(name, []);
    return result;
  }
  const facts = gatherFacts(image, [...places]);
  for (const [name, calls] of found)
    result.set(
      name,
      calls.map(({ at, code }): ImportCall => {
        const index = indexAt(code, at);
        const isKnown = typeof facts.siteCode(at) !== "string";
        return {
          at,
          arguments: ARGUMENTS.map((register) => (isKnown ? valuesBefore(facts, code, index, register) : undefined)),
        };
      }),
    );
  return result;
}

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
  for (const { start, size } of relocationTables(image))
    for (let at = start; at + elf.RELA_SIZE <= start + size; at += elf.RELA_SIZE) {
      const name = numbers.get(image.view.getUint32(at + 12, true));
      const words = name === undefined ? undefined : slots.get(name);
      if (name === undefined || !Array.isArray(words)) continue;
      const type = image.view.getUint32(at + 8, true);
      if (type === elf.R_X86_64_GLOB_DAT || type === elf.R_X86_64_JUMP_SLOT) words.push(vaddr(read64(image.view, at)));
      else slots.set(name, `a pointer to it stands at ${hex(read64(image.view, at))}`);
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

/** The calls that lead through any of these words, or what else may use them. */
function callsThrough(
  image: ElfImage,
  functions: FunctionIndex,
  slots: readonly Vaddr[],
): { at: Vaddr; code: DecodedCode }[] | string {
  const calls: { at: Vaddr; code: DecodedCode }[] = [];
  const stubs: Vaddr[] = [];
  const words = new Set<number>(slots);
  for (const { at, isAbsolute } of references(image, words)) {
    const where = instructionAround(functions, at, words);
    if (where === undefined) continue;
    if (typeof where === "string") return where;
    const { code, index } = where;
    const isThrough = isIndirect(code, index) && !isAbsolute;
    if (isThrough && isLinkage(functions, addressOf(code, index))) stubs.push(...stubEntries(code, index));
    else if (isThrough) calls.push({ at: addressOf(code, index), code });
    else return `the instruction at ${hex(addressOf(code, index))} reads its address`;
  }
  const entries = new Set<number>(stubs);
  for (const { at, isAbsolute } of references(image, entries)) {
    const where = instructionAround(functions, at, entries);
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

const isLinkage = (functions: FunctionIndex, at: Vaddr): boolean =>
  functions.sectionAt(at)?.name.startsWith(".plt") === true;

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

/** Every position in code whose 32 bits lead or point to one of the addresses. */
function references(image: ElfImage, targets: ReadonlySet<number>): { at: Vaddr; isAbsolute: boolean }[] {
  const found: { at: Vaddr; isAbsolute: boolean }[] = [];
  if (targets.size === 0) return found;
  const fixed = image.header.e_type === elf.ET_EXEC;
  const low = Math.min(...targets);
  const high = Math.max(...targets);
  for (const section of image.sections.filter(isCode)) {
    const bytes = sectionBytes(image, section);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const base = section.sh_addr + 4;
    for (let p = 0; p + 4 <= bytes.length; p++) {
      const word = view.getInt32(p, true);
      const target = base + p + word;
      if (target >= low && target <= high && targets.has(target))
        found.push({ at: vaddr(section.sh_addr + p), isAbsolute: false });
      if (fixed && word >= low && word <= high && targets.has(word))
        found.push({ at: vaddr(section.sh_addr + p), isAbsolute: true });
    }
  }
  return found;
}

/** A word in loaded data that is one of the addresses: relocated, or as it stands where addresses are fixed. */
function pointerTo(image: ElfImage, targets: readonly Vaddr[]): Vaddr | undefined {
  if (targets.length === 0) return undefined;
  const wanted = new Set<number>(targets);
  let found: Vaddr | undefined;
  forEachRelocation(image, (place, value) => {
    if (wanted.has(value)) found ??= place;
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
