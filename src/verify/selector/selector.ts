/**
 * The selector of a rewritten file: a byte that says which twin of a universal probe runs, and the code that sets it at
 * the start. It is found where a process, or the loader, finds that code; nothing is taken from what rewriting says.
 *
 *     a program     e_entry leads to new code
 *     a library     a function that the loader calls at the start is new code that writes a byte of the file's own. A fork
 *                   guard may be called there as well: then that code goes on to the guard's, which is judged by itself
 *
 * Such a change of the header, or of what the loader reads, is accepted together with the proof that nothing else comes
 * of it:
 *     walk          on all ways through the code, it writes nothing but what it pushes, and a 1 to the selector; it asks
 *                   the kernel nothing and calls nothing; it ends, and goes on to what was called before, with rsp as it was
 *     runs          with the vDSO of each kernel, damaged ones and none, called in every way: registers as they were, no
 *                   fault, and the selector 1 exactly where 6.18 <= version < 7.2
 *     the byte      is the first of a word of zeros after the variables, which nothing of the original reaches and no
 *                   relocation writes to
 */
import { alignUp, type FileOffset, hex, type Interval, interval, PAGE_SIZE, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation, readDynamicTags } from "../../elf/dynamic.js";
import { type ElfImage, offsetOf, read64 } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { touches } from "../../intervals.js";
import { CodeReader } from "../code-reader.js";
import { type Caller, callers, readLoaderView } from "../loader-view.js";
import { atAddress, atOffset, type Finding, finding } from "../rest/findings.js";
import { keptRegisters, nameOf, runSelector } from "./runs.js";
import { storesByte, type Walked, walkSelector } from "./walk.js";

const WORD = 8;
/** The symbol of its code. */
const NAME = "usdt_nop5.select";
const E_ENTRY = 24;

/** What the loader calls in a library. */
interface Hooked {
  readonly caller: Caller;
  /** What it calls after that; undefined: nothing. */
  readonly next: Vaddr | undefined;
}

/** What a selector explains of the rest of the file. */
export interface Selector {
  readonly findings: readonly Finding[];
  /** The byte; undefined where its code could not be followed. */
  readonly byte: Vaddr | undefined;
  /** The word whose first byte that is. */
  readonly word: Interval<Vaddr> | undefined;
  /** e_entry, where that leads to its code. */
  readonly entry: Vaddr | undefined;
  /** By what the loader calls its code, where it does. */
  readonly hooked: Hooked | undefined;
  /** New code that is its own. */
  readonly code: readonly Interval<Vaddr>[];
  readonly named: readonly (Interval<Vaddr> & { readonly name: string })[];
  /** A dynamic tag with another value, or one in the place of an unused one. */
  readonly tagValues: ReadonlyMap<number, number>;
  readonly addedTags: readonly (readonly [tag: number, value: number])[];
  /** The array whose first function is another, by where that is, with that function. */
  readonly heads: ReadonlyMap<number, number>;
  /** What has been judged here, in offsets of the original's file. */
  readonly judged: readonly Interval<FileOffset>[];
}

/** Where its code is entered, and from where. */
type Found = { readonly start: Vaddr } & (
  | { readonly kind: "entry"; readonly before: Vaddr }
  | { readonly kind: "hook"; readonly caller: Caller; readonly before: Vaddr | undefined }
);

/**
 * Judges the selector of a file; undefined where it has none.
 * @param added new code: link-time addresses that the original does not have
 */
export function examineSelector(
  original: ElfImage,
  rewritten: ElfImage,
  added: readonly Interval<Vaddr>[],
): Selector | undefined {
  const isNew = (address: Vaddr): boolean => touches(added, address, address + 1);
  const code = new CodeReader(rewritten);
  const found = find(original, rewritten, code, isNew);
  return found && new Examination(original, rewritten, code, isNew, found).run();
}

