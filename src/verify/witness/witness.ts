/**
 * A witness: who may enter bytes of the original that changed.
 *
 * It shares nothing with the rewriter, nor with the facts that the rest of verification goes by: it reads the file
 * through src/elf, decodes with iced, and follows the rules below by itself. What it cannot tell it says of the windows
 * concerned.
 *
 *     an address is named       by a branch, a relocation, a symbol, a landing pad, an instruction, a word: it arrives there
 *     a table is formed         a base and an entry: all of its entries arrive
 *     an address is lost        code with anything else added: windows in its group are unknown
 *     a transfer goes by more   than pointers handed over as they are: windows in its group are unknown, and everywhere, where
 *                               it cannot be told from which base
 *     data is inside a part     or it does not decode: its windows are unknown
 */
import { hex } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { Certificates } from "./certificates.js";
import { Decoder, iced } from "./decode.js";
import { goesOn, mayFault } from "./faults.js";
import { type Findings, type Formation, formationOf } from "./findings.js";
import { Follower, type Inside } from "./flow.js";
import { calledBy, type Group, groupsOf } from "./groups.js";
import { namedInside } from "./named.js";
import { type Part, Parts, Use } from "./parts.js";
import { Plainness } from "./plain.js";
import { Program } from "./program.js";
import { Asked, type Ranges, rangesOf, scanCode, scanData, scanLoose, scanTable } from "./scan.js";
import { lastNotAfter, lowerBound } from "./spans.js";
import { keepsStack } from "./stack-pointer.js";
import type { Arrival, Failing, Question, Testimony } from "./testimony.js";
import { Thunks } from "./thunks.js";
import { type Atom, strangeness } from "./values.js";
import { WritesTable } from "./writes.js";

/** @throws InputError where a table of the file is damaged */
export function examine(image: ElfImage, question: Question): Testimony {
  const witness = new Witness(new Program(image), question);
  try {
    return witness.testify();
  } finally {
    witness.free();
  }
}

const LONGEST = 15;
/** Zeros and int3 are put where nothing runs; a nop may be where something begins. */
const FILLING: ReadonlySet<number> = new Set([0x00, 0xcc]);
/** An XRay sled: a short jump and a nop of nine bytes. */
const LONGEST_PATCH = 11;

class Witness {
  private readonly parts: Parts;
  private readonly groups: readonly Group[];
  private readonly decoder: Decoder;
  private readonly follower: Follower;
  private readonly thunks: Thunks;
  /** Addresses whose instruction overlaps changed bytes, and the windows that those are in. */
  private readonly shielded = new Map<number, number[]>();
  /** Where instructions that may fault and may have moved begin and end, and which ones: these must not be named. */
  private readonly quiet = new Map<number, readonly number[]>();
  /** Calls that may have moved. */
  private readonly calls = new Set<number>();
  private readonly findings = new Map<number, Findings>();
  private readonly insides = new Map<number, Inside[]>();
  private readonly entered = new Set<number>();
  private readonly held = new Set<number>();
  /** Targets of jumps from one part of a group to another. */
  private readonly crossed = new Set<number>();
  /** Tables in groups that were not followed. */
  private spared: readonly Formation[] = [];
  /** Groups inside of which an address is named, by whether words relative to themselves count. */
  private readonly known = new Map<boolean, ReadonlySet<number>>();
  private starts: readonly number[] | undefined;
  private readonly arrivals = new Map<string, Arrival>();
  private readonly unknown = new Map<number, string>();
  private readonly patched = new Map<number, string>();
  private readonly noticed = new Map<number, string>();

  constructor(
    private readonly program: Program,
    private readonly question: Question,
  ) {
    this.parts = new Parts(program);
    this.groups = groupsOf(program, this.parts);
    this.decoder = new Decoder(program.sources);
    const watched = new Set<number>();
    question.windows.forEach(({ start, end }, index) => {
      for (let at = start - 2 * LONGEST; at < start; at++) watched.add(at);
      for (let at = start - LONGEST + 1; at < end; at++) {
        watched.add(at);
        const length = this.decoder.at(at)?.length ?? (at >= start ? 1 : 0);
        if (at + length > start) this.shielded.set(at, [...(this.shielded.get(at) ?? []), index]);
      }
      for (const at of [start, end - 1]) {
        const part = this.parts.owner(at);
        if (part !== undefined) this.held.add(part.group);
      }
    });
    for (const at of this.shielded.keys()) {
      if (!this.parts.isStart(at) && this.parts.isLinear(at)) continue;
      const i = this.decoder.at(at);
      if (i === undefined) continue;
      if (i.mnemonic === iced.Mnemonic.Call) this.calls.add(at);
      if (mayFault(i))
        for (const named of [at, at + i.length]) this.quiet.set(named, [...(this.quiet.get(named) ?? []), at]);
    }
    const landings = [...program.landings].sort((a, b) => a.start - b.start);
    this.thunks = new Thunks(program, this.parts);
    this.follower = new Follower(program, this.parts, landings, watched, this.shielded, this.thunks);
  }

