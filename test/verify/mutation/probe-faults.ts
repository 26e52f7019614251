/**
 * Faults in the probes themselves: their bytes, their guards, their notes.
 */
import { parseArguments, usesRegister, withDisplacement } from "../../../src/usdt/arguments.js";
import { NOP5, NOP10 } from "../../../src/x86/bytes.js";
import { type Fault, number, type Patch } from "./fault.js";
import type { Spot, Subject } from "./spots.js";

const PAGE_SIZE = 4096;
const LOWER = Buffer.from("488d642480", "hex");
const RAISE = Buffer.from("488da42480000000", "hex");

export const probeFaults = (subject: Subject): Fault[] =>
  subject.spots.flatMap((spot) => new ProbeFaults(subject, spot).all());

class ProbeFaults {
  private readonly faults: Fault[] = [];

  constructor(
    private readonly subject: Subject,
    private readonly spot: Spot,
  ) {}

  all(): Fault[] {
    this.form();
    this.guard();
    this.page();
    this.location();
    this.semaphore();
    this.arguments();
    return this.faults;
  }

  private add(kind: string, what: string, patches: readonly Patch[]): void {
    const { site, tactic, note } = this.spot;
    this.faults.push({ subject: this.subject, kind, tactic, note, what: `${site.name}: ${what}`, patches });
  }

  private at(address: number, bytes: Uint8Array): Patch {
    return { offset: this.subject.offset(address), bytes };
  }

  /** Other bytes that do nothing either: no kernel, or no tracer, takes them for a probe to optimize. */
  private form(): void {
    const { nop, nopSize, site } = this.spot;
    const others: readonly (readonly [string, string])[] =
      nopSize === 5
        ? [
            ["another displacement", "0f1f440008"],
            ["another base register", "0f1f450000"],
            ["a prefix", "6666666690"],
            ["five nops", "9090909090"],
            ["a jump behind it", "eb03000000"],
            ["a nop of four bytes and one of one", "0f1f400090"],
          ]
        : [
            ["another segment", "66360f1f840000000000"],
            ["another displacement", "662e0f1f840000000100"],
            ["ten nops", "90909090909090909090"],
            ["two other nops", "660f1f4400000f1f4000"],
            ["a jump behind it", "eb080000000000000000"],
          ];
    for (const [what, bytes] of others) this.add("the probe's form", what, [this.at(nop, Buffer.from(bytes, "hex"))]);
    // A prefix in the place of the short nop: one long nop, and no instruction where a kernel would look for one.
    if (nop !== site.newLocation) this.add("the probe's form", "one nop", [this.at(site.newLocation, Buffer.of(0x66))]);
    if (nopSize === 10 && site.redZone === "live")
      this.add("a nop5 where bytes below rsp are needed", "nop,nop5 and another nop", [
        this.at(nop, Buffer.from("0f1f4400000f1f440000", "hex")),
      ]);
    // A nop5 in front of a nop would be another layout's probe, and right.
    if (this.subject.layout === "nop,nop10") {
      const bytes = this.subject.bytes(nop, nop + nopSize);
      this.add("the probe's form", "the short nop behind the long one", [
        this.at(site.newLocation, Buffer.concat([bytes, Buffer.of(0x90)])),
      ]);
    }
  }

  private guard(): void {
    const { site, nop, nopSize } = this.spot;
    if (!site.guard) return;
    const [lower, raise] = [site.newLocation - LOWER.length, nop + nopSize];
    if (!this.subject.bytes(lower, lower + LOWER.length).equals(LOWER)) throw new Error("no guard in front");
    if (!this.subject.bytes(raise, raise + RAISE.length).equals(RAISE)) throw new Error("no guard behind");
    const nops = { first: Buffer.from("0f1f440000", "hex"), second: Buffer.from("0f1f840000000000", "hex") };
    this.add("a guard without its second half", "nop in its place", [this.at(raise, nops.second)]);
    this.add("a guard without its first half", "nop in its place", [this.at(lower, nops.first)]);
    this.add("a guard with another constant", "0x78 in the first half", [this.at(lower + 4, Buffer.of(0x88))]);
    this.add("a guard with another constant", "0x88 in the second half", [this.at(raise + 4, Buffer.of(0x88))]);
    this.add("a guard with another constant", "another direction", [this.at(lower + 4, Buffer.of(0x7f))]);
    this.add("a guard's half of 32 bits", "lea esp", [this.at(lower, Buffer.from("408d642480", "hex"))]);
    const rebased = this.withoutGuard();
    if (site.redZone === "live" && rebased !== undefined)
      this.add("no guard where bytes below rsp are needed", "nops for both halves", [
        this.at(lower, Buffer.from("90".repeat(LOWER.length), "hex")),
        this.at(raise, Buffer.from("90".repeat(RAISE.length), "hex")),
        ...rebased,
      ]);
  }

