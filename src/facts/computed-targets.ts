/**
 * Where code goes that does not say so: indirect jumps and calls, returns to what is no return address, and the sums
 * that are made for them.
 *
 * Each group of parts that may do such a thing is followed (values/flow.ts). What is found says:
 *
 *     which tables lead where                      every word of them is an entry
 *     which functions something computes with      nothing is known of what enters them
 *     which jumps lead to something unknown        nothing is known of their function; and where not even a base is known,
 *                                                  of no function whose address anything has
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { offsetOf, segmentAt } from "../elf/image.js";
import { readCallSites } from "../elf/lsda.js";
import { addressOf, type DecodedCode, indexAt, indexOf, lengthOf } from "../x86/decode.js";
import { constantsOf } from "../x86/relocate.js";
import { mayLeave } from "./byte-hints.js";
import { Followed } from "./followed.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { knows } from "./knowledge.js";
import { Clobbered } from "./values/clobbered.js";
import { EndlessCalls } from "./values/endless.js";
import { type FlowResult, type Surroundings, type Transfer, ValueFlow } from "./values/flow.js";
import { GroupIndex } from "./values/groups.js";
import { ElfMemory } from "./values/memory.js";
import { NameIndex } from "./values/names.js";
import { ReturnReaders } from "./values/return-readers.js";
import { type Formation, NO_ADDRESS } from "./values/sums.js";
import { Thunks } from "./values/thunks.js";
import { Is, type Source, type Value } from "./values/value.js";

/** One function, all its parts. */
export interface GroupFacts {
  readonly parts: readonly CodeRange[];
  /** Why nothing is known of what enters it, for people; undefined where it is known. */
  readonly unknown: string | undefined;
  readonly flow: FlowResult | undefined;
  /** What its indirect transfers go by, as far as that is known, in no order. */
  readonly ways: readonly Way[];
}

/** What an indirect transfer goes by that is known: any of these. */
export interface Way {
  readonly at: Vaddr;
  /** What was handed over, as it is or, where loaders call it, two words of that. */
  readonly isPointer: boolean;
  /** Addresses of this file. */
  readonly addresses: readonly number[];
  /** Tables whose entries lead there. */
  readonly tables: readonly Formation[];
}

/** What is computed somewhere in the program. */
interface ProgramWide {
  /** Addresses of code that something unknown is added to, and where that is done. */
  readonly computed: ReadonlyMap<number, number>;
  readonly around: readonly { readonly at: number; readonly low: number; readonly high: number }[];
  /** Places that a table leads to, and where its sum is made. */
  readonly entries: ReadonlyMap<number, number>;
  /**
   * Places that words lead to which look like a table relative to itself, and the table: it may be none, or end before.
   */
  readonly candidates: ReadonlyMap<number, number>;
  /** Addresses of code that are computed, and where. */
  readonly made: ReadonlyMap<number, number>;
  /** Addresses of code that code reads, and where. */
  readonly read: ReadonlyMap<number, number>;
}

/** A table goes on for no longer. */
const MOST_WORDS = 1 << 16;
/** From one word of a table to the next, in bytes, where nobody says how many. */
const LONGEST_STRIDE = 32;
/** So many words below its name may be a table's. */
const MOST_BELOW = 256;

/** Nothing is known to be computed. */
const NOTHING: ProgramWide = {
  computed: new Map(),
  around: [],
  entries: new Map(),
  candidates: new Map(),
  made: new Map(),
  read: new Map(),
};

/**
 * Of which functions it is asked what they compute: of all that may do so, or of those alone that are asked about,
 * where somebody else answers for the others.
 */
export type Asked = "all functions" | "those asked about";

export class ComputedTargets {
  readonly memory: ElfMemory;
  readonly names: NameIndex;
  private readonly index: GroupIndex;
  private readonly endless: EndlessCalls;
  private readonly readers: ReturnReaders;
  private readonly groups = new Map<number, GroupFacts>();
  private readonly pads = new Map<number, readonly { start: number; end: number; pad: Vaddr }[]>();
  private readonly surroundings: Surroundings;
  private readonly toFollow: Followed;
  private wide: ProgramWide | undefined;
  private hasLooked = false;
  private strange: Transfer | undefined;