  free(): void {
    this.decoder.free();
    this.follower.free();
    this.thunks.free();
    this.program.sources.free();
  }

  testify(): Testimony {
    this.collectNames();
    this.followAll();
    this.dataInside();
    this.lostAddresses();
    this.transfers();
    this.places();
    this.brute();
    this.movedCalls();
    return {
      arrivals: [...this.arrivals.values()].sort((a, b) => a.address - b.address),
      unknown: this.unknown,
      patched: this.patched,
      asked: new Set(this.shielded.keys()),
      noticed: this.noticed,
      stack: this.stackPointers(),
      failing: this.claims(),
    };
  }

  /** Holds what is claimed of the functions around the windows against what was found. */
  private claims(): ReadonlyMap<number, Failing> {
    const failing = new Map<number, Failing>();
    const { certificates } = this.question;
    if (certificates === undefined) return failing;
    const findings = (address: number): Findings | undefined => this.findings.get(this.parts.at(address)?.group ?? -1);
    const held = new Certificates(this.program, this.parts, this.decoder, findings, certificates);
    for (const [index, { start, end }] of this.question.windows.entries()) {
      // Padding after a function belongs to nobody.
      const part = this.parts.at(start) ?? this.parts.at(end - 1);
      const problem = part && held.failingOf(this.groups[part.group]!);
      if (problem !== undefined) failing.set(index, problem);
    }
    return failing;
  }

  /** Where rsp is a stack pointer for certain. */
  private stackPointers(): ReadonlySet<number> {
    const found = new Set<number>();
    const writes = new WritesTable();
    for (const [index, { stackPointers }] of this.findings) {
      let keeps: boolean | undefined;
      const isStack = ({ kind }: Atom): boolean => {
        if (kind === "assumed") keeps ??= keepsStack(this.groups[index]!, this.decoder, writes);
        return kind === "stack" || (kind === "assumed" && keeps === true);
      };
      for (const [address, value] of stackPointers) if (value.every(isStack)) found.add(address);
    }
    writes.free();
    return found;
  }

  private arrive(address: number, kind: Arrival["kind"], why: string, certain: boolean, from?: number): void {
    if (this.shielded.has(address)) {
      const key = `${address},${from}`;
      const known = this.arrivals.get(key);
      if (known === undefined || (certain && !known.certain))
        this.arrivals.set(key, { address, kind, why, certain, from });
    }
    // Who knows where a function begins means to call it.
    const isTold =
      kind !== "branch" &&
      kind !== "next" &&
      kind !== "table" &&
      this.parts.at(address)?.heads.includes(address) !== true;
    for (const moved of (isTold && this.quiet.get(address)) || [])
      this.noticed.set(moved, `${why} names ${hex(address)}, where it may fault`);
  }

  private doubt(windows: Iterable<number>, why: string): void {
    for (const window of windows) if (!this.unknown.has(window)) this.unknown.set(window, why);
  }

  /** Windows of which a byte lies in one of the parts, or in its padding. */
  private *windowsIn(test: (part: { readonly group: number; readonly index: number }) => boolean): Iterable<number> {
    for (const [index, { start, end }] of this.question.windows.entries()) {
      const parts = [this.parts.owner(start), this.parts.owner(end - 1)];
      if (parts.some((part) => part !== undefined && test(part))) yield index;
    }
  }