  /** The arguments as they have to be where rsp is not lower; undefined where they do not fit into as many characters. */
  private withoutGuard(): Patch[] | undefined {
    const { note } = this.spot;
    const before = parseArguments(this.subject.originalNotes[note]!.argumentText).arguments;
    const { argumentText: text, argumentOffset: offset } = this.subject.notes[note]!;
    const now = parseArguments(text).arguments.map((a) => a.text);
    const patches: Patch[] = [];
    for (const [i, argument] of before.entries()) {
      if (!usesRegister(argument, "rsp")) continue;
      const number = displacementOf(argument.text);
      const changed = number === undefined ? "" : padded(now[i]!, number);
      if (changed.length !== now[i]!.length) return undefined;
      patches.push({ offset: offset + indexOfArgument(text, now, i), bytes: Buffer.from(changed, "latin1") });
    }
    return patches;
  }

  /**
   * The whole piece of new code further up, over int3 that is free behind it, so that the nop lies in two pages; what leads
   * there follows. It computes the same, and no kernel ever optimizes it.
   */
  private page(): void {
    const { nop, nopSize, entry, pieces, free, end, site } = this.spot;
    const toBorder = PAGE_SIZE - (nop % PAGE_SIZE);
    if (entry !== undefined) {
      const by = Math.max(1, toBorder - nopSize + 1);
      const isPlain = pieces.every((p) => p.facts.ripField === undefined);
      const branches = pieces.filter((p) => p.facts.target !== undefined);
      if (by >= toBorder || by > free || !isPlain || branches.some((p) => p.facts.branchField?.size !== 4)) return;
      const start = pieces[0]!.address;
      const code = Buffer.from(this.subject.bytes(start, end));
      for (const { address, facts } of branches) {
        const at = address - start + facts.branchField!.offset;
        code.writeInt32LE(code.readInt32LE(at) - by, at);
      }
      const distance = entry.bytes.readInt32LE(1) + by;
      this.add("a probe in two pages", `${by} bytes further up`, [
        this.at(start, Buffer.concat([Buffer.alloc(by, 0xcc), code])),
        this.at(entry.address + 1, number(distance, 4)),
        this.locationPatch(site.newLocation + by),
      ]);
      return;
    }
    this.pageInPlace();
  }

  /** In place: where other nops lie on both sides of the border. */
  private pageInPlace(): void {
    const { nop, nopSize, pieces, site } = this.spot;
    if (site.guard || !pieces.every((p) => p.facts.isNop)) return;
    const before = this.subject.layout === "nop5" ? 0 : 1;
    const last = pieces.at(-1)!;
    const [start, end] = [Math.min(site.location, nop - before), last.address + last.bytes.length];
    const border = Math.floor(end / PAGE_SIZE) * PAGE_SIZE;
    for (let at = Math.max(start + before, border - nopSize + 1); at < border && at + nopSize <= end; at++) {
      const bytes = Buffer.alloc(end - start, 0x90);
      bytes.set(this.subject.bytes(nop, nop + nopSize), at - start);
      this.add("a probe in two pages", `at 0x${at.toString(16)}`, [
        this.at(start, bytes),
        this.locationPatch(at - before),
      ]);
    }
  }

  /**
   * Whether a probe that a kernel optimizes stands at an address, and only nops between it and the real one: the nop5 of
   * nop,nop5 is the probe of layout nop5.
   */
  private isForm(address: number): boolean {
    const { newLocation } = this.spot.site;
    const end = Math.max(address, newLocation);
    for (let at = Math.min(address, newLocation); at < end; ) {
      const piece = this.subject.read(at);
      if (!piece?.facts.isNop) return false;
      at += piece.bytes.length;
      if (at > end) return false;
    }
    const bytes = this.subject.bytes(address, address + 11);
    const long = bytes[0] === 0x90 ? bytes.subarray(1) : bytes;
    return long.subarray(0, 5).equals(NOP5) || (long !== bytes && long.subarray(0, 10).equals(NOP10));
  }

  private locationPatch(location: number): Patch {
    const note = this.subject.notes[this.spot.note]!;
    return { offset: note.locationOffset, bytes: number(location - note.prelinkShift, 8) };
  }