  /** For FileFacts, which has one for all who ask. @throws InputError where tables of the file are damaged */
  constructor(
    private readonly image: ElfImage,
    private readonly functions: FunctionIndex,
    private readonly asked: Asked,
  ) {
    this.memory = new ElfMemory(image);
    this.names = new NameIndex(image);
    this.endless = new EndlessCalls(image, functions);
    const { memory, names } = this;
    const isEntry = (start: Vaddr): boolean =>
      names.isCalled(start) || names.byData(start, start + 1).length > 0 || names.byCode(start, start + 1).length > 0;
    this.index = new GroupIndex(functions, isEntry);
    this.readers = new ReturnReaders(functions);
    const clobbered = new Clobbered(functions);
    const thunks = new Thunks(functions);
    this.surroundings = {
      memory,
      namedByData: (start, end) => names.byData(start + 1, end),
      namedByCode: (start, end) => this.namedByCode(start, end),
      isEntry,
      targetsOf: (formation, others) => this.targetsOf(formation, others),
      returns: (code, index) => !this.endless.isEndless(code, index),
      clobbered: (target) => clobbered.by(target),
      returnAddressIn: (target) => this.readers.by(target),
      thunkRegister: (target) => thunks.registerOf(target),
      isInside: (address) => (functions.containing(address)?.start ?? address) !== address,
      landingPads: (range, call) => this.landingPads(range, call),
    };
    this.toFollow = new Followed({
      memory,
      names,
      functions,
      readers: this.readers,
      partsOf: (range) => this.index.partsOf(range),
      isMade: (name) => this.isMade(name),
      isNamedInside: (part) => this.isNamedInside(part),
      isInside: this.surroundings.isInside,
      clobbered: this.surroundings.clobbered,
      landingPads: this.surroundings.landingPads,
      thunkRegister: this.surroundings.thunkRegister,
    });
  }

  /** Why nothing is known of what enters the function around a range, for people; undefined where it is known. */
  unknown(range: CodeRange): string | undefined {
    const group = this.groupOf(range);
    if (group.unknown !== undefined && (group.flow === undefined || knows("unknown jumps"))) return group.unknown;
    for (const part of group.parts) {
      const why = this.reaches(part, group.flow);
      if (why !== undefined) return why;
    }
    if (!knows("unknown jumps") || !group.parts.some((part) => this.isNamedInside(part))) return undefined;
    const { anywhere } = this;
    if (anywhere === undefined) return undefined;
    return `the ${anywhere.kind} at ${hex(anywhere.at)} may lead anywhere that an address inside a function is kept of: how it gets its target is not understood`;
  }

  /** What may reach into a part at a place that is not known: of the whole program, or of its own function. */
  private reaches({ start, end }: CodeRange, own: FlowResult | undefined): string | undefined {
    for (const { computed, around, read } of own === undefined ? [this.program] : [this.program, own]) {
      if (knows("sums of code")) {
        for (const [base, at] of computed)
          if (base >= start && base < end)
            return `something unknown is added to its address ${hex(base)}, at ${hex(at)}`;
        for (const { at, low, high } of around)
          if (low < end && high >= start)
            return `a small number is added to ${hex(low)}, at ${hex(at)}, which may lead anywhere nearby`;
      }
      if (knows("data in code"))
        for (const [address, at] of read) if (address >= start && address < end) return reads(at, address);
    }
    return undefined;
  }

  /**
   * Whether anything reads the bytes of the function around a range as data, for people; undefined where nothing does.
   */
  readAsData(range: CodeRange): string | undefined {
    const { parts, flow } = this.groupOf(range);
    for (const { read } of flow === undefined ? [this.program] : [this.program, flow])
      for (const [address, at] of read)
        if (parts.some(({ start, end }) => address >= start && address < end)) return reads(at, address);
    return undefined;
  }

  /** Where the tables and sums of one function lead, and where in the code that is seen. */
  entriesOf({ flow }: GroupFacts): ReadonlyMap<number, number> {
    const entries = new Map<number, number>(flow?.made);
    for (const formation of flow?.formations ?? [])
      for (const target of this.targetsOf(formation, this.names.relativeTables)) entries.set(target, formation.at);
    return entries;
  }

  /** Whether anything but direct branches knows an address inside a part. */
  private isNamedInside(part: CodeRange): boolean {
    const { start, end } = part;
    const code = this.functions.code(part);
    const isPlace = (address: number): boolean => code.unclean !== undefined || indexOf(code, address) >= 0;
    return (
      // A relocation may name what something is still added to.
      this.names.byPointers(start + 1, end).some(({ target, isCertain }) => isCertain || isPlace(target)) ||
      this.namedByCode(vaddr(start + 1), end).some(({ target }) => isPlace(target))
    );
  }

