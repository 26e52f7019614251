/**
 * The fork guard of a rewritten file: whether there is one, and whether it does what it should and nothing else.
 *
 * It is found where the loader finds it: a function that the loader calls at the start stands in new code. From there
 * all else follows, from top to bottom of `examineGuard`:
 *
 *     loader        what the dynamic loader makes of both files is the same, but for a guard's imports and words (loader-rules.ts)
 *     stubs         what it calls registers a child handler, takes it out at the end, and goes on to what it called before
 *     child         the handler: nothing where nobody traces, and what it may do where somebody does (child.ts)
 *     parent        the handlers on either side of a fork, where there are some: signals are held where somebody traces, in words
 *                   of the guard's own that no relocation fills, and let in again (held-signals.ts, slots.ts)
 *     new code      all of it that is the guard's has run, or has been read, in one of the runs
 *
 * Nothing is taken from what rewriting says of itself: its memo only has to agree.
 */

import {
  alignUp,
  type FileOffset,
  hex,
  type Interval,
  interval,
  PAGE_SIZE,
  pageStart,
  type Vaddr,
  vaddr,
} from "../../address.js";
import * as elf from "../../elf/constants.js";
import { startsProcesses } from "../../elf/dynamic.js";
import { type ElfImage, offsetOf, type ProgramHeader } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import type { FileFacts } from "../../facts/file-facts.js";
import { touches, union } from "../../intervals.js";
import { readCarry } from "../../rewritten/carry.js";
import { tellsOfGuard } from "../../rewritten/memo.js";
import type { ChangedCode } from "../changed-code.js";
import { type Caller, callers, type LoaderView, readLoaderView } from "../loader-view.js";
import { atAddress, type Finding, finding } from "../rest/findings.js";
import type { Selector } from "../selector/selector.js";
import { judgeChild } from "./child.js";
import { calledHandler, type ForkDetour, ForkDetours, findForkDetours } from "./fork-detours.js";
import { guardedSites } from "./guarded-sites.js";
import { judgeParent, judgePrepare } from "./held-signals.js";
import type { Guarded } from "./kernel.js";
import { compareLoaderTables, type LoaderChanges, type Word, type WrappedUse } from "./loader-rules.js";
import { Machine, unlessAbsent } from "./machine.js";
import { Slots } from "./slots.js";
import { fillWords, type Handlers, type Hook, judgeFini, judgeInit } from "./stubs.js";
import { unvisitedCode } from "./unvisited.js";
import { judgeWrapper, resolved } from "./wrappers.js";

const WORD = 8;

/** A piece of the guard that a symbol may name. */
export interface NamedPiece extends Interval<Vaddr> {
  readonly name: string;
}

/** What a guard explains of the rest of the file. */
export interface Guard {
  readonly findings: readonly Finding[];
  /** New code that is the guard's: link-time addresses, ascending and disjoint. */
  readonly code: readonly Interval<Vaddr>[];
  readonly named: readonly NamedPiece[];
  /** The words after the variables, where it has some. */
  readonly words: Interval<Vaddr> | undefined;
  /** Values of dynamic tags that are others now, and tags in the place of unused ones, in their order. */
  readonly tagValues: ReadonlyMap<number, number>;
  readonly addedTags: readonly (readonly [tag: number, value: number])[];
  /** Dynamic symbols that are other imports now. */
  readonly spared: ReadonlySet<number>;
  /** How large sections of the original are now, by their number. */
  readonly sizes: ReadonlyMap<number, number>;
  /** What has been judged here, in offsets of the original's file. */
  readonly judged: readonly Interval<FileOffset>[];
}

/**
 * Judges the guard of a file; undefined where it has none. A finding where the memo says something else.
 * @param file the original
 * @param code what changed, and new code
 * @param selector the file's, whose code may be called first, and go on to the guard's
 * @param twins the nop5 that run only where the selector is set
 */
