/**
 * What the user should know of the output before it is deployed. Each hazard names the kernels that it holds for and
 * the option that decides it.
 */
import type { Vaddr } from "../address.js";
import { readBuildId } from "../elf/build-id.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, sectionNamed, segmentAt } from "../elf/image.js";
import { InputError } from "../errors.js";
import { kernels, rangesWhere, STEPPING_FACTOR, writesRedZone } from "../kernel/kernels.js";
import type { Hazard, RedZone, SiteCost } from "../rewritten/contract.js";
import type { FileLayout } from "../usdt/forms.js";
import { type ForkGuard, someOf, uncoveredWords } from "./fork-guard/fork-guard.js";
import { type Place, segmentShift } from "./place.js";
import type { PlacedProbe, Proposal } from "./proposal.js";
import { type Refusal, wordsOf } from "./refusal.js";
import type { MissingFrames } from "./unwind/missing.js";
import { isUniversal } from "./written-form.js";

/** What hazards are found in. */
interface HazardContext {
  readonly image: ElfImage;
  readonly layout: FileLayout;
  readonly proposals: readonly Proposal[];
  readonly place: Place | undefined;
  /** The rewritten probes, by their old locations. */
  readonly placed: ReadonlyMap<Vaddr, PlacedProbe>;
  /** Sites that were a bare nop5 already, and what is known of the bytes below rsp there. */
  readonly already: readonly { readonly location: Vaddr; readonly redZone: RedZone }[];
  /** Probes that were not rewritten, and that a kernel refuses for where they stand. */
  readonly refused: readonly Vaddr[];
  /** Why the process may fork, or undefined. */
  readonly wayToFork: string | undefined;
  /** It is known that it never does. */
  readonly neverForks: boolean;
  /** The fork guard, or undefined and perhaps a reason. */
  readonly guard: ForkGuard | undefined;
  readonly noGuard: string | undefined;
  /** Why there is no selector, where one is wanted, and so no universal probe. */
  readonly noSelector: string | undefined;
  /** Why probes are something plainer than universal, where all others are that. */
  readonly notUniversal: ReadonlyMap<Vaddr, Refusal>;
  /** The ways to fork that the guard does not see. */
  readonly uncovered: readonly string[];
  /** What probes cost that are reached by a jump over the bytes after them (tactics/punned.ts). */
  readonly costs: readonly SiteCost[];
  /** New code that stacks cannot be walked from, or undefined where there is none. */
  readonly missing: MissingFrames | undefined;
  /** Bytes after all that headers describe. */
  readonly trailing: number;
  /** Whether the output is anything but a copy: it may have a fork guard and no rewritten probe. */
  readonly changes: boolean;
}

export function hazardsOf(context: HazardContext): readonly Hazard[] {
  const hazards = [
    ...forkHazard(context),
    ...bareNop5Hazard(context),
    ...oldKernelHazard(context),
    ...slowHazard(context),
    ...detachHazard(context),
    ...refusedHazard(context),
    ...selfCheck(context),
  ];
  const ofProbes = (): Hazard[] => [...perfHazard(context), ...perfCacheHazard(context), ...staleRelocations(context)];
  return [
    ...hazards,
    ...(context.placed.size === 0 ? [] : ofProbes()),
    ...punnedHazard(context),
    ...unwindHazard(context),
    ...trailingData(context),
  ];
}

const count = (n: number): string => `${n} ${n === 1 ? "probe" : "probes"}`;

/** nop5 and nop,nop5 are both patched into a call by kernels that do harm: the second by way of libbpf. */
const makesNop5In = ({ placed }: HazardContext): boolean =>
  [...placed.values()].some(({ form }) => isUniversal(form) || writesRedZone(form.nop));

const KILLING = rangesWhere((kernel) => kernel.killsForkedChildren);
const OVERWRITING = rangesWhere((kernel) => kernel.writesRedZone);
const STEPPING = rangesWhere((kernel) => kernel.treats.nop5 === "stepped");
const REFUSING = rangesWhere((kernel) => kernel.acrossPages === "refused");
const TEARING = rangesWhere((kernel) => kernel.optimizes === "nop5" && kernel.tearsCalls !== null);
const DAMAGING = kernels.flatMap(({ damages }) => damages ?? []).join(", ");