  /** Where instructions make addresses in [start, end). */
  private namedByCode(start: Vaddr, end: Vaddr): readonly { readonly at: number; readonly target: number }[] {
    return this.names.byCode(start, end).filter((made) => this.isMade(made));
  }

  /**
   * Whether an instruction makes an address there: what only looks so, by its bytes, and is another part of one does
   * not count.
   */
  private isMade({ at, target }: { readonly at: number; readonly target: number }): boolean {
    const range = this.functions.containing(at);
    const code = range === undefined ? this.functions.gapCode(at) : this.functions.code(range);
    if (code === undefined || code.unclean !== undefined) return true;
    const index = indexAt(code, at);
    if (code.targets[index] === target) return true;
    const from = addressOf(code, index);
    const bytes = code.bytes.subarray(from - code.start, from - code.start + lengthOf(code, index));
    return constantsOf(bytes, from).some((c) => from + c.offset === at && c.value === target);
  }

  /** The function around a range. */
  groupOf(range: CodeRange): GroupFacts {
    const known = this.groups.get(range.index);
    if (known !== undefined) return known;
    const facts = this.examine(range);
    for (const part of facts.parts) this.groups.set(part.index, facts);
    return facts;
  }

  private examine(range: CodeRange): GroupFacts {
    const parts = this.index.partsOf(range);
    if (typeof parts === "string") return { parts: [range], unknown: parts, flow: undefined, ways: [] };
    const decoded = parts.map((part) => ({ range: part, code: this.functions.code(part) }));
    const unclean = decoded.find(({ code }) => code.unclean !== undefined);
    if (unclean !== undefined)
      return {
        parts,
        unknown: `its function at ${hex(unclean.range.start)} cannot be decoded: ${unclean.code.unclean}`,
        flow: undefined,
        ways: [],
      };
    const { flow, ways } = this.followed(decoded);
    const unknown = flow.transfers.find((t) => !isLoaderCall(t) || parts.some((part) => this.isNamedInside(part)));
    return {
      parts,
      flow,
      ways,
      unknown:
        unknown &&
        `the ${unknown.kind} at ${hex(unknown.at)} may lead anywhere in its function: how it gets its target is not understood`,
    };
  }

  /** What following values says; the values themselves are not kept. */
  private followed(parts: readonly { readonly range: CodeRange; readonly code: DecodedCode }[]): {
    readonly flow: FlowResult;
    readonly ways: readonly Way[];
  } {
    const first = new ValueFlow(parts, this.surroundings);
    const starts = first.computedStarts;
    const { transfers, formations, computed, around, made, read, looksAtReturn, rspAtNops } =
      first.isMisled || starts.length > 0 ? new ValueFlow(parts, this.surroundings, first.isMisled, starts) : first;
    const flow = {
      transfers: transfers.filter((t) => !this.isKnown(t)),
      formations,
      computed,
      around,
      made,
      read,
      looksAtReturn,
      rspAtNops,
    };
    const known = transfers.filter((t) => (this.isKnown(t) || isLoaderCall(t)) && !isOrdinaryReturn(t));
    const ways = known.map((t) => this.wayOf(t, formations));
    const claimed = new Set(ways.flatMap(({ tables }) => tables));
    // A sum that went through memory comes back as what was handed over. With a small number it is none of an address.
    const stored = formations.filter((f) => Math.abs(f.base) >= NO_ADDRESS && !claimed.has(f));
    return {
      flow,
      ways:
        stored.length === 0 ? ways : ways.map((w) => (w.isPointer ? { ...w, tables: [...w.tables, ...stored] } : w)),
    };
  }