export function examineGuard(
  rewritten: ElfImage,
  file: FileFacts,
  { changed, added }: ChangedCode,
  selector: Selector | undefined,
  twins: ReadonlySet<Vaddr>,
): Guard | undefined {
  const original = file.image;
  const said = memoSays(rewritten);
  const isNew = (address: number): boolean => touches(added, address, address + 1);
  let views: readonly [LoaderView, LoaderView];
  try {
    views = [readLoaderView(original), without(selector, readLoaderView(rewritten))];
  } catch (error) {
    // Damaged tables are bytes that differ, and others say so.
    if (!(error instanceof InputError)) throw error;
    return said ? nothingBut(finding("loaded", error.where ?? "the dynamic section", error.what)) : undefined;
  }
  const isThere = callers.some((c) => {
    const now = views[1].called.get(c);
    return now !== undefined && isNew(now) && views[0].called.get(c) !== now;
  });
  const detours = findForkDetours(original, rewritten, changed, isNew);
  if (!isThere && detours.length === 0) {
    if (!said) return undefined;
    return nothingBut(finding("described", "the memo", "it tells of a fork guard, and the loader calls none"));
  }
  const guard = new Examination(rewritten, file, views[1], views[0], isNew, detours, selector, twins).run();
  if (said !== false) return guard;
  const untold = finding("described", "the memo", "it tells of no fork guard, and there is one");
  return { ...guard, findings: [...guard.findings, untold] };
}

/** The file as it is to the loader, but for the selector's code, which goes on to what is called then. */
function without(selector: Selector | undefined, view: LoaderView): LoaderView {
  if (selector?.hooked === undefined) return view;
  const { caller, next } = selector.hooked;
  const called = new Map(view.called);
  if (next === undefined) called.delete(caller);
  else called.set(caller, next);
  return { ...view, called };
}

/** Whether rewriting has noted a guard; undefined where its memo cannot be read. */
function memoSays(rewritten: ElfImage): boolean | undefined {
  const carry = readCarry(rewritten);
  return carry && tellsOfGuard(carry.memo);
}

/** Nothing is there for a guard's sake. */
export const NO_GUARD: Guard = {
  findings: [],
  code: [],
  named: [],
  words: undefined,
  tagValues: new Map(),
  addedTags: [],
  spared: new Set(),
  sizes: new Map(),
  judged: [],
};

const nothingBut = (problem: Finding): Guard => ({ ...NO_GUARD, findings: [problem] });

class Examination {
  private readonly findings: Finding[] = [];

  constructor(
    private readonly rewritten: ElfImage,
    private readonly file: FileFacts,
    private readonly now: LoaderView,
    private readonly before: LoaderView,
    private readonly isNew: (address: number) => boolean,
    private readonly detours: readonly ForkDetour[],
    private readonly selector: Selector | undefined,
    private readonly twins: ReadonlySet<Vaddr>,
  ) {}

  private get original(): ElfImage {
    return this.file.image;
  }

  run(): Guard {
    const hooks = this.hooks();
    const words = this.words();
    const heads = this.heads(hooks);
    const changes = compareLoaderTables(
      this.before,
      this.now,
      addressesIn(words),
      new Map([...heads.map((h) => [h.at, h.holds] as const), ...(this.selector?.heads ?? [])]),
    );
    this.findings.push(...changes.findings);
    this.slotWords = this.unfilled(words, changes.words);
    const tags = this.tags(hooks, changes.words);
    const code = this.code(hooks, changes);
    return {
      ...code,
      words,
      ...tags,
      spared: changes.spared,
      sizes: this.sizes(),
      judged: [...changes.judged, ...heads.flatMap((h) => h.judged), ...this.windows()],
      findings: this.findings,
    };
  }

  private say(where: string, what: string): void {
    this.findings.push(finding("loaded", where, `fork guard: ${what}`));
  }

  /** What detours stand for, in offsets of the original's file. */
  private windows(): Interval<FileOffset>[] {
    return this.detours.map(({ window: { start, end } }) => {
      const offset = offsetOf(this.original, start)!;
      return interval(offset, end - start);
    });
  }

