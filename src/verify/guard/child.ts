/**
 * The child handler, run in the emulator as the C library calls it in a forked child.
 *
 *     nobody traces     from many states: it comes back with everything as it was, has asked the kernel for nothing, and has
 *                       looked at all five bytes of every nop5 of the file
 *     somebody traces   each site by itself, in each way in which a child may find it, so that none can be missing in its
 *                       tables (of thousands some by themselves, all with one other a page); then many at once, with every answer that the kernel may give (kernel.ts)
 *
 * A guard may ask the selector of universal probes first: where that is 0 none of their nop5 runs. So all of this is
 * tried with the selector set, and with 0 as well where the file has other nop5; else what is tried with 0 is that it
 * does nothing.
 *
 * In either case with signals that were blocked before the fork, by this thread or by none: it lets them in again, last
 * of all, and leaves the table of slots empty.
 */
import { hex } from "../../address.js";
import { Random } from "../../emulate/machine-states.js";
import { NOP5 } from "../../x86/bytes.js";
import { HandlerRuns } from "./handler-runs.js";
import { ChildKernel, type Guarded, isSound, type Scene } from "./kernel.js";
import type { Machine } from "./machine.js";
import { sampled } from "./sampled.js";
import { isFree, isOwn, type Slots } from "./slots.js";
import { beginsAsTarget } from "./stubs.js";

/**
 * States of a child that nobody traces, and scenes of one that somebody does: half as many where there are many sites.
 */
const TURNS = 24;
/** So many are looked at in every way. */
const FEW_SITES = 64;

/** Bytes 1 to 4 of a nop5 with a breakpoint that nobody has hit. */
export const BREAKPOINT = Uint8Array.of(0xcc, 0x1f, 0x44, 0x00, 0x00);

/**
 * How a child may find a site that is not sound: a call; another tracer's int3, or the nop, in front of its distance.
 */
export const broken: readonly Uint8Array[] = [
  Uint8Array.of(0xe8, 0x12, 0x34, 0x56, 0x78),
  Uint8Array.of(0xcc, 0xfb, 0x5f, 0x00, 0x00),
  Uint8Array.of(0x0f, 0xfb, 0x5f, 0x00, 0x00),
  // A distance that is what a nop5 has there, and such as differ from that in one byte.
  Uint8Array.of(0xe8, 0x1f, 0x44, 0x00, 0x00),
  Uint8Array.of(0x0f, 0x1e, 0x44, 0x00, 0x00),
  Uint8Array.of(0xcc, 0x1f, 0x45, 0x00, 0x00),
  Uint8Array.of(0x0f, 0x1f, 0x44, 0x01, 0x00),
  Uint8Array.of(0xcc, 0x1f, 0x44, 0x00, 0xff),
  Uint8Array.of(0x0f, 0x1f, 0x44, 0x00, 0x80),
];

/** Untraced, on ordinary pages, with a kernel that refuses nothing. */
const plain: Scene = {
  bytes: () => NOP5,
  isTraced: () => true,
  page: () => "file",
  heals: false,
  isApart: () => false,
  open: 3,
  write: () => NOP5.length,
};

/** What is wrong with the child handler, or undefined. @param slots where signals may have been held */
export function judgeChild(
  machine: Machine,
  start: number,
  guarded: Guarded,
  slots: Slots | undefined,
): string | undefined {
  if (!beginsAsTarget(machine, start)) return "it does not begin with endbr64";
  const all = (): string | undefined => {
    const child = new ChildRuns(machine, start, guarded, slots);
    return child.untraced(true) ?? child.each() ?? child.eachInItsPage() ?? child.many();
  };
  if (machine.selector === undefined) return all();
  machine.select(0);
  const idle = guarded.runsUnselected ? all() : new ChildRuns(machine, start, guarded, slots).untraced(false);
  if (idle !== undefined) return `with the selector 0, ${idle}`;
  machine.select(1);
  return all();
}

class ChildRuns {
  private readonly runs: HandlerRuns;
  private turn = 0;

  constructor(
    private readonly machine: Machine,
    private readonly start: number,
    private readonly guarded: Guarded,
    private readonly slots: Slots | undefined,
  ) {
    this.runs = new HandlerRuns(machine, guarded, slots);
  }

  private get turns(): number {
    return this.guarded.sites.length > FEW_SITES ? TURNS / 2 : TURNS;
  }

  private scene(scene: Scene, looksAtAll = false): string | undefined {
    const turn = this.turn++;
    const scenes = this.slots?.scenes ?? [];
    const held = scenes[turn % scenes.length] ?? [];
    this.slots?.put(held);
    const isEmpty = (): boolean => this.slots?.get().every(isFree) ?? true;
    const kernel = new ChildKernel(this.machine, this.guarded, scene, held.find(isOwn)?.mask, isEmpty);
    const problem =
      this.runs.run(this.start, turn, () => kernel.call()) ??
      kernel.outcome() ??
      (isEmpty() ? undefined : "it leaves a slot taken") ??
      (looksAtAll ? this.runs.unread() : undefined);
    kernel.cleanUp();
    return problem;
  }

  /** @param looksAtAll whether it has to look at each site */
  untraced(looksAtAll: boolean): string | undefined {
    for (let turn = 0; turn < this.turns; turn++) {
      const problem = this.scene(
        turn === 0 ? plain : { ...plain, bytes: (i) => (turn % 3 === 1 || (i + turn) % 7 === 0 ? BREAKPOINT : NOP5) },
        looksAtAll && turn === 0,
      );
      if (problem !== undefined) return `untraced: ${problem}`;
    }
    return undefined;
  }