/**
 * What decides a hazard of nop5: the layout, where this run wrote any; nothing, where all of them were there before.
 */
const way = (makesNop5: boolean, option: string): string =>
  makesNop5 ? option : "the probes were built so: no option changes them";

/** Of options by which no nop5 is made, and so no guard either. */
const GUARD_IS_TO_BE_HAD =
  "the probes were built so: no option changes them; --kernel 6.18 --layout auto gives them a fork guard";

function forkHazard(context: HazardContext): Hazard[] {
  const { already, wayToFork, neverForks, guard, noGuard, uncovered } = context;
  const makesNop5 = makesNop5In(context);
  if (neverForks || (!makesNop5 && already.length === 0)) return [];
  const effect = `on Linux ${KILLING} a forked child that has not called exec is killed at the first nop5 that its parent ran while traced`;
  const isUnasked = !makesNop5 && guard === undefined && noGuard === undefined;
  const option = isUnasked ? GUARD_IS_TO_BE_HAD : way(makesNop5, "--layout nop,nop10 is safe");
  if (guard !== undefined) {
    const hazards = uncountedHazard(guard, makesNop5);
    if (uncovered.length === 0) return hazards;
    return [{ code: "fork", message: `${effect}; ${uncoveredWords(uncovered)} (${option})` }, ...hazards];
  }
  const why = noGuard === undefined ? "" : `; there is no fork guard: ${noGuard}`;
  if (wayToFork === undefined)
    return [
      {
        code: "fork-in-library",
        message: `${effect}; the program itself shows no way to fork, but a library in its process might${why} (${option})`,
      },
    ];
  return [{ code: "fork", message: `${effect}, and ${wayToFork}${why} (${option})` }];
}

/** A mapping of one page cannot be split, and without that the kernel puts no breakpoint back. */
function uncountedHazard({ uncounted }: ForkGuard, makesNop5: boolean): Hazard[] {
  if (uncounted.length === 0) return [];
  return [
    {
      code: "fork-uncounted",
      message: `on Linux ${KILLING} ${count(uncounted.length)} in a segment of a single page (${someOf(uncounted)}) will not fire in children that were forked while the parent was traced (${way(makesNop5, "--layout nop,nop10 does")})`,
    },
  ];
}

/** Sites that had a nop5 before: they are as dangerous as any, and were not touched. */
function bareNop5Hazard({ already }: HazardContext): Hazard[] {
  const live = already.filter((a) => a.redZone !== "unused");
  if (live.length === 0) return [];
  const where = someOf(live.map((a) => a.location));
  return [
    {
      code: "red-zone",
      message: `${count(live.length)} had a bare nop5 already, where bytes below rsp are or may be needed (${where}): on Linux ${OVERWRITING} tracing them corrupts the program; no option changes them, they have to be built anew`,
    },
  ];
}

function oldKernelHazard({ placed, already }: HazardContext): Hazard[] {
  const makesBare = [...placed.values()].some(({ form }) => form.layout === "nop5");
  if (!makesBare && already.length === 0) return [];
  return [
    {
      code: "old-kernel",
      message: `kernels ${STEPPING} run a traced nop5 about ${STEPPING_FACTOR} times slower than the one-byte nop (${way(makesBare, "--layout nop,nop5 or nop,nop10 does not")})`,
    },
  ];
}