  /** The functions in new code that the loader calls, and what it called there before. */
  private hooks(): ReadonlyMap<Caller, Hook> {
    const hooks = new Map<Caller, Hook>();
    for (const caller of callers) {
      const [next, start] = [this.before.called.get(caller), this.now.called.get(caller)];
      if (start === next) continue;
      // What is no new code is a difference, told by whoever compares tags, relocations, words.
      if (start !== undefined && this.isNew(start)) hooks.set(caller, { start, next });
    }
    const starts = [...hooks.keys()].filter((c) => !isEnd(c));
    const ends = [...hooks.keys()].filter(isEnd);
    if (starts.length > 1 || ends.length > 1) this.say("the dynamic section", "it is called more than once");
    const isProgram = startsProcesses(this.original);
    const has = (caller: Caller): boolean => this.before.called.has(caller);
    // Before any code of the file's own; start files of old glibc call _init by its name.
    if (starts[0] === "DT_INIT_ARRAY" && has("DT_INIT") && !isProgram)
      this.say("the dynamic section", "code of the file runs before it");
    if (starts[0] === "DT_PREINIT_ARRAY" && !isProgram)
      this.say("the dynamic section", "the loader does not call a library's preinit array");
    if (ends[0] === "DT_FINI_ARRAY" && has("DT_FINI"))
      this.say("the dynamic section", "code of the file runs after its end");
    if (starts.length > 0 && ends.length === 0 && !isProgram)
      this.say("the dynamic section", "its handler stays where the file is unloaded");
    return hooks;
  }

  /**
   * The arrays whose first function is another: where they begin, what is there now, and whether that is in the file
   * itself.
   */
  private heads(hooks: ReadonlyMap<Caller, Hook>): { at: number; holds: number; judged: Interval<FileOffset>[] }[] {
    return [...hooks].flatMap(([caller, { start, next }]) => {
      if (next === undefined || caller === "DT_INIT" || caller === "DT_FINI") return [];
      if (caller === this.selector?.hooked?.caller) return [];
      const at = this.before.tags.find((t) => t.d_tag === elf[caller])!.d_val;
      const stored = offsetOf(this.original, vaddr(at));
      let spelled = false;
      for (const name of ["relocations", "pltRelocations"] as const) {
        const bytes = this.before.tables.get(name)?.bytes;
        for (let i = 0; bytes !== undefined && i + elf.RELA_SIZE <= bytes.length; i += elf.RELA_SIZE)
          spelled ||= bytes.readUInt32LE(i) + bytes.readUInt32LE(i + 4) * 2 ** 32 === at;
      }
      return [{ at, holds: start, judged: spelled || stored === undefined ? [] : [interval(stored, WORD)] }];
    });
  }

  /** What a writable segment has after its variables, as words. */
  private words(): Interval<Vaddr> | undefined {
    const [longer, another] = longerInMemory(this.original, this.rewritten, this.selector?.word);
    if (longer === undefined) return undefined;
    const { grown, start, end } = longer;
    if (another !== undefined)
      this.say(atAddress(another.grown.p_vaddr), "a second segment has words after its variables");
    if ((end - start) % WORD !== 0) this.say(atAddress(start), "its words are not whole");
    // Whoever is mapped to the same page later on lies over them.
    const shares = (p: ProgramHeader): boolean =>
      p.p_type === elf.PT_LOAD &&
      p.p_vaddr !== grown.p_vaddr &&
      pageStart(p.p_vaddr) < alignUp(end, PAGE_SIZE) &&
      alignUp(p.p_vaddr + p.p_memsz, PAGE_SIZE) > pageStart(start);
    if (this.rewritten.programHeaders.some(shares))
      this.say(atAddress(start), "its words share a page with another segment");
    return { start, end };
  }

  /** The words that no relocation fills: slots, if they are pairs in a row. */
  private unfilled(words: Interval<Vaddr> | undefined, filled: readonly Word[]): Interval<Vaddr> | undefined {
    const open = [...addressesIn(words)].filter((at) => !filled.some((w) => w.at === at));
    const [first] = open;
    if (first === undefined) return undefined;
    if (open.length % 2 === 0 && open.every((at, i) => at === first + WORD * i))
      return interval(first, WORD * open.length);
    this.say(atAddress(first), "a word that no relocation fills");
    return undefined;
  }

