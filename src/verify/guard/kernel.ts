/**
 * A child of a traced process, and as much of Linux 6.18 as its fork guard may ask for. Every request is judged: is it
 * one that the guard may make, at this time, with these arguments?
 *
 * What is promised of a guard (the reasons are told in rewrite/fork-guard/handler/child-guard.ts)
 * - signals are blocked first and let in again last, but for those that an instruction raises: these stay as they were
 * - a page gets back what the file has there before the kernel looks at any page again. It is dropped (MADV_DONTNEED) where
 *   that gives back the same: not where the page has been relocated or can be written, and not where the memory is no longer
 *   that of the file (MADV_WIPEONFORK tells); else the nop5 is written through /proc/self/mem
 * - then, and only if no page is left, the mapping is split and joined again by MADV_DONTDUMP and MADV_DODUMP on one page: on
 *   a page that had a breakpoint, once in a mapping, and again where a site has no breakpoint after that
 * - what was blocked before the fork is let in again at the very end, once no slot is taken (slots.ts)
 * - nothing else is asked for: so int3 is written by nobody but the kernel, and no protection is changed
 */
import { hex, PAGE_SIZE, runtimeAddress } from "../../address.js";
import { Gpr, joinAddress } from "../../emulate/state.js";
import { NOP5 } from "../../x86/bytes.js";
import type { Machine } from "./machine.js";

/** A nop5 of the file. */
export interface GuardedSite {
  /** Link-time address. */
  readonly address: number;
  /** Number of its page. */
  readonly page: number;
}

/** A page with sites. */
export interface GuardedPage {
  /** Link-time address. */
  readonly address: number;
  readonly sites: readonly number[];
  /** Which PT_LOAD maps it. */
  readonly mapping: number;
  /** The loader, or the program, writes to it: it has other bytes than the file. */
  readonly isPrivate: boolean;
  /** Its mapping has more pages. */
  readonly canSplit: boolean;
}

export interface Guarded {
  readonly sites: readonly GuardedSite[];
  readonly pages: readonly GuardedPage[];
  /** Some of the sites run whatever the selector of universal probes says. */
  readonly runsUnselected: boolean;
}

/** What a child finds, and what its kernel refuses. */
export interface Scene {
  /** The five bytes at a site. */
  bytes(site: number): Uint8Array;
  /** Whether a tracer still wants the site. */
  isTraced(site: number): boolean;
  /**
   * `file`: an ordinary page; `locked`: only MADV_DONTNEED_LOCKED drops it; `sealed`: nothing does; `anonymous`: the
   * program has put its code into other memory.
   */
  page(page: number): "file" | "locked" | "sealed" | "anonymous";
  /** Sites are sound again by the time at which signals are blocked: a handler has seen to that. */
  readonly heals: boolean;
  /** A page that the program has made a mapping of its own. */
  isApart(page: number): boolean;
  /** What openat answers: a descriptor, or an error below 0. */
  readonly open: number;
  /** What pwrite64 answers for a site: 5, or an error, or less. */
  write(site: number): number;
}

const SYS_close = 3;
const SYS_rt_sigprocmask = 14;
const SYS_pwrite64 = 18;
const SYS_madvise = 28;
const SYS_openat = 257;
const AT_FDCWD = -100;
const [EPERM, EBADF, EINVAL] = [-1, -9, -22];

const advices = {
  4: "DONTNEED",
  16: "DONTDUMP",
  17: "DODUMP",
  18: "WIPEONFORK",
  19: "KEEPONFORK",
  24: "DONTNEED_LOCKED",
};
type Advice = (typeof advices)[keyof typeof advices];

/** All signals but SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV and SIGSYS. */
export const BLOCKED =
  ~((1n << 3n) | (1n << 4n) | (1n << 6n) | (1n << 7n) | (1n << 10n) | (1n << 30n)) & (2n ** 64n - 1n);
const OLD_MASK = 0x0123_4567_89ab_cdefn;

const isCall = (bytes: Uint8Array): boolean => bytes[0] === 0xe8;
const INT3 = 0xcc;

/** A site that runs as it should: nop5, with or without a breakpoint that nobody has hit. */
export const isSound = (bytes: Uint8Array): boolean =>
  bytes === NOP5 || (!isCall(bytes) && bytes[1] === 0x1f && bytes[2] === 0x44 && bytes[3] === 0 && bytes[4] === 0);

