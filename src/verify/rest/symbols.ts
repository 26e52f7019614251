/**
 * Symbol tables and the names they use.
 *
 * Every symbol of the original is there and says the same, but for its section's number; a symbol of a section that
 * moved moves along; a function that ends later is larger. In front of the first global symbol of .symtab there may be
 * new ones: local functions FUNCTION.nop5 that lie in new code, one after the other. String tables keep what they have
 * and grow by the names of those symbols, and of new sections.
 */

import { type FileOffset, hex, type Interval, interval, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { readEhFrame } from "../../elf/eh-frame.js";
import { type ElfImage, offsetOf, read64, type Section, sectionBytes } from "../../elf/image.js";
import { dynsym, forEachSymbol, functionsAt, type SymbolTable, symbolName, symtab } from "../../elf/symbols.js";
import { InputError } from "../../errors.js";
import { outside } from "../../intervals.js";
import { readUsdtNotes } from "../../usdt/notes.js";
import { decode, lengthOf } from "../../x86/decode.js";
import type { Guard, NamedPiece } from "../guard/guard.js";
import { atOffset, type Finding, finding, type Part, type Ruling } from "./findings.js";
import { type Growth, paddingProblem } from "./frames.js";
import { movedPairs } from "./moved.js";
import type { SectionPair, SectionPairs } from "./sections.js";
import { isInFront } from "./unwind-records.js";

interface SymbolRuling extends Ruling {
  /** Names that string tables may have in addition. */
  readonly addedNames: ReadonlySet<string>;
}

const isTable = (s: Section): boolean => s.sh_type === elf.SHT_SYMTAB || s.sh_type === elf.SHT_DYNSYM;

export function judgeSymbols(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  growths: readonly Growth[],
  explained: readonly Interval<Vaddr>[],
  guard: Guard | undefined,
): SymbolRuling {
  const findings: Finding[] = [];
  const judged: Interval<FileOffset>[] = [];
  const addedNames = new Set<string>();
  for (const pair of pairs.pairs) {
    const { original: o, rewritten: r } = pair;
    if (!isTable(o) || o.sh_entsize !== elf.SYM_SIZE || o.sh_size % elf.SYM_SIZE !== 0) continue;
    judged.push(interval(o.sh_offset, o.sh_size));
    const part: Part = o.sh_flags & elf.SHF_ALLOC ? "loaded" : "described";
    const say = (offset: number, what: string): void => {
      findings.push(finding(part, atOffset(offset), `${o.name}: ${what}`));
    };
    // Imports that a fork guard has appended are judged with all else that the loader reads.
    const imports = part === "loaded" && r.sh_size === guard?.sizes.get(o.index) ? r.sh_size - o.sh_size : 0;
    const added = (r.sh_size - o.sh_size - imports) / elf.SYM_SIZE;
    if (added < 0 || !Number.isInteger(added) || (added > 0 && (o.sh_type !== elf.SHT_SYMTAB || part === "loaded"))) {
      say(r.sh_offset, `has ${hex(r.sh_size)} bytes, not ${hex(o.sh_size)}`);
      continue;
    }
    // Local symbols come first; sh_info says how many there are.
    const border = added === 0 ? o.sh_size / elf.SYM_SIZE : Math.min(o.sh_info, o.sh_size / elf.SYM_SIZE);
    const spared = part === "loaded" ? guard?.spared : undefined;
    judgeOld(original, rewritten, pair, pairs, added, border, growths, explained, spared, say);
    judgeAdded(original, rewritten, r, pairs.code, added, border, explained, guard, addedNames, say);
  }
  for (const section of [
    pairs.code,
    pairs.carry,
    pairs.words,
    pairs.selector,
    pairs.exceptions,
    ...pairs.far,
    ...pairs.kept,
  ])
    if (section !== undefined) addedNames.add(section.name);
  return { findings, judged, addedNames };
}

type Say = (offset: number, what: string) => void;

function judgeOld(
  original: ElfImage,
  rewritten: ElfImage,
  { original: o, rewritten: r }: SectionPair,
  pairs: SectionPairs,
  added: number,
  border: number,
  growths: readonly Growth[],
  explained: readonly Interval<Vaddr>[],
  spared: ReadonlySet<number> | undefined,
  say: Say,
): void {
  const { view } = original;
  const now = rewritten.view;
  const shifts = new Map(
    movedPairs(pairs)
      .filter((pair) => !isInFront(pair))
      .map(({ original: from, rewritten: to }) => [from.index, to.sh_addr - from.sh_addr]),
  );
  const byEnd = new Map(growths.map((g) => [g.oldEnd, g]));
  for (let index = 0; index < o.sh_size / elf.SYM_SIZE; index++) {
    const a = o.sh_offset + index * elf.SYM_SIZE;
    const b = r.sh_offset + (index < border ? index : index + added) * elf.SYM_SIZE;
    if (spared?.has(index)) continue;
    if (
      view.getUint32(a, true) !== now.getUint32(b, true) ||
      view.getUint16(a + 4, true) !== now.getUint16(b + 4, true)
    ) {
      say(b, `symbol ${index} has another name or kind`);
      continue;
    }
    const shndx = view.getUint16(a + 6, true);
    const number = shndx === elf.SHN_UNDEF || shndx >= original.sections.length ? shndx : pairs.numberOf(shndx);
    if (number !== undefined && now.getUint16(b + 6, true) !== number)
      say(b + 6, `symbol ${index} is in section ${now.getUint16(b + 6, true)}, not ${number}`);
    const value = read64(view, a + 8);
    const size = read64(view, a + 16);
    // The first symbol is none, whatever it says.
    const shift = index === 0 || shndx === elf.SHN_UNDEF ? 0 : (shifts.get(shndx) ?? 0);
    if (shift === 0 ? !sameWord(view, a + 8, now, b + 8) : read64(now, b + 8) !== value + shift)
      say(b + 8, `symbol ${index} is at ${hex(read64(now, b + 8))}, not ${hex(value + shift)}`);
    const kind = view.getUint8(a + 4) & 0xf;
    const isFunction = (kind === elf.STT_FUNC || kind === elf.STT_GNU_IFUNC) && size > 0 && shndx !== elf.SHN_UNDEF;
    const growth = isFunction ? byEnd.get(vaddr(value + size)) : undefined;
    const expected = growth !== undefined && value >= growth.start ? growth.newEnd - value : size;
    if (expected === size ? sameWord(view, a + 16, now, b + 16) : read64(now, b + 16) === expected) continue;
    const newEnd = vaddr(value + read64(now, b + 16));
    // A function that has no FDE grows by its symbol alone.
    const grows =
      isFunction && growth === undefined && newEnd > value + size && !isBounded(original, value, size, newEnd);
    if (!grows || paddingProblem(original, { start: vaddr(value + size), end: newEnd }, explained) !== undefined)
      say(b + 16, `symbol ${index} has ${hex(read64(now, b + 16))} bytes, not ${hex(expected)}`);
  }
}

/** Whether an FDE says where a function ends, or something else begins before `newEnd`. Asked for few functions. */
function isBounded(original: ElfImage, value: number, size: number, newEnd: number): boolean {
  const frames = readEhFrame(original);
  for (let i = 0; i < frames.count; i++) if (frames.starts[i]! < newEnd && frames.ends[i]! > value) return true;
  let found = false;
  for (const table of [symtab(original), dynsym(original)])
    if (table !== null)
      forEachSymbol(table, (start, _size, _info, shndx) => {
        found ||= shndx !== elf.SHN_UNDEF && start >= value + size && start < newEnd;
      });
  return found;
}

const sameWord = (a: DataView, at: number, b: DataView, bt: number): boolean =>
  a.getUint32(at, true) === b.getUint32(bt, true) && a.getUint32(at + 4, true) === b.getUint32(bt + 4, true);

function judgeAdded(
  original: ElfImage,
  rewritten: ElfImage,
  table: Section,
  code: Section | undefined,
  added: number,
  border: number,
  explained: readonly Interval<Vaddr>[],
  guard: Guard | undefined,
  addedNames: Set<string>,
  say: Say,
): void {
  if (added === 0) return;
  if (code === undefined) {
    say(table.sh_offset, "has new symbols, and there is no new code");
    return;
  }
  const { view, bytes } = rewritten;
  const strings = rewritten.sections[table.sh_link];
  const allowed = possibleNames(original, explained);
  const open = new Set<NamedPiece>(guard?.named);
  let end = code.sh_addr;
  let last: { readonly at: number; readonly name: string } | undefined;
  // Between chunks, and after the last one, there is int3 and nothing else, a fork guard apart.
  const isFill = (from: Vaddr, to: Vaddr): boolean =>
    from <= to &&
    outside(guard?.code ?? [], { start: from, end: to }).every((run) =>
      sectionBytes(rewritten, code)
        .subarray(run.start - code.sh_addr, run.end - code.sh_addr)
        .every((byte) => byte === 0xcc),
    );
  for (let i = 0; i < added; i++) {
    const at = table.sh_offset + (border + i) * elf.SYM_SIZE;
    const st_name = strings === undefined ? -1 : view.getUint32(at, true);
    const nul = strings === undefined ? -1 : bytes.indexOf(0, strings.sh_offset + st_name);
    const name = nul < 0 ? "" : bytes.toString("utf8", strings!.sh_offset + st_name, nul);
    const piece = [...open].find((p) => p.name === name);
    if (piece === undefined && !allowed.has(name))
      say(at, `a new symbol is called "${name}", and no code of such a function has changed`);
    else addedNames.add(name);
    if (view.getUint16(at + 4, true) !== ((elf.STB_LOCAL << 4) | elf.STT_FUNC))
      say(at + 4, `the new symbol ${name} is no local function`);
    if (view.getUint16(at + 6, true) !== code.index) say(at + 6, `the new symbol ${name} is not in ${code.name}`);
    const start = vaddr(read64(view, at + 8));
    const size = read64(view, at + 16);
    if (piece !== undefined) {
      open.delete(piece);
      if (start !== piece.start || start + size !== piece.end)
        say(at + 8, `the new symbol ${name} does not cover what stands there`);
      continue;
    }
    const inCode = start >= end && size > 0 && start + size <= code.sh_addr + code.sh_size;
    if (!inCode || endsInFill(rewritten, code, start, size) || !isFill(end, start))
      say(at + 8, `the new symbol ${name} does not cover what stands there`);
    end = vaddr(start + size);
    last = { at, name };
  }
  if (last !== undefined && !isFill(end, vaddr(code.sh_addr + code.sh_size)))
    say(last.at + 8, `the new symbol ${last.name} does not cover what stands there`);
  for (const { name } of open) say(table.sh_offset, `there is no symbol ${name}`);
}

/** Whether the last instruction of a piece of new code is an int3. */
function endsInFill(rewritten: ElfImage, code: Section, start: Vaddr, size: number): boolean {
  const bytes = sectionBytes(rewritten, code).subarray(start - code.sh_addr, start - code.sh_addr + size);
  if (bytes.at(-1) !== 0xcc) return false;
  const decoded = decode(bytes, start);
  return decoded.count === 0 || lengthOf(decoded, decoded.count - 1) === 1;
}

/** One name that cannot be read takes nothing from the others. */
function readableName(table: SymbolTable, index: number): string | null {
  try {
    return symbolName(table, index);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return null;
  }
}

/** What new code may be called: after functions whose code has changed, and where none has a name, after the probes. */
function possibleNames(original: ElfImage, explained: readonly Interval<Vaddr>[]): ReadonlySet<string> {
  const names = new Set<string>();
  try {
    const notes = readUsdtNotes(original);
    for (const { provider, name } of notes) names.add(`${provider}.${name}.nop5`);
    // Windows of several functions may stand one right after the other, and are one run then.
    const changed = explained.flatMap(({ start, end }) =>
      Array.from({ length: end - start }, (_, i) => vaddr(start + i)),
    );
    const places = [...notes.map((n) => n.location), ...changed.filter((at) => offsetOf(original, at) !== undefined)];
    for (const name of functionsAt(original, places, readableName)) if (name !== null) names.add(`${name}.nop5`);
  } catch (error) {
    // Damaged notes and tables are for those to tell who read them for their own sake.
    if (!(error instanceof InputError)) throw error;
  }
  return names;
}

/** Judges the string tables that grow: names of symbols and of sections. */
export function judgeNames(rewritten: ElfImage, { pairs }: SectionPairs, addedNames: ReadonlySet<string>): Ruling {
  const findings: Finding[] = [];
  const judged: Interval<FileOffset>[] = [];
  for (const { original: o, rewritten: r } of pairs) {
    if (o.sh_type !== elf.SHT_STRTAB || o.sh_flags & elf.SHF_ALLOC || r.sh_size <= o.sh_size) continue;
    const added = sectionBytes(rewritten, r).subarray(o.sh_size).toString("utf8");
    const strings = added.split("\0");
    if (strings.pop() !== "")
      findings.push(finding("described", atOffset(r.sh_offset + r.sh_size - 1), `${o.name} does not end with a NUL`));
    for (const text of strings)
      if (!addedNames.has(text))
        findings.push(finding("described", atOffset(r.sh_offset + o.sh_size), `${o.name} has a new name "${text}"`));
  }
  return { findings, judged };
}