  /** Words for signals that are held. */
  private slotWords: Interval<Vaddr> | undefined;

  /** The dynamic tags as they have to be. */
  private tags(hooks: ReadonlyMap<Caller, Hook>, words: readonly Word[]): Pick<Guard, "tagValues" | "addedTags"> {
    const tagValues = new Map<number, number>();
    const addedTags: (readonly [number, number])[] = [];
    const tagOf = (view: LoaderView, tag: number): number | undefined => view.tags.find((t) => t.d_tag === tag)?.d_val;
    for (const [caller, { start, next }] of hooks) {
      if (caller === this.selector?.hooked?.caller) continue;
      const tag = elf[caller];
      if (caller === "DT_INIT" || caller === "DT_FINI") {
        if (tagOf(this.before, tag) !== undefined) tagValues.set(tag, start);
        else addedTags.push([tag, start]);
        continue;
      }
      if (next !== undefined) continue;
      const array = tagOf(this.now, tag) ?? 0;
      const inWord = words.some((w) => w.at === array && w.holds === start);
      const stored = offsetOf(this.rewritten, vaddr(array));
      const isConstant =
        this.original.header.e_type === elf.ET_EXEC &&
        stored !== undefined &&
        this.isNew(array) &&
        this.rewritten.bytes.readBigUInt64LE(stored) === BigInt(start);
      if (!inWord && !isConstant) this.say(atAddress(array), "an array of functions that nothing fills");
      if (isConstant) this.constant = interval(vaddr(array), WORD);
      const size = caller === "DT_PREINIT_ARRAY" ? elf.DT_PREINIT_ARRAYSZ : undefined;
      if (size === undefined) this.say(atAddress(array), "a new array of functions");
      else addedTags.push([tag, array], [size, WORD]);
    }
    const grown = [
      ["strings", elf.DT_STRSZ],
      ["relocations", elf.DT_RELASZ],
      ["pltRelocations", elf.DT_PLTRELSZ],
    ] as const;
    for (const [name, tag] of grown) {
      const size = this.now.tables.get(name)?.bytes.length;
      if (size !== undefined && size !== this.before.tables.get(name)?.bytes.length) tagValues.set(tag, size);
    }
    return { tagValues, addedTags: inOrderOf(this.now, addedTags) };
  }

  /** A word in new code that holds the address of the initialiser. */
  private constant: Interval<Vaddr> | undefined;