  private wayOf({ at, target }: Transfer, formations: readonly Formation[]): Way {
    const { kinds, bases, sources, image, plain } = target;
    const isLoaded = (kinds & (Is.Given | Is.Word)) !== 0 && sources !== undefined && sources.length > 0;
    // A word that may change is whatever was put there: handed over.
    const isFixed = isLoaded && sources.every((s) => this.memory.isReadOnly(s.at));
    const pointers = isFixed ? tableOfPointers(kinds, sources) : undefined;
    const entries = pointers === undefined ? [] : this.targetsOf(pointers);
    // One word is no table, but what it holds.
    const isTable = pointers !== undefined && entries.length > 0 && sources!.some(({ step }) => step !== 0);
    const numbers = (this.memory.fixed ? plain : image).filter((n) => this.memory.isImage(n));
    return {
      at,
      isPointer: (kinds & (Is.Given | Is.Word | Is.Ret | Is.Moved)) !== 0 && entries.length === 0,
      addresses: isTable ? numbers : [...numbers, ...entries],
      tables: [
        ...(kinds & Is.Sum ? formations.filter((f) => f.base !== 0 && bases.includes(f.base)) : []),
        ...(isTable ? [pointers] : []),
      ],
    };
  }

  /** Addresses inside of functions, not their starts, that instructions of some ranges make: in no order. */
  *madeInside(ranges: ReadonlySet<number>): Iterable<{ readonly at: Vaddr; readonly target: Vaddr }> {
    for (const name of this.names.allMade()) {
      const range = this.functions.containing(name.at);
      if (range === undefined || !ranges.has(range.index)) continue;
      const around = this.functions.containing(name.target);
      if (around === undefined || around.start === name.target || !this.isMade(name)) continue;
      const code = this.functions.code(range);
      yield { at: addressOf(code, indexAt(code, name.at)), target: vaddr(name.target) };
    }
  }

  /** Whether a transfer leads to what was handed over as it is, or to what a table says. */
  isKnown({ target }: Transfer): boolean {
    return this.isHandedOver(target);
  }

  private isHandedOver({ kinds }: Value): boolean {
    const allowed = Is.Given | Is.Sum | Is.Ret | (this.memory.fixed ? Is.Word : 0);
    // A number that is no address of this file leads out of it.
    return (kinds & ~allowed) === 0;
  }

  /**
   * What is computed in all of the program, and where tables lead: by the functions that do something with addresses of
   * code but hand them on, and by all tables whose words are relative to themselves.
   */
  get program(): ProgramWide {
    this.wide ??= this.asked === "all functions" ? this.survey() : NOTHING;
    return this.wide;
  }

  private survey(): ProgramWide {
    const computed = new Map<number, number>();
    const around: { at: number; low: number; high: number }[] = [];
    const entries = new Map<number, number>();
    const candidates = new Map<number, number>();
    const made = new Map<number, number>();
    const read = new Map<number, number>();
    const take = (flow: FlowResult): void => {
      for (const [base, at] of flow.computed) computed.set(base, at);
      around.push(...flow.around);
      for (const [address, at] of flow.made) made.set(address, at);
      for (const formation of flow.formations) {
        // Where another table begins this one may have ended: what follows only may be its words.
        for (const target of this.targetsOf(formation, this.names.relativeTables))
          if (!entries.has(target)) entries.set(target, formation.at);
        for (const target of this.targetsOf(formation))
          if (!candidates.has(target)) candidates.set(target, formation.at);
      }
      for (const [address, at] of flow.read) if (this.memory.isCode(address)) read.set(address, at);
    };
    // What is there at first counts as well where the program may write.
    for (const at of this.names.relativeTables)
      for (const width of [4, 8] as const) {
        const table = { base: at, width, signed: true, minus: false, sources: [{ at, step: width }] } as const;
        for (const target of this.targetsOf(table)) if (!candidates.has(target)) candidates.set(target, at);
      }
    const seen = new Set<FlowResult>();
    const takeAll = (ranges: Iterable<CodeRange>): void => {
      for (const range of ranges) {
        const { flow } = this.groupOf(range);
        if (flow === undefined || seen.has(flow)) continue;
        seen.add(flow);
        take(flow);
      }
    };
    takeAll(this.toFollow.makers());
    takeAll(this.toFollow.loaders());
    for (const code of this.gaps())
      take(this.followed([{ range: { index: -1, start: code.start, end: code.end }, code }]).flow);
    this.functions.forget();
    return { computed, around, entries, candidates, made, read };
  }

  /** A jump somewhere in the program of which nothing at all is known, or undefined. */
  private get anywhere(): Transfer | undefined {
    if (!this.hasLooked && this.asked === "all functions") {
      this.hasLooked = true;
      for (const range of this.toFollow.leavers()) {
        const transfer = this.groupOf(range).flow?.transfers.find((t) => t.target.kinds & (Is.Taint | Is.Moved));
        if (transfer === undefined) continue;
        this.strange = transfer;
        break;
      }
    }
    return this.strange;
  }