/** Made with all sites as the file has them in the machine's memory; `cleanUp` leaves them so. */
export class ChildKernel {
  /** What is wrong with what was asked for. */
  readonly problems: string[] = [];
  private readonly now: Uint8Array[];
  private readonly first: readonly Uint8Array[];
  /** How many sites of each page are not sound. */
  private readonly unsoundOn: number[];
  /** Pages that had a site that was not sound. */
  private unsound: ReadonlySet<number>;
  private mask: "open" | "blocked" | "restored" = "open";
  private isOver = false;
  private descriptor: "none" | "open" | "refused" | "closed" = "none";
  private readonly asked = new Map<number, Set<Advice>>();
  private readonly wiped = new Set<number>();
  /** The page between MADV_DONTDUMP and MADV_DODUMP. */
  private between: number | undefined;
  private readonly splitPages = new Set<number>();
  private readonly tracedOn = new Map<number, readonly number[]>();

  constructor(
    private readonly machine: Machine,
    private readonly guarded: Guarded,
    private readonly scene: Scene,
    /** What this thread had blocked before the fork, where signals have been held since then. */
    private held: bigint | undefined,
    /** Whether no slot is taken any more. */
    private readonly areFree: () => boolean,
  ) {
    this.now = guarded.sites.map((_, i) => scene.bytes(i));
    this.first = [...this.now];
    this.unsoundOn = guarded.pages.map(() => 0);
    this.now.forEach((bytes, i) => {
      if (bytes !== NOP5) this.show(i);
    });
    this.now.forEach((bytes, i) => {
      if (!isSound(bytes)) this.unsoundOn[guarded.sites[i]!.page]! += 1;
    });
    this.unsound = new Set(guarded.pages.flatMap((_, i) => (this.hasUnsound(i) ? [i] : [])));
  }

  /** Puts the file's bytes back, for the next scene. */
  cleanUp(): void {
    this.now.forEach((bytes, i) => {
      if (bytes !== NOP5) this.put(i, NOP5);
    });
  }

  private show(site: number): void {
    this.machine.memory.poke(runtimeAddress(this.guarded.sites[site]!.address + this.machine.bias), this.now[site]!);
  }

  private put(site: number, bytes: Uint8Array): void {
    const before = this.now[site]!;
    if (before === bytes) return;
    this.now[site] = bytes;
    this.unsoundOn[this.guarded.sites[site]!.page]! += Number(!isSound(bytes)) - Number(!isSound(before));
    this.show(site);
  }

  private wrong(what: string): void {
    if (this.problems.length < 4) this.problems.push(what);
  }

  private argument(register: number): number {
    const { w } = this.machine.cpu;
    return joinAddress(w[2 * register]!, w[2 * register + 1]!);
  }

  /** A 32-bit int. */
  private int(register: number): number {
    return this.machine.cpu.w[2 * register]!;
  }

  /** Does the system call that the machine has stopped at. */
  call(): void {
    const { cpu } = this.machine;
    const number = this.argument(Gpr.RAX);
    if (this.isOver || (this.mask === "restored" && this.held === undefined))
      this.wrong("a system call after the last one");
    if (this.mask === "open" && number !== SYS_rt_sigprocmask) this.wrong("a system call while signals may come");
    if (this.between !== undefined && number !== SYS_madvise) this.wrong("a system call before MADV_DODUMP");
    cpu.setGpr(Gpr.RAX, BigInt.asUintN(64, BigInt(this.answer(number))));
  }

  private answer(number: number): number {
    switch (number) {
      case SYS_rt_sigprocmask:
        return this.sigprocmask();
      case SYS_madvise:
        return this.madvise();
      case SYS_openat:
        return this.openat();
      case SYS_pwrite64:
        return this.pwrite();
      case SYS_close:
        return this.close();
      default:
        this.wrong(`system call ${number}`);
        return EPERM;
    }
  }

  private sigprocmask(): number {
    const [how, set, old, size] = [Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.R10].map((r) => this.argument(r)) as [
      number,
      number,
      number,
      number,
    ];
    const value = this.machine.given(set, 8).readBigUInt64LE(0);
    if (size !== 8) this.wrong(`rt_sigprocmask with a set of ${size} bytes`);
    if (this.held !== undefined && (this.mask === "restored" || (this.mask === "open" && how === 2)))
      return this.giveBack(how, value, old);
    if (this.mask === "open") {
      if (how !== 0 || value !== BLOCKED) this.wrong(`it blocks the signals ${value.toString(16)} (${how})`);
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(OLD_MASK);
      if (!this.machine.isOnStack(old, 8)) this.wrong(`the kernel is to write to ${hex(old)}`);
      else this.machine.memory.poke(runtimeAddress(old), bytes);
      this.mask = "blocked";
      if (this.unsound.size === 0) this.wrong("a system call, and no site was patched");
      if (this.scene.heals) this.heal();
      return 0;
    }
    if (how !== 2 || value !== OLD_MASK || old !== 0) this.wrong("it does not restore the signals that were blocked");
    if (this.descriptor === "open") this.wrong("/proc/self/mem stays open");
    this.mask = "restored";
    return 0;
  }