function find(
  original: ElfImage,
  rewritten: ElfImage,
  code: CodeReader,
  isNew: (address: Vaddr) => boolean,
): Found | undefined {
  const [before, start] = [vaddr(original.header.e_entry), vaddr(rewritten.header.e_entry)];
  if (start !== before && isNew(start)) return { kind: "entry", start, before };
  try {
    const [then, now] = [readLoaderView(original).called, readLoaderView(rewritten).called];
    for (const caller of callers) {
      const called = vaddr(now.get(caller) ?? 0);
      const was = then.get(caller);
      if (called === was || !isNew(called) || isEnd(caller) || !storesByte(code, called, isNew)) continue;
      return { kind: "hook", caller, start: called, before: was === undefined ? undefined : vaddr(was) };
    }
  } catch (error) {
    // Damaged tables are bytes that differ, and others say so.
    if (!(error instanceof InputError)) throw error;
  }
  return undefined;
}

const isEnd = (caller: Caller): boolean => caller === "DT_FINI" || caller === "DT_FINI_ARRAY";

class Examination {
  private readonly findings: Finding[] = [];

  constructor(
    private readonly original: ElfImage,
    private readonly rewritten: ElfImage,
    private readonly code: CodeReader,
    private readonly isNew: (address: Vaddr) => boolean,
    private readonly found: Found,
  ) {}

  run(): Selector {
    const { found } = this;
    const walked = walkSelector(this.code, found.start, this.isNew);
    if (typeof walked === "string") this.say(walked);
    else this.judge(walked);
    const known = typeof walked === "object" ? walked : undefined;
    const byte = known?.selector;
    const word = byte === undefined ? undefined : interval(byte, WORD);
    if (word !== undefined) this.judgeWord(word);
    const piece = known?.code.find(({ start, end }) => found.start >= start && found.start < end);
    return {
      ...this.hook(),
      byte,
      word,
      entry: found.kind === "entry" ? found.start : undefined,
      hooked: found.kind === "hook" ? { caller: found.caller, next: known?.next } : undefined,
      code: known?.code ?? [],
      named: piece === undefined ? [] : [{ name: NAME, start: found.start, end: piece.end }],
      findings: this.findings,
    };
  }

  private say(what: string): void {
    const { found } = this;
    const where = found.kind === "entry" ? atOffset(E_ENTRY) : atAddress(found.start);
    this.findings.push(finding("loaded", where, `the code that sets the selector: ${what}`));
  }

  private judge({ next, selector, kept }: Walked): void {
    const { found, isNew } = this;
    const isEntry = found.kind === "entry";
    if (!this.beginsAsTarget()) this.say("it does not begin with endbr64");
    // A fork guard's code goes on to what was called before: that is for whoever judges the guard.
    const isGuards = !isEntry && next !== undefined && isNew(next);
    if (next !== found.before && !isGuards) this.say(`it goes on ${whereTo(next)}, not ${whereTo(found.before)}`);
    const lost = keptRegisters(isEntry).find((register) => !kept.has(register));
    if (lost !== undefined) this.say(`${nameOf(lost)} is not what it was`);
    if (selector === undefined) this.say("it sets nothing");
    // Where something is wrong already, runs only say it once more.
    if (this.findings.length > 0 || selector === undefined) return;
    const problem = runSelector(this.rewritten, { start: found.start, next, selector, isEntry });
    if (problem !== undefined) this.say(problem);
  }

  private beginsAsTarget(): boolean {
    return Buffer.compare(this.code.bytes(this.found.start, 4), Buffer.of(0xf3, 0x0f, 0x1e, 0xfa)) === 0;
  }