  /** Code between functions that decodes and may leave for a computed place. */
  private *gaps(): Iterable<DecodedCode> {
    for (const section of this.functions.codeSections) {
      const end = section.sh_addr + section.sh_size;
      let at: number = section.sh_addr;
      while (at < end) {
        const gap = this.functions.gapAt(at);
        if (gap === undefined) {
          at = this.functions.containing(at)?.end ?? end;
          continue;
        }
        at = gap.end;
        if (this.functions.isPadding(gap)) continue;
        const code = this.functions.gapCode(gap.start);
        if (code !== undefined && code.unclean === undefined && mayLeave(code.bytes)) yield code;
      }
    }
  }

  /**
   * Where the words of a table lead, from its first word to the first that leads to no code.
   * @param others other tables, at which it ends
   */
  private targetsOf(
    { base, width, signed, minus, sources }: Formation,
    others?: ReadonlySet<number>,
  ): readonly number[] {
    const targets: number[] = [];
    const { view } = this.image;
    const targetAt = (place: number): number => {
      const offset = offsetOf(this.image, vaddr(place))!;
      // A pointer that the loader makes, or what stands in the file.
      const relocated = Math.abs(base) < NO_ADDRESS ? this.memory.relocationAt(place) : undefined;
      const word =
        relocated ??
        (width === 8
          ? Number(view.getBigInt64(offset, true))
          : signed
            ? view.getInt32(offset, true)
            : view.getUint32(offset, true));
      return minus ? base - word : base + word;
    };
    for (const { at, step } of sources) {
      const segment = segmentAt(this.image, vaddr(at));
      if (segment === undefined) continue;
      const end = segment.p_vaddr + segment.p_filesz;
      let last = at;
      for (let i = 0, place = at; i < MOST_WORDS && place + width <= end; i++, place += Math.max(step, 1)) {
        if (i > 0 && (step === 0 || others?.has(place))) break;
        const target = targetAt(place);
        if (this.memory.isCode(target)) {
          targets.push(target);
          last = place;
        } else if (step >= width || place - last >= LONGEST_STRIDE) break;
      }
      // An index may count from below the table's name. What is there may be another's: only what leads into the same
      // function.
      const own = step >= width && base !== 0 ? this.functions.containing(base) : undefined;
      if (own === undefined) continue;
      for (let i = 1, place = at - step; i < MOST_BELOW && place >= segment.p_vaddr; i++, place -= step) {
        const target = targetAt(place);
        if (!this.memory.isCode(target)) break;
        if (target < own.start || target >= own.end) continue;
        const code = this.functions.code(own);
        if (code.unclean !== undefined || indexOf(code, target) >= 0) targets.push(target);
      }
    }
    return targets;
  }

  private landingPads(range: CodeRange, call: Vaddr): readonly Vaddr[] {
    if (range.index < 0) return [];
    let pads = this.pads.get(range.index);
    if (pads === undefined) {
      const fde = this.functions.fde(range);
      pads =
        fde === undefined
          ? []
          : readCallSites(this.image, fde).flatMap(({ start, end, landingPad }) =>
              landingPad === undefined ? [] : [{ start, end, pad: landingPad }],
            );
      this.pads.set(range.index, pads);
    }
    return pads.filter((p) => call >= p.start && call < p.end).map((p) => p.pad);
  }
}

/** Words that are addresses themselves. */
const tableOfPointers = (kinds: number, sources: readonly Source[]): Formation => ({
  base: 0,
  width: kinds & Is.Given ? 8 : 4,
  signed: false,
  minus: false,
  sources,
});

/** A return to the caller. */
const isOrdinaryReturn = ({ kind, target }: Transfer): boolean => kind === "return" && target.kinds === Is.Ret;

const reads = (at: number, address: number): string =>
  `the code at ${hex(at)} reads its bytes at ${hex(address)} as data`;

/**
 * The call of what a load bias and another word make, as dynamic loaders do: it leads into this file only if an address
 * inside of a function was handed over.
 */
const isLoaderCall = ({ kind, target }: Transfer): boolean =>
  kind === "call" && (target.kinds & ~(Is.Moved | Is.Given)) === 0;