  /** Each site by itself; where there are few of them, in every way. */
  each(): string | undefined {
    const { sites } = this.guarded;
    const ways = sites.length > FEW_SITES ? 1 : broken.length;
    for (const site of sampled(sites.length))
      for (let way = 0; way < ways; way++) {
        const bytes = broken[(site + way) % broken.length]!;
        const problem = this.scene({
          ...plain,
          bytes: (i) => (i === site ? bytes : NOP5),
          isTraced: (i) => i === site,
        });
        if (problem !== undefined) return `traced at ${hex(sites[site]!.address)} (${text(bytes)}): ${problem}`;
      }
    return undefined;
  }

  /**
   * Where not each site was tried by itself: one in every page at a time, until all were tried. Pages are mended one by
   * one.
   */
  eachInItsPage(): string | undefined {
    const { sites, pages } = this.guarded;
    if (sampled(sites.length).length === sites.length) return undefined;
    const most = Math.max(...pages.map((page) => page.sites.length));
    for (let turn = 0; turn < most; turn++) {
      const wanted = new Set(pages.flatMap((page) => page.sites[turn] ?? []));
      const bytes = broken[turn % broken.length]!;
      const problem = this.scene({
        ...plain,
        bytes: (i) => (wanted.has(i) ? bytes : NOP5),
        isTraced: (i) => wanted.has(i),
      });
      if (problem !== undefined) return `traced at the site ${turn} of each page (${text(bytes)}): ${problem}`;
    }
    return undefined;
  }

  many(): string | undefined {
    for (const [name, scene] of this.scenes()) {
      const problem = this.scene(scene);
      if (problem !== undefined) return `${name}: ${problem}`;
    }
    return undefined;
  }

  private *scenes(): Generator<readonly [name: string, scene: Scene]> {
    const calls = { ...plain, bytes: () => broken[0]! };
    const all = (page: ReturnType<Scene["page"]>) => ({ ...calls, page: () => page });
    yield ["all sites traced", calls];
    yield ["all sites were traced", { ...calls, isTraced: () => false }];
    yield ["locked pages", all("locked")];
    yield ["sealed pages", all("sealed")];
    yield ["anonymous memory", { ...all("anonymous"), open: 0 }];
    yield ["sealed pages, /proc/self/mem refused", { ...all("sealed"), open: -13 }];
    yield ["anonymous memory, a write refused", { ...all("anonymous"), write: (i) => (i === 0 ? -5 : 5) }];
    yield [
      "sealed pages, a write too short",
      { ...all("sealed"), write: (i) => (i === this.guarded.sites.length - 1 ? 3 : 5) },
    ];
    yield ["pages that are mappings of their own", { ...calls, isApart: () => true }];
    yield ["sites that are sound again", { ...calls, heals: true }];
    yield* this.sparse();
    const kinds = ["file", "file", "file", "locked", "sealed", "anonymous"] as const;
    for (let turn = 0; turn < this.turns; turn++) {
      const random = new Random(31 + turn);
      const few = 1 << random.below(4);
      const of = <T>(count: number, one: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => one(i));
      const bytes = of(this.guarded.sites.length, () =>
        random.below(few) > 0 ? (random.below(3) > 0 ? NOP5 : BREAKPOINT) : broken[random.below(broken.length)]!,
      );
      // Whole pages without a trace.
      for (const page of this.guarded.pages)
        if (random.below(3) === 0) for (const site of page.sites) if (!isSound(bytes[site]!)) bytes[site] = NOP5;
      const traced = of(bytes.length, () => random.below(3) > 0);
      const page = of(this.guarded.pages.length, () => kinds[random.below(turn % 2 ? kinds.length : 3)]!);
      const apart = of(page.length, () => random.below(3) === 0);
      const written = of(bytes.length, () => (random.below(16) === 0 && turn % 4 === 3 ? -1 : NOP5.length));
      yield [
        `scene ${turn}`,
        {
          bytes: (i) => bytes[i]!,
          isTraced: (i) => traced[i]!,
          page: (i) => page[i]!,
          heals: false,
          isApart: (i) => apart[i]!,
          open: turn % 8 === 7 ? -2 : turn % 3,
          write: (i) => written[i]!,
        },
      ];
    }
  }

  /**
   * One site in each page is not sound, another one has a breakpoint that no tracer wants any more: so it shows what is
   * done for the sake of a single site, and what is not done for that of others.
   */
  private *sparse(): Generator<readonly [name: string, scene: Scene]> {
    const { pages, sites } = this.guarded;
    const ways = sites.length > FEW_SITES ? [0, 3, 5] : [...broken.keys()];
    for (const kind of ["file", "locked", "sealed", "anonymous"] as const)
      for (const way of ways)
        for (const another of [false, true]) {
          const bytes = new Map<number, Uint8Array>();
          const wanted = new Set<number>();
          pages.forEach(({ sites: own }, i) => {
            if (another && own.length > 1) bytes.set(own[(way + i + 1) % own.length]!, BREAKPOINT);
            bytes.set(own[(way + i) % own.length]!, broken[way]!);
            wanted.add(own[(way + i) % own.length]!);
          });
          const scene: Scene = {
            ...plain,
            bytes: (i) => bytes.get(i) ?? NOP5,
            isTraced: (i) => wanted.has(i),
            page: () => kind,
            open: way,
          };
          const name = `one site a page (${text(broken[way]!)}), ${kind}`;
          yield [name, scene];
          if (kind === "sealed")
            yield [`${name}, a write refused`, { ...scene, write: (i) => (wanted.has(i) ? -5 : 5) }];
        }
  }
}

const text = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