  private giveBack(how: number, value: bigint, old: number): number {
    if (how !== 2 || value !== this.held || old !== 0)
      this.wrong("it does not let in again what was held before the fork");
    if (!this.areFree()) this.wrong("a slot is taken while signals may come");
    this.held = undefined;
    this.isOver = true;
    return 0;
  }

  private heal(): void {
    this.unsound = new Set();
    this.now.forEach((bytes, i) => {
      if (!isSound(bytes)) this.put(i, NOP5);
    });
  }

  private madvise(): number {
    const [address, size] = [this.argument(Gpr.RDI) - this.machine.bias, this.argument(Gpr.RSI)];
    const advice = (advices as Readonly<Record<number, Advice>>)[this.argument(Gpr.RDX) % 2 ** 32];
    const page = this.guarded.pages.findIndex((p) => p.address === address);
    if (advice === undefined || page < 0 || size !== PAGE_SIZE) {
      this.wrong(`madvise(${hex(address)}, ${size}, ${this.argument(Gpr.RDX)})`);
      return EINVAL;
    }
    return advice === "DONTDUMP" || advice === "DODUMP" ? this.dump(page, advice) : this.drop(page, advice);
  }

  /** What has been asked for on a page while it was mended. */
  private askedOn(page: number): Set<Advice> {
    let asked = this.asked.get(page);
    if (asked === undefined) {
      asked = new Set();
      this.asked.set(page, asked);
    }
    return asked;
  }

  private drop(page: number, advice: Advice): number {
    const asked = this.askedOn(page);
    const say = (why: string): void => this.wrong(`MADV_${advice} ${why}`);
    const kind = this.scene.page(page);
    if (asked.has(advice)) say("for the second time");
    asked.add(advice);
    if (this.splitPages.size > 0 || this.between !== undefined) say("after a split");
    if (!this.hasUnsound(page) && advice !== "KEEPONFORK") say("on a page whose sites are sound");
    if (advice === "KEEPONFORK") {
      if (!this.wiped.delete(page)) say("that nothing asks for");
      return 0;
    }
    if (this.guarded.pages[page]!.isPrivate) say("on a page that has other bytes than the file");
    if (advice === "WIPEONFORK") {
      if (kind !== "anonymous") return EINVAL;
      this.wiped.add(page);
      return 0;
    }
    if (kind === "anonymous") say("on memory that is no file's");
    if (advice === "DONTNEED_LOCKED" && !asked.has("DONTNEED")) say("before MADV_DONTNEED");
    if (kind === "sealed" || (kind === "locked" && advice === "DONTNEED")) return kind === "sealed" ? EPERM : EINVAL;
    for (const site of this.guarded.pages[page]!.sites) this.put(site, NOP5);
    return 0;
  }

  private hasUnsound(page: number): boolean {
    return this.unsoundOn[page] !== 0;
  }

  /** Splits a mapping, or joins what was split: the kernel looks for breakpoints in all of it. */
  private dump(page: number, advice: "DONTDUMP" | "DODUMP"): number {
    if (advice === "DODUMP") {
      if (this.between !== page) this.wrong("MADV_DODUMP on another page than MADV_DONTDUMP");
      this.between = undefined;
      this.look(page);
      return 0;
    }
    if (this.between !== undefined) this.wrong("MADV_DONTDUMP twice");
    if (this.guarded.pages.some((_, i) => this.hasUnsound(i))) this.wrong("a split while a page is not mended");
    if (!this.wantsSplit(page))
      this.wrong(`a split of the page at ${hex(this.guarded.pages[page]!.address)}, of no use`);
    this.between = page;
    this.splitPages.add(page);
    this.look(page);
    return 0;
  }

  /** Sites of a page that had a breakpoint or a call, where the page had to be mended. */
  private traced(page: number): readonly number[] {
    if (!this.unsound.has(page)) return [];
    let traced = this.tracedOn.get(page);
    if (traced === undefined) {
      traced = this.guarded.pages[page]!.sites.filter((s) => this.first[s]![0] === INT3 || !isSound(this.first[s]!));
      this.tracedOn.set(page, traced);
    }
    return traced;
  }