  /** Who names what, before anything is followed. */
  private collectNames(): void {
    const { parts, program } = this;
    const inside = (address: number, foreign: boolean): void => {
      const part = parts.at(address);
      if (part === undefined || part.heads.includes(address)) return;
      const list = this.insides.get(part.group) ?? [];
      list.push({ address, foreign });
      this.insides.set(part.group, list);
    };
    let last = -1;
    for (const name of program.names) {
      const { address, isPad, isPatched, isLocal } = name;
      if (!isLocal) this.entered.add(address);
      if (this.shielded.has(address) || this.quiet.has(address)) {
        // In the middle of an instruction: something is still added to it.
        const isCertain = !isLocal && (parts.isStart(address) || !parts.isLinear(address));
        this.arrive(address, "pointer", name.why, isCertain);
      }
      if (isPatched) {
        const end = address + this.patchedLength(address);
        for (const window of this.touching(address, end))
          this.patched.set(window, `the code at ${hex(address)} is patched at run time`);
      }
      if (!isPad && address !== last) inside(address, false);
      last = address;
    }
    for (const { start, end } of program.sequences)
      this.doubt(this.touching(start, end), `the code at ${hex(start)} is a restartable sequence`);
    const { from, to, use, count } = parts.references;
    let source = parts.list[0]!;
    for (let i = 0; i < count; i++) {
      const target = to[i]!;
      const how = use[i]!;
      source = parts.next(source, from[i]!);
      const isJump = how === Use.Jump || how === Use.Conditional;
      if (this.shielded.has(target) || this.quiet.has(target)) {
        const place = `at ${hex(from[i]!)}`;
        if (isJump || how === Use.Call)
          this.arrive(target, "branch", `a branch ${place}`, parts.isLinear(from[i]!), from[i]);
        else if (how !== Use.Memory) this.arrive(target, "pointer", `an instruction ${place}`, false);
      }
      if (how === Use.Memory) continue;
      const part = target >= source.start && target < source.end ? source : parts.at(target);
      if (part === undefined) continue;
      if (part === source) {
        if (!isJump) {
          this.entered.add(target);
          if (how !== Use.Call) inside(target, false);
        }
        continue;
      }
      const isOwn = source.group === part.group;
      if (!isJump || !isOwn) this.entered.add(target);
      if (isOwn && isJump) this.crossed.add(target);
      if (!isOwn) inside(target, true);
      else if (how >= Use.Lea) inside(target, false);
    }
  }

  /**
   * How many bytes are patched at an entry of a patch table: nops that are there to be overwritten, else the longest
   * piece of any tracer.
   */
  private patchedLength(address: number): number {
    let end = address;
    for (let i = this.decoder.at(end); i !== undefined; i = this.decoder.at(end)) {
      if (i.mnemonic !== iced.Mnemonic.Nop && i.mnemonic !== iced.Mnemonic.Endbr64) break;
      end += i.length;
    }
    return end > address ? end - address : LONGEST_PATCH;
  }

  private *touching(start: number, end: number): Iterable<number> {
    const { windows } = this.question;
    // A jump that reaches over several bytes may begin before the last change in front of them.
    for (
      let i = Math.max(0, lastNotAfter(windows, start) - LONGEST_PATCH);
      i < windows.length && windows[i]!.start < end;
      i++
    )
      if ((windows[i]!.jumpEnd ?? windows[i]!.end) > start) yield i;
  }

  /** Follows all groups that matter, and again those inside of which an address was made meanwhile. */
  private followAll(): void {
    const others = new Set(this.crossed);
    for (const { pad } of this.program.landings) others.add(pad);
    for (const list of this.insides.values()) for (const { address } of list) others.add(address);
    const plainness = new Plainness(this.program, this.parts, (address) => others.has(address), this.thunks);
    const isSpared = (part: Part): boolean => !part.interesting || plainness.isPlain(part);
    const waiting = this.groups.filter((g) => this.held.has(g.index) || !g.parts.every(isSpared));
    plainness.free();
    this.spared = plainness.formations;
    const called = calledBy(this.parts, this.calls);
    for (const group of called) if (!waiting.includes(this.groups[group]!)) waiting.push(this.groups[group]!);
    for (let group = waiting.pop(); group !== undefined; group = waiting.pop()) {
      const found = this.follower.follow(group, this.insides.get(group.index) ?? [], (head) => this.entered.has(head));
      this.findings.set(group.index, found);
      for (const [address, at] of found.made) {
        this.arrive(address, "pointer", `the instruction at ${hex(at)} makes it`, false);
        const part = this.parts.at(address);
        if (part === undefined || part.group === group.index || part.heads.includes(address)) continue;
        const list = this.insides.get(part.group) ?? [];
        if (list.some((i) => i.foreign && i.address === address)) continue;
        this.insides.set(part.group, [...list, { address, foreign: true }]);
        if (this.findings.has(part.group)) waiting.push(this.groups[part.group]!);
      }
    }
  }

