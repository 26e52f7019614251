/**
 * Which instructions occur in programs: what the emulator needs first, and what it must not lack unseen.
 *
 * Counted are the functions around the probe sites of the five Debian packages (`sites`), the rest of those files'
 * functions (`files`), and statically linked test programs (`static`) without the functions that glibc chooses only on
 * processors with more than the baseline.
 */
import { readFileSync } from "node:fs";
import { type ElfImage, parseElf } from "../../../src/elf/image.js";
import { forEachSymbol, symbolName, symtab } from "../../../src/elf/symbols.js";
import { FunctionIndex } from "../../../src/facts/functions.js";
import { readUsdtNotes } from "../../../src/usdt/notes.js";
import { iced } from "../../../src/x86/iced.js";

export interface Occurrence {
  sites: number;
  files: number;
  static: number;
  /** The first that was met. */
  readonly example: Uint8Array;
}

type Where = "sites" | "files" | "static";

/** By iced Code. */
export type Survey = Map<number, Occurrence>;

const scratch = new iced.Instruction();

/** Functions of glibc that are chosen by CPUID on processors beyond x86-64-v1. */
const beyondBaseline = /_(avx|evex|ssse3|sse4|sse42|fma|avx512|rtm|erms|bmi2)/;

/** Counts a file's functions: those with a probe site as `sites`, the others as `files`. */
export function surveyFile(file: string, into: Survey): void {
  const image = parseElf(readFileSync(file));
  const functions = FunctionIndex.of(image);
  const withSites = new Set<number>();
  for (const note of readUsdtNotes(image)) {
    const range = functions.containing(note.location);
    if (range !== undefined) withSites.add(range.index);
  }
  for (let i = 0; i < functions.count; i++) {
    count(functions.bytes(functions.range(i)), into, withSites.has(i) ? "sites" : "files");
  }
}

/** Counts a statically linked program's functions, of those that are chosen at run time the baseline's only. */
export function surveyStatic(file: string, into: Survey): void {
  const image = parseElf(readFileSync(file));
  const left = beyond(image);
  const functions = FunctionIndex.of(image);
  for (let i = 0; i < functions.count; i++) {
    const range = functions.range(i);
    if (!left.has(range.start)) count(functions.bytes(range), into, "static");
  }
}

/** Where those functions begin. */
function beyond(image: ElfImage): ReadonlySet<number> {
  const found = new Set<number>();
  const table = symtab(image);
  if (table === null) throw new Error("the static program has no symbols");
  forEachSymbol(table, (st_value, _size, _info, _shndx, index) => {
    if (beyondBaseline.test(symbolName(table, index))) found.add(st_value);
  });
  return found;
}

function count(bytes: Uint8Array, into: Survey, where: Where): void {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  while (decoder.canDecode) {
    const at = decoder.position;
    decoder.decodeOut(scratch);
    const code = scratch.code;
    let entry = into.get(code);
    if (entry === undefined) {
      entry = { sites: 0, files: 0, static: 0, example: bytes.slice(at, at + scratch.length) };
      into.set(code, entry);
    }
    entry[where]++;
  }
  decoder.free();
}

/** The counts as a table, the most frequent first: mnemonic, the three counts, and each Code with its own. */
export function surveyTable(survey: Survey): string {
  const byMnemonic = new Map<string, [string, Occurrence][]>();
  for (const [code, occurrence] of survey) {
    scratch.code = code;
    const name = iced.Mnemonic[scratch.mnemonic]!.toLowerCase();
    const codes = byMnemonic.get(name) ?? [];
    byMnemonic.set(name, codes);
    codes.push([iced.Code[code]!, occurrence]);
  }
  const rows = [...byMnemonic].map(([name, codes]) => ({ name, codes, total: sum(codes.map(([, o]) => o)) }));
  const lines = ["mnemonic             sites    files   static  codes (sites/files/static)"];
  for (const { name, codes, total } of rows.sort((a, b) => order(a.total, b.total))) {
    const each = codes
      .sort((a, b) => order(a[1], b[1]))
      .map(([code, o]) => `${code}:${o.sites}/${o.files}/${o.static}`)
      .join(" ");
    const columns = [total.sites, total.files, total.static].map((n) => String(n).padStart(8)).join(" ");
    lines.push(`${name.padEnd(17)}${columns}  ${each}`);
  }
  return `${lines.join("\n")}\n`;
}

type Counts = Pick<Occurrence, Where>;

const order = (a: Counts, b: Counts): number => b.sites - a.sites || b.static - a.static || b.files - a.files;

function sum(all: readonly Counts[]): Counts {
  const total = { sites: 0, files: 0, static: 0 };
  for (const where of ["sites", "files", "static"] as const) for (const one of all) total[where] += one[where];
  return total;
}