/** All kernels are asked for, and no byte can say which one it is, or not at every probe. */
function slowHazard({ layout, noSelector, notUniversal, placed }: HazardContext): Hazard[] {
  const plain = [...notUniversal].filter(([site]) => placed.has(site));
  if (plain.length > 0 && layout === "universal")
    return [
      {
        code: "not-universal",
        message: `Linux ${KILLING} traces ${count(plain.length)} by a trap, as before (${someOf(plain.map(([site]) => site))}): ${wordsOf(plain.map(([, refusal]) => refusal))} (--kernel 6.18 makes calls of them, and suits no other kernel)`,
      },
    ];
  if (noSelector === undefined || layout === "universal" || placed.size === 0) return [];
  return [
    {
      code: "not-universal",
      message: `Linux ${KILLING} traces these probes by a trap, as before: there can be no universal ones, ${noSelector} (--kernel 6.18 makes calls of them, and suits no other kernel)`,
    },
  ];
}

function detachHazard(context: HazardContext): Hazard[] {
  const { already } = context;
  const makesNop5 = makesNop5In(context);
  if (!makesNop5 && already.length === 0) return [];
  return [
    {
      code: "detach",
      message: `Linux ${DAMAGING} may leave a damaged instruction at a nop5 when its tracer goes (CVE-2026-72357), and ${TEARING} when two have traced it at the same time and another process of the file had no room near it (one tracer at a time is safe; usdt-nop5 doctor tries both; ${way(makesNop5, "--layout nop,nop10 is safe")})`,
    },
  ];
}

/** A nop10 in two pages; where it was to become another form, what stood in the way is the reason of its skipping. */
function refusedHazard({ refused, layout }: HazardContext): Hazard[] {
  if (refused.length === 0) return [];
  const option =
    layout === "nop,nop10" ? "--layout nop5 moves it where it stands after a nop" : "no option changes that";
  return [
    {
      code: "refused",
      message: `${count(refused.length)} had a nop10 already, and it lies in two pages (${someOf(refused)}): Linux ${REFUSING} refuse tracers that attach to it, as a libbpf does that knows them (${option})`,
    },
  ];
}

/** Sections that hold a signature or checksum of the file, by the names that signers give them. */
const signatures = /^\.(?:note\.)?(?:sig|signature|digsig|checksum|hmac|fips|rodata\.fips|sha256|md5)\b/;

function selfCheck({ image, changes }: HazardContext): Hazard[] {
  const section = image.sections.find((s) => signatures.test(s.name));
  if (section === undefined || !changes) return [];
  return [
    {
      code: "self-check",
      message: `section ${section.name} looks like a signature or checksum of the file, which no longer fits on any kernel (sign again, or leave the file out)`,
    },
  ];
}

/** perf adds to an address what .stapsdt.base has as offset - address: it must hold for the probe's segment too. */
function perfHazard({ image, place, placed }: HazardContext): Hazard[] {
  const base = sectionNamed(image, ".stapsdt.base");
  if (base === undefined)
    return [
      {
        code: "perf",
        message:
          "on every kernel perf cannot find these probes: the file has no section .stapsdt.base (nor could it before; no option changes that)",
      },
    ];
  const expected = base.sh_addr - base.sh_offset;
  const apart = place?.kind === "new segment" && place.p_vaddr - place.p_offset !== segmentShift(image) ? place : null;
  const shiftOf = (location: Vaddr): number => {
    const { p_vaddr, p_offset } =
      segmentAt(image, location) ?? (place?.kind === "rest of page" ? place.segment : place!);
    return p_vaddr - p_offset;
  };
  const lost = [...placed].filter(([, to]) => shiftOf(to.location) !== expected);
  if (lost.length === 0) return [];
  const before = lost.filter(([from]) => shiftOf(from) !== expected).length;
  const length = apart === null ? 0 : apart.p_vaddr - segmentShift(image) - apart.p_offset;
  const option =
    apart === null
      ? "no option changes that"
      : `--keep-offsets changes that: the file becomes ${length} bytes longer by a hole for .bss`;
  const was = before === lost.length ? "nor could it before" : `before, it could find ${lost.length - before} of them`;
  return [
    {
      code: "perf",
      message: `on every kernel perf cannot find ${count(lost.length)}: their segment and that of .stapsdt.base differ in p_vaddr - p_offset (${was}; ${option})`,
    },
  ];
}

/** The shortest build-id by which perf lists what is in its cache: an MD5. lld's default has 8 bytes. */
const PERF_BUILD_ID_SIZE = 16;