  /** The word is the last of a writable segment that is longer in memory than it was, and in no page of another. */
  private judgeWord({ start, end }: Interval<Vaddr>): void {
    const loads = (image: ElfImage) => image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
    const home = loads(this.rewritten).find(
      (p) => (p.p_flags & elf.PF_W) !== 0 && p.p_vaddr <= start && p.p_vaddr + p.p_memsz === end,
    );
    const before = home && loads(this.original).find((p) => p.p_vaddr === home.p_vaddr);
    const isAfter = before !== undefined && start >= alignUp(before.p_vaddr + before.p_memsz, WORD);
    if (!isAfter || start % WORD !== 0 || home!.p_filesz !== before.p_filesz)
      this.say(`the byte at ${hex(start)} is not the first of the last word of memory after variables`);
    const others = loads(this.rewritten).filter((p) => p !== home);
    const page = (address: number): number => Math.floor(address / PAGE_SIZE);
    if (others.some((p) => page(p.p_vaddr) <= page(start) && page(p.p_vaddr + p.p_memsz - 1) >= page(start)))
      this.say(`the byte at ${hex(start)} shares a page with another segment`);
    const relro = this.rewritten.programHeaders.find(
      (p) => p.p_type === elf.PT_GNU_RELRO && p.p_vaddr <= start && start < p.p_vaddr + p.p_memsz,
    );
    if (relro !== undefined) this.say(`the byte at ${hex(start)} becomes read-only`);
    let isWritten = false;
    forEachRelocation(this.rewritten, (place) => {
      isWritten ||= place < end && place + WORD > start;
    });
    if (isWritten) this.say(`a relocation writes to the byte at ${hex(start)}`);
  }

  /** What leads the loader to it: a tag, or the first word of an array. */
  private hook(): Pick<Selector, "tagValues" | "addedTags" | "heads" | "judged"> {
    const { found } = this;
    const nothing = { tagValues: new Map(), addedTags: [], heads: new Map(), judged: [] };
    if (found.kind === "entry") return nothing;
    const { caller, start } = found;
    const tag = caller === "DT_INIT" ? elf.DT_INIT : elf.DT_INIT_ARRAY;
    const was = readDynamicTags(this.original).find((t) => t.d_tag === tag);
    if (caller === "DT_INIT") {
      if (was === undefined) return { ...nothing, addedTags: [[tag, start]] };
      return { ...nothing, tagValues: new Map([[tag, start]]) };
    }
    if (caller !== "DT_INIT_ARRAY" || was === undefined || found.before === undefined) {
      this.say(`no loader calls it there in a library (${caller})`);
      return nothing;
    }
    const judged = this.judgeHead(was.d_val, start);
    return { ...nothing, heads: new Map([[was.d_val, start]]), judged };
  }

  /** The addend of the one relocation that fills the array's first word, or that word in the file. */
  private judgeHead(head: number, start: number): Interval<FileOffset>[] {
    const judged: Interval<FileOffset>[] = [];
    for (const { before, now, at } of relocationTables(this.original, this.rewritten)) {
      for (let i = 0; i + elf.RELA_SIZE <= Math.min(before.length, now.length); i += elf.RELA_SIZE) {
        if (readWord(before, i) !== head) continue;
        const isOne = before.subarray(i, i + 16).equals(now.subarray(i, i + 16));
        if (isOne && before.readUInt32LE(i + 8) === elf.R_X86_64_RELATIVE && readWord(now, i + 16) === start)
          judged.push(interval((at + i + 16) as FileOffset, WORD));
      }
    }
    if (judged.length > 1) this.say("several relocations fill the first word of the array that leads to it");
    if (judged.length > 0) return judged;
    const [stored, is] = [offsetOf(this.original, vaddr(head)), offsetOf(this.rewritten, vaddr(head))];
    if (stored === undefined || is === undefined || read64(this.rewritten.view, is) !== start) return [];
    return [interval(stored, WORD)];
  }
}

const whereTo = (address: Vaddr | undefined): string => (address === undefined ? "back" : `at ${hex(address)}`);
const readWord = (bytes: Buffer, at: number): number => bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;

/** The tables of relocations that both files spell out, and where they stand in the original's file. */
function relocationTables(
  original: ElfImage,
  rewritten: ElfImage,
): readonly { readonly before: Buffer; readonly now: Buffer; readonly at: number }[] {
  const [before, now] = [original, rewritten].map((image) => readLoaderView(image).tables);
  return (["relocations", "pltRelocations"] as const).flatMap((name) => {
    const [b, n] = [before!.get(name), now!.get(name)];
    return b === undefined || n === undefined ? [] : [{ before: b.bytes, now: n.bytes, at: b.offset }];
  });
}