  private wantsSplit(page: number): boolean {
    const { mapping } = this.guarded.pages[page]!;
    const isFirst = ![...this.splitPages].some((p) => this.guarded.pages[p]!.mapping === mapping);
    const traced = this.traced(page);
    return traced.length > 0 && (isFirst || traced.some((s) => this.now[s]![0] !== INT3));
  }

  private look(page: number): void {
    const { mapping, canSplit } = this.guarded.pages[page]!;
    if (!canSplit) return;
    this.guarded.pages.forEach((p, i) => {
      if (p.mapping !== mapping || (i !== page && (this.scene.isApart(i) || this.scene.isApart(page)))) return;
      for (const site of p.sites)
        if (this.scene.isTraced(site) && this.now[site]![0] !== INT3)
          this.put(site, Uint8Array.of(INT3, ...this.now[site]!.subarray(1)));
    });
  }

  private openat(): number {
    const [directory, path, flags] = [this.int(Gpr.RDI), this.argument(Gpr.RSI), this.int(Gpr.RDX)];
    const name = this.machine.text(path);
    if (directory !== AT_FDCWD || name !== "/proc/self/mem" || flags !== 0o2000002)
      this.wrong(`openat(${directory}, "${name}", ${flags.toString(8)})`);
    if (this.descriptor !== "none") this.wrong("it opens /proc/self/mem for the second time");
    if (!this.guarded.pages.some((_, i) => this.mayWrite(i))) this.wrong("it opens /proc/self/mem for nothing");
    this.descriptor = this.scene.open < 0 ? "refused" : "open";
    return this.scene.open;
  }

  /** Whether a page can be mended in no other way than by writing. */
  private mayWrite(page: number): boolean {
    if (!this.hasUnsound(page)) return false;
    const kind = this.scene.page(page);
    const asked = this.askedOn(page);
    return (
      this.guarded.pages[page]!.isPrivate ||
      (kind === "anonymous" && asked.has("KEEPONFORK")) ||
      (kind === "sealed" && asked.has("DONTNEED_LOCKED"))
    );
  }

  private pwrite(): number {
    const [file, from, size, to] = [Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.R10].map((r) => this.argument(r)) as [
      number,
      number,
      number,
      number,
    ];
    const site = this.guarded.sites.findIndex((s) => s.address + this.machine.bias === to);
    if (this.descriptor === "refused") return EBADF;
    if (file !== this.scene.open || this.descriptor !== "open") this.wrong(`it writes to file ${file}`);
    if (size !== NOP5.length || Buffer.compare(this.machine.given(from, 5), NOP5) !== 0)
      this.wrong("it writes something else than a nop5");
    if (site < 0 || isSound(this.now[site]!) || !this.mayWrite(this.guarded.sites[site]!.page)) {
      this.wrong(`it writes to ${hex(to - this.machine.bias)}`);
      return EINVAL;
    }
    const result = this.scene.write(site);
    if (result === NOP5.length) this.put(site, NOP5);
    return result;
  }

  private close(): number {
    if (this.descriptor !== "open" || this.int(Gpr.RDI) !== this.scene.open) this.wrong("it closes another file");
    this.descriptor = "closed";
    return 0;
  }

  /** What is wrong with what the guard has left behind. */
  outcome(): string | undefined {
    if (this.problems.length > 0) return this.problems[0];
    if (this.held !== undefined) return "it leaves signals blocked since before the fork";
    if (this.mask === "open") {
      const site = this.now.findIndex((bytes) => !isSound(bytes));
      return site < 0 ? undefined : `it does not look at the site at ${hex(this.guarded.sites[site]!.address)}`;
    }
    if (this.mask !== "restored") return "it leaves signals blocked";
    if (this.descriptor === "open") return "it leaves /proc/self/mem open";
    if (this.wiped.size > 0) return "it leaves memory to be wiped";
    if (this.between !== undefined) return "it leaves a page out of core dumps";
    const failed = new Set<number>();
    for (const i of this.now.keys()) {
      if (isSound(this.now[i]!)) continue;
      const { page, address } = this.guarded.sites[i]!;
      const isWritable = this.scene.open >= 0 && this.scene.write(i) === NOP5.length;
      if (isWritable || !this.mayWrite(page)) return `it does not mend the site at ${hex(address)}`;
      failed.add(page);
    }
    if (failed.size > 0) return undefined;
    for (const i of this.guarded.pages.keys())
      if (this.wantsSplit(i) && !this.splitPages.has(i))
        return `the kernel is not asked for breakpoints in the page at ${hex(this.guarded.pages[i]!.address)}`;
    return undefined;
  }
}