  private dataInside(): void {
    for (const found of this.findings.values()) {
      for (const [address, at] of found.readAsData) {
        const part = this.parts.at(address);
        // A function that is read at its start is somebody's pointer to it; code in no function is a table there.
        if (part === undefined || (part.heads.includes(address) && !part.isGap)) continue;
        part.unknown ??= `the instruction at ${hex(at)} reads data inside`;
        part.linear = false;
      }
    }
    for (const part of this.parts.list)
      if (part.unknown !== undefined)
        this.doubt(
          this.windowsIn((p) => p === part),
          `the code at ${hex(part.start)}: ${part.unknown}`,
        );
  }

  private lostAddresses(): void {
    for (const found of this.findings.values())
      for (const { base, reach, at } of found.lost.values()) {
        const why = `the instruction at ${hex(at)} adds to ${hex(base)}, and where that leads is not known`;
        if (this.program.isCode(base)) {
          const group = this.parts.owner(base)?.group;
          this.doubt(
            this.windowsIn((p) => p.group === group),
            why,
          );
        }
        if (reach !== undefined) this.doubt(this.reached(base + reach[0], base + reach[1]), why);
      }
  }

  /** Windows in parts that overlap [low, high]. */
  private reached(low: number, high: number): Iterable<number> {
    return this.windowsIn(({ index }) => {
      const { start, end } = this.parts.list[index]!;
      return start <= high && end > low;
    });
  }

  private transfers(): void {
    for (const [index, found] of this.findings)
      for (const [at, { kind, value }] of found.transfers) {
        const strange = strangeness(value, this.program.isFixed);
        if (strange === undefined) continue;
        const why = `the ${kind} at ${hex(at)} goes where is not known (${strange})`;
        this.doubt(
          this.windowsIn((p) => p.group === index),
          why,
        );
        if (strange === "returned") this.doubt(this.callers(index), why);
        if (strange !== "taint" && strange !== "rebased") continue;
        const inside = this.namedInside(strange === "taint");
        this.doubt(
          this.windowsIn((p) => inside.has(p.group)),
          why,
        );
      }
  }

  private namedInside(distances: boolean): ReadonlySet<number> {
    let known = this.known.get(distances);
    if (known === undefined) {
      const made = [...this.findings.values()].flatMap((found) => [...found.made.keys()]);
      known = namedInside(this.program, this.parts, made, this.tables(), distances);
      this.known.set(distances, known);
    }
    return known;
  }

  /** Windows that contain a call of a group, or lie right after one. */
  private *callers(group: number): Iterable<number> {
    const { from, to, use, count } = this.parts.references;
    for (let i = 0; i < count; i++)
      if (use[i] === Use.Call && this.parts.at(to[i]!)?.group === group)
        yield* this.touching(from[i]!, from[i]! + LONGEST);
  }

  /** Where code is entered without anybody naming it: a function begins, the instruction before goes on. */
  private places(): void {
    for (const address of this.shielded.keys()) {
      const part = this.parts.at(address);
      if (part === undefined) continue;
      if (part.heads.includes(address)) this.arrive(address, "pointer", "a function begins here", true);
      if (address === part.start || !this.parts.isStart(address)) continue;
      const before = this.parts.startOf(address - 1);
      // Filling that nothing leads to goes on nowhere.
      if (part.linear && this.findings.get(part.group)?.reached.has(before) === false) continue;
      const i = this.decoder.at(before);
      if (i !== undefined && before + i.length === address && goesOn(i.flowControl))
        this.arrive(address, "next", `the instruction at ${hex(before)} goes on`, part.linear, before);
    }
  }

  private brute(): void {
    const { program, parts } = this;
    const asked = new Asked(new Set([...this.shielded.keys(), ...this.quiet.keys()]));
    const word = (address: number, place: number, why: string): void => {
      if (!this.isBetween(address)) this.arrive(address, "word", `${why} at ${hex(place)}`, false);
    };
    scanCode(program, parts, asked, word);
    scanData(program, asked, this.tables(), word);
    for (const base of new Set([...this.findings.values()].flatMap(({ loose }) => [...loose])))
      scanLoose(program, base, asked, this.tables(), (address, place, why) =>
        word(address, place, `${why}, added to ${hex(base)},`),
      );
    for (const [index, found] of this.findings)
      for (const formation of found.formations.values())
        if (found.handedOn.has(formation.base)) this.table(formation, this.held.has(index) ? index : undefined);
    for (const formation of this.spared) this.table(formation, undefined);
    this.handedSums();
    this.pointedTables();
  }