  /** What the loader calls, and what the C library calls in a child: whether it is right, and where it is. */
  private code(hooks: ReadonlyMap<Caller, Hook>, changes: LoaderChanges): Pick<Guard, "code" | "named"> {
    const init = [...hooks].find(([caller]) => !isEnd(caller));
    const fini = [...hooks].find(([caller]) => isEnd(caller));
    const machine = new Machine(this.rewritten, this.isNew);
    machine.selector = this.selector?.byte;
    const filled = unlessAbsent(() => fillWords(machine, this.now, changes.words));
    const named: Piece[] = [];
    let child: number | undefined;
    let handlers: Handlers | undefined;
    if (init !== undefined) {
      const registered = typeof filled === "string" ? filled : unlessAbsent(() => judgeInit(machine, init[1], filled));
      if (typeof registered === "string" || typeof filled === "string")
        this.say(atAddress(init[1].start), `at the start, ${registered}`);
      else {
        child = registered.child;
        handlers = registered;
        if (!this.isNew(registered.handle))
          this.say(atAddress(init[1].start), `its handle ${hex(registered.handle)} may be that of another`);
        const finiProblem = fini && unlessAbsent(() => judgeFini(machine, fini[1], filled, registered));
        if (finiProblem !== undefined) this.say(atAddress(fini![1].start), `at the end, ${finiProblem}`);
      }
      named.push({ name: "usdt_nop5.init", start: init[1].start });
    } else if (this.detours.length === 0 || changes.wrapped.length > 0)
      this.say("the dynamic section", "nothing registers a child handler");
    if (fini !== undefined) named.push({ name: "usdt_nop5.fini", start: fini[1].start });
    const detours = this.detours.length === 0 ? undefined : new ForkDetours(this.file, machine);
    if (init === undefined && detours !== undefined) {
      // In a static program nobody else tells where the handler is.
      for (const detour of this.detours) unlessAbsent(() => detours.judge(detour, undefined));
      child = calledHandler(machine, this.isNew);
      if (child === undefined) this.say(atAddress(this.detours[0]!.target), "no handler is called");
    }
    if (child !== undefined) {
      named.push({ name: "usdt_nop5.fork_guard", start: child });
      const guarded = guardedSites(this.rewritten, this.twins);
      if (guarded.sites.length === 0) this.say(atAddress(child), "there is no site that it could guard");
      const handler = child;
      const slots = this.slots(machine);
      const problem = this.isNew(handler)
        ? unlessAbsent(() => judgeChild(machine, handler, guarded, slots))
        : "it is no new code";
      if (problem !== undefined) this.say(atAddress(child), `in a child, ${problem}`);
      if (handlers !== undefined) named.push(...this.aroundForks(machine, handlers, guarded, slots));
      if (typeof filled !== "string" && handlers !== undefined)
        named.push(...this.wrappers(machine, changes.wrapped, filled, handlers));
      for (const detour of this.detours) {
        const wrong = unlessAbsent(() => detours!.judge(detour, handler));
        if (wrong !== undefined) this.say(atAddress(detour.call), `the system call there: ${wrong}`);
        named.push({ name: `usdt_nop5.fork_${detour.call.toString(16)}`, start: detour.target });
      }
    }
    if (this.slotWords !== undefined && handlers === undefined)
      this.say(atAddress(this.slotWords.start), "words that no handler is registered for");
    const visited = union(machine.executed);
    const ran = union([...visited, ...unvisitedCode(machine, visited)]);
    // Pieces may stand one right after the other.
    const endOf = (start: number): number =>
      Math.min(
        ran.find((r) => start >= r.start && start < r.end)?.end ?? start,
        ...named.map((n) => n.start).filter((s) => s > start),
      );
    return {
      code: union([...ran, ...machine.read, ...(this.constant === undefined ? [] : [this.constant])]),
      named: named.map(({ name, start, last }) => ({ name, start: vaddr(start), end: vaddr(endOf(last ?? start)) })),
    };
  }

  private slots(machine: Machine): Slots | undefined {
    const words = this.slotWords;
    return words && new Slots(machine, words.start, (words.end - words.start) / (2 * WORD));
  }

  /** The handlers in the parent, and the words that they have for that. */
  private aroundForks(
    machine: Machine,
    { prepare, parent }: Handlers,
    guarded: Guarded,
    slots: Slots | undefined,
  ): readonly Piece[] {
    if (prepare === undefined || parent === undefined || slots === undefined) {
      if (slots !== undefined) this.say(atAddress(slots.start), "words that no handler is registered for");
      if (prepare !== undefined) this.say(atAddress(prepare), "it has no words for the signals that it holds");
      return [];
    }
    if (!startsProcesses(this.original))
      this.say(atAddress(prepare), "it registers handlers in the parent, where another thread may unload it");
    const found: Piece[] = [];
    for (const [name, start, judge] of [
      ["prepare", prepare, judgePrepare],
      ["parent", parent, judgeParent],
    ] as const) {
      const problem = this.isNew(start)
        ? unlessAbsent(() => judge(machine, start, guarded, slots))
        : "it is no new code";
      if (problem !== undefined)
        this.say(atAddress(start), `${name === "prepare" ? "before a fork" : "after a fork"}, ${problem}`);
      found.push({ name: `usdt_nop5.${name}`, start });
    }
    return found;
  }