  private location(): void {
    const { site, note, pieces, nop, nopSize } = this.spot;
    const say = (kind: string, to: number): void => {
      // Another place among the same nops that is a probe as well, of whatever layout, is as good.
      if (this.isForm(to)) return;
      this.add(kind, `its note says 0x${to.toString(16)}, not 0x${site.newLocation.toString(16)}`, [
        this.locationPatch(to),
      ]);
    };
    say("a note's location, off by one", site.newLocation + 1);
    say("a note's location, off by one", site.newLocation - 1);
    if (site.location !== site.newLocation) say("a note's location, the old one", site.location);
    const behind = pieces.find((p) => p.address >= nop + nopSize);
    if (behind !== undefined) say("a note's location, behind the probe", behind.address);
    if (site.guard) say("a note's location, before the guard", site.newLocation - LOWER.length);
    const { argumentText } = this.subject.notes[note]!;
    // Two notes that say the same may change places.
    const isOther = ({ note: n, site: s }: Spot): boolean =>
      n > note &&
      s.newLocation !== site.newLocation &&
      (s.name !== site.name || this.subject.notes[n]!.argumentText !== argumentText);
    const other = this.subject.spots.find(isOther);
    if (other === undefined) return;
    const theirs = this.subject.notes[other.note]!;
    this.add("two notes' locations swapped", `with ${other.site.name}`, [
      this.locationPatch(other.site.newLocation),
      { offset: theirs.locationOffset, bytes: number(site.newLocation - theirs.prelinkShift, 8) },
    ]);
  }

  private semaphore(): void {
    const { note } = this.spot;
    const { semaphore, locationOffset, prelinkShift } = this.subject.notes[note]!;
    const offset = locationOffset + 16;
    const say = (value: number): void =>
      this.add("a semaphore", `at 0x${value.toString(16)}, not 0x${semaphore.toString(16)}`, [
        { offset, bytes: number(value === 0 ? 0 : value - prelinkShift, 8) },
      ]);
    say(semaphore === 0 ? this.subject.notes[note]!.base : 0);
    if (semaphore !== 0) say(semaphore + 2);
    const other = this.subject.notes.find((n) => n.semaphore !== 0 && n.semaphore !== semaphore);
    if (other !== undefined) say(other.semaphore);
  }

  private arguments(): void {
    const { note } = this.spot;
    const before = parseArguments(this.subject.originalNotes[note]!.argumentText).arguments;
    const { argumentText: text, argumentOffset: offset } = this.subject.notes[note]!;
    const now = parseArguments(text).arguments;
    const say = (kind: string, i: number, changed: string): void => {
      const start = indexOfArgument(
        text,
        now.map((a) => a.text),
        i,
      );
      if (changed.length !== now[i]!.text.length || changed === now[i]!.text) return;
      this.add(kind, `${now[i]!.text} is ${changed}`, [
        { offset: offset + start, bytes: Buffer.from(changed, "latin1") },
      ]);
    };
    now.forEach((argument, i) => {
      const old = before[i]!;
      if (argument.kind === "memory" || argument.kind === "rip-relative") {
        if (old.text !== argument.text) {
          const number = displacementOf(old.text);
          if (number !== undefined) say("an argument not rebased", i, padded(argument.text, number));
        }
        for (const by of [1, -1, 8])
          say("an argument's displacement", i, withDisplacement(argument, argument.displacement + by).text);
      }
      if (argument.kind === "register") {
        const other = otherRegister(argument.text);
        if (other !== undefined) say("an argument's register", i, other);
      }
      if (argument.kind === "constant") say("an argument's constant", i, otherDigit(argument.text));
      const [size] = argument.text;
      if (size === "8" && argument.kind !== "constant") say("an argument's size", i, `4${argument.text.slice(1)}`);
    });
  }
}

/** Where an argument begins in the text that holds all. */
function indexOfArgument(text: string, all: readonly string[], index: number): number {
  let at = 0;
  for (let i = 0; i <= index; i++) {
    at = text.indexOf(all[i]!, at);
    if (i < index) at += all[i]!.length;
  }
  return at;
}

/** The number in front of the parenthesis. */
function displacementOf(text: string): number | undefined {
  const found = /@(-?\d+)?\(/.exec(text);
  return found === null ? undefined : Number(found[1] ?? 0);
}

/** The argument with another displacement in as many characters, zeros in front. */
function padded(text: string, value: number): string {
  return text.replace(/@(-?\d*)\(/, (_all, old: string) => {
    const digits = `${Math.abs(value)}`.padStart(old.length - (value < 0 ? 1 : 0), "0");
    return `@${value < 0 ? "-" : ""}${digits}(`;
  });
}

/** Another register of the same kind and with a name as long. */
function otherRegister(text: string): string | undefined {
  const pairs = [
    ["%rdi", "%rsi"],
    ["%rax", "%rdx"],
    ["%rbx", "%rcx"],
    ["%edi", "%esi"],
    ["%eax", "%edx"],
    ["%ebx", "%ecx"],
    ["%r12", "%r13"],
    ["%r14", "%r15"],
    ["%dil", "%sil"],
    ["%dx", "%ax"],
    ["%xmm0", "%xmm1"],
  ] as const;
  for (const [a, b] of pairs) {
    if (text.endsWith(`@${a}`)) return text.replace(a, b);
    if (text.endsWith(`@${b}`)) return text.replace(b, a);
  }
  return undefined;
}

/** The last digit is another. */
const otherDigit = (text: string): string =>
  text.replace(/\d$/, (digit) => (digit === "9" ? "8" : `${Number(digit) + 1}`));