  /**
   * A label that a function makes and keeps in memory is handed over when it comes back: an entry that is added to that
   * may be added to any label that it makes.
   */
  private handedSums(): void {
    const { parts, program } = this;
    for (const [index, { handedSums, made, told }] of this.findings) {
      if (handedSums.size === 0) continue;
      const named = (this.insides.get(index) ?? []).map(({ address }) => address);
      // Of another function as well: a label that a callee or memory gave back is one that was made here.
      const own = [...made.keys()].filter((at) => parts.at(at)?.heads.includes(at) === false);
      for (const { table, minus, at } of handedSums.values())
        for (const label of new Set([...named, ...own, ...told])) {
          const formation = formationOf(program, parts, label, table, minus, at);
          if (formation !== undefined) this.table(formation, undefined);
        }
    }
  }

  /** Tables of distances from their own starts that pointers in data lead to. */
  private pointedTables(): void {
    const { program, parts } = this;
    for (const [first, place] of program.dataPointers())
      for (const width of [4, 8]) {
        const table = { first, stride: width, width, signed: true };
        for (const entry of formationOf(program, parts, first, table, false, place)?.entries ?? [])
          if (this.shielded.has(entry) && !this.isBetween(entry))
            this.arrive(entry, "table", `a table at ${hex(first)}, which the pointer at ${hex(place)} leads to`, false);
      }
  }

  /**
   * Whether an address is inside an instruction, and not its start, or is filling that is no code: what looks like a
   * word that leads there is something else.
   */
  private isBetween(address: number): boolean {
    const { parts } = this;
    if (parts.isPadding(address)) return FILLING.has(parts.byteAt(address));
    return parts.isLinear(address) && !parts.isStart(address);
  }

  /** Where tables begin, ascending. */
  private tableStarts(): readonly number[] {
    this.starts ??= [...this.spared, ...[...this.findings.values()].flatMap((found) => [...found.formations.values()])]
      .map(({ table }) => table.first)
      .sort((a, b) => a - b);
    return this.starts;
  }

  private tables(): Ranges {
    return rangesOf([
      ...this.spared,
      ...[...this.findings.values()].flatMap((found) => [...found.formations.values()]),
    ]);
  }

  private table(formation: Formation, held: number | undefined): void {
    const why = `a table at ${hex(formation.table.first)} that the instruction at ${hex(formation.at)} reads`;
    const group = this.parts.owner(formation.at)?.group;
    const { first } = formation.table;
    const next = this.tableStarts()[lowerBound(this.tableStarts(), first + 1)] ?? Number.POSITIVE_INFINITY;
    const sure = Math.min(formation.sure, lowerBound(formation.places, next));
    for (const [n, entry] of formation.entries.entries()) {
      // After an address that other code makes a table has ended, mostly: what comes there leads anywhere. No entry is
      // certain: nobody says how many there are, nor that the first is one.
      const isSure = n < sure;
      if (isSure || (this.parts.owner(entry)?.group === group && !this.isBetween(entry)))
        this.arrive(entry, "table", why, false);
    }
    for (const entry of formation.below) this.arrive(entry, "table", why, false);
    // Words that are addresses by themselves have been asked for.
    if (held === undefined || formation.base === 0) return;
    const own = [...this.shielded.keys()].filter((address) => this.parts.owner(address)?.group === held);
    if (own.length === 0) return;
    scanTable(this.program, this.parts, formation, new Asked(new Set(own)), (address, place, what) => {
      if (!this.isBetween(address))
        this.arrive(address, "table", `${what} at ${hex(place)}, from ${hex(formation.base)}`, false);
    });
  }

  private movedCalls(): void {
    const { from, to, use, count } = this.parts.references;
    for (let i = 0; i < count; i++) {
      if (use[i] !== Use.Call || !this.calls.has(from[i]!)) continue;
      const target = this.parts.at(to[i]!);
      const reads = target && this.findings.get(target.group)?.returnReads;
      const [read] = reads ?? [];
      if (read !== undefined) this.noticed.set(from[i]!, `what it calls reads its return address at ${hex(read[0])}`);
    }
  }
}