  /** The code that stands for functions which the file imports, and what tells the loader where that is. */
  private wrappers(
    machine: Machine,
    uses: readonly WrappedUse[],
    filled: ReadonlySet<number>,
    handlers: Handlers,
  ): readonly Piece[] {
    const found = new Map<string, Piece>();
    for (const { name, leadsTo, isResolver } of uses) {
      const say = (what: string): void => this.say(atAddress(leadsTo), `what stands for ${name}: ${what}`);
      const start = isResolver ? unlessAbsent(() => resolved(machine, leadsTo)) : leadsTo;
      const known = found.get(name);
      if (typeof start === "string" || !this.isNew(start) || !this.isNew(leadsTo))
        say(typeof start === "string" ? start : "it is no new code");
      else if (known !== undefined && known.start !== start) say("it is not one");
      else if (known === undefined) {
        const problem = unlessAbsent(() => judgeWrapper(machine, name, start, filled, handlers));
        if (problem !== undefined) say(problem);
        found.set(name, { name: `usdt_nop5.${name}`, start, last: isResolver ? leadsTo : undefined });
      } else if (isResolver) found.set(name, { ...known, last: leadsTo });
    }
    return [...found.values()].map((piece) =>
      piece.last === undefined ? { ...piece, last: idleResolver(machine, piece.start) } : piece,
    );
  }

  /** How large the loader's tables are now, by the numbers of their sections in the original. */
  private sizes(): ReadonlyMap<number, number> {
    const sizes = new Map<number, number>();
    for (const [name, { address, bytes }] of this.before.tables) {
      const now = this.now.tables.get(name);
      const section = this.original.sections.find(
        (s) => s.sh_addr === address && s.sh_size === bytes.length && (s.sh_flags & elf.SHF_ALLOC) !== 0,
      );
      if (section !== undefined && now !== undefined && now.bytes.length > bytes.length)
        sizes.set(section.index, now.bytes.length);
    }
    return sizes;
  }
}

/** A piece that a symbol names: from `start` to the end of what stands at `last`. */
interface Piece {
  readonly name: string;
  readonly start: number;
  readonly last?: number | undefined;
}

/** The resolver after a wrapper, where no relocation needs one: it would answer all the same. */
function idleResolver(machine: Machine, start: number): number | undefined {
  const end = union(machine.executed).find((run) => start >= run.start && start < run.end)?.end ?? start;
  const at = alignUp(end, 16);
  return unlessAbsent(() => resolved(machine, at)) === start ? at : undefined;
}

const isEnd = (caller: Caller): boolean => caller === "DT_FINI" || caller === "DT_FINI_ARRAY";

const addressesIn = (words: Interval<Vaddr> | undefined): ReadonlySet<Vaddr> =>
  new Set(
    words === undefined
      ? []
      : Array.from({ length: Math.floor((words.end - words.start) / WORD) }, (_, i) => vaddr(words.start + WORD * i)),
  );

interface Longer extends Interval<Vaddr> {
  readonly grown: ProgramHeader;
}

/** What writable segments have more in memory than they had, and not in the file, but for the selector's word. */
function longerInMemory(original: ElfImage, rewritten: ElfImage, word: Interval<Vaddr> | undefined): Longer[] {
  const isWritable = (p: ProgramHeader): boolean => p.p_type === elf.PT_LOAD && (p.p_flags & elf.PF_W) !== 0;
  return original.programHeaders.filter(isWritable).flatMap((segment) => {
    const grown = rewritten.programHeaders.find((p) => isWritable(p) && p.p_vaddr === segment.p_vaddr);
    const isLonger = grown !== undefined && grown.p_memsz > segment.p_memsz && grown.p_filesz === segment.p_filesz;
    if (!isLonger) return [];
    const start = vaddr(alignUp(segment.p_vaddr + segment.p_memsz, WORD));
    const whole = vaddr(grown.p_vaddr + grown.p_memsz);
    const end = word?.end === whole ? word.start : whole;
    return start < end ? [{ grown, start, end }] : [];
  });
}

/** Pairs in the order in which a file has their tags. */
function inOrderOf({ tags }: LoaderView, pairs: readonly (readonly [number, number])[]): (readonly [number, number])[] {
  const place = (tag: number): number => tags.findIndex((t) => t.d_tag === tag);
  return [...pairs].sort(([a], [b]) => place(a) - place(b));
}