/** perf knows USDT probes by its cache alone, and what is in there by build-id. */
function perfCacheHazard({ image }: HazardContext): Hazard[] {
  const size = buildIdSize(image);
  if (size >= PERF_BUILD_ID_SIZE) return [];
  const effect =
    size === 0
      ? "perf cannot find these probes: the file has no build-id, by which its cache knows them"
      : `perf finds these probes by \`perf probe -x FILE\` alone: the file's build-id has ${size} bytes, of which its cache wants ${PERF_BUILD_ID_SIZE}`;
  return [
    {
      code: "perf-build-id",
      message: `on every kernel ${effect} (it was so before; no option changes that, link with --build-id=sha1)`,
    },
  ];
}

/** 0 where there is none, or a damaged one. */
function buildIdSize(image: ElfImage): number {
  try {
    return readBuildId(image)?.size ?? 0;
  } catch (error) {
    if (error instanceof InputError) return 0;
    throw error;
  }
}

/** Relocations that the linker kept (--emit-relocs) describe code that is no longer there. */
function staleRelocations({ image, proposals }: HazardContext): Hazard[] {
  let stale = 0;
  for (const section of image.sections) {
    if (section.sh_type !== elf.SHT_RELA || section.sh_flags & elf.SHF_ALLOC) continue;
    for (let at = 0; at + elf.RELA_SIZE <= section.sh_size; at += elf.RELA_SIZE) {
      const place = Number(image.view.getBigUint64(section.sh_offset + at, true));
      if (proposals.some((p) => place + 4 > p.window.start && place < p.window.end)) stale++;
    }
  }
  if (stale === 0) return [];
  return [
    {
      code: "stale-relocations",
      message: `${stale} relocations kept by the linker (--emit-relocs) lie in code that changed: tools that rewrite by them must not be used on the output, whatever the kernel (no option changes that; link without --emit-relocs)`,
    },
  ];
}

/** A jump that goes by bytes of other instructions: who writes there leads it elsewhere. */
function punnedHazard({ image, proposals, costs }: HazardContext): Hazard[] {
  const puns = proposals.filter((p) => p.tactic === "punned");
  if (puns.length === 0) return [];
  const sum = (of: (cost: SiteCost) => number): number => costs.reduce((all, cost) => all + of(cost), 0);
  const pages = sum((c) => c.pages);
  const reserved = image.header.e_type === elf.ET_EXEC ? "none of it reserved" : "reserved by whoever loads it";
  const price =
    costs.length === 0
      ? ""
      : `; the file reaches ${sum((c) => c.addressSpace)} bytes further in memory (${reserved}), and ${pages} ${pages === 1 ? "page is" : "pages are"} mapped there`;
  return [
    {
      code: "punned",
      message: `${count(puns.length)} became a jump whose distance is the bytes after it, one or four (${someOf(puns.map((p) => p.site))}): on every kernel a breakpoint or uprobe that somebody sets in these bytes, while the program passes the probe, leads it astray${price} (--only leaves probes out)`,
    },
  ];
}

/** Debuggers, profilers and exceptions find frames by what stands in .eh_frame. */
function unwindHazard({ missing }: HazardContext): Hazard[] {
  if (missing === undefined) return [];
  const { sites, reason, hasOthers, wantsSegment } = missing;
  const option = wantsSegment ? "--table-at-end makes room for one" : "no option changes that";
  const others = hasOthers ? ", and others for like reasons" : "";
  return [
    {
      code: "unwind",
      message: `on every kernel stacks cannot be walked from the new code of ${count(sites.length)} (${someOf(sites)}): ${reason}${others} (${option})`,
    },
  ];
}

function trailingData({ trailing, changes }: HazardContext): Hazard[] {
  if (trailing === 0 || !changes) return [];
  return [
    {
      code: "appended-data",
      message: `${trailing} bytes are appended after the file's own structures; they stay at their offset, and a copy stands at the end, whatever the kernel (no option changes that)`,
    },
  ];
}
