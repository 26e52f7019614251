/**
 * What the user should know of the output before it is deployed.
 */
import type { Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, sectionNamed, segmentAt } from "../elf/image.js";
import type { Hazard } from "./contract.js";
import { type Place, segmentShift } from "./place.js";
import type { Proposal } from "./proposal.js";

/** What hazards are found in. */
export interface HazardContext {
  readonly image: ElfImage;
  readonly proposals: readonly Proposal[];
  readonly place: Place | undefined;
  /** New locations of rewritten probes, by the old ones. */
  readonly moved: ReadonlyMap<Vaddr, Vaddr>;
  /** Bytes behind all that headers describe. */
  readonly trailing: number;
}

export function hazardsOf(context: HazardContext): readonly Hazard[] {
  if (context.moved.size === 0) return [];
  return [...kernelHazards, ...perfHazard(context), ...staleRelocations(context), ...trailingData(context)];
}

/** What holds for every bare nop5; see the kernel table in the documentation. */
const kernelHazards: readonly Hazard[] = [
  {
    code: "red-zone",
    message:
      "on Linux 6.18 to 7.2 a traced nop5 writes to the 8 bytes below rsp; whether a function here still needs them is not checked yet",
  },
  {
    code: "fork",
    message:
      "on Linux 6.18 to 7.2 a forked child that has not called exec is killed when it runs a nop5 that its parent ran while it was traced",
  },
  {
    code: "old-kernel",
    message: "kernels before 6.18 run a traced nop5 about 2.9 times slower than the one-byte nop",
  },
];

/** perf adds to an address what .stapsdt.base has as offset - address: it must hold for the probe's segment too. */
function perfHazard({ image, place, moved }: HazardContext): Hazard[] {
  const base = sectionNamed(image, ".stapsdt.base");
  const count = (n: number): string => `${n} ${n === 1 ? "probe" : "probes"}`;
  if (base === undefined)
    return [
      {
        code: "perf",
        message: "perf cannot find these probes: the file has no section .stapsdt.base (nor could it before)",
      },
    ];
  const expected = base.sh_addr - base.sh_offset;
  const shiftOf = (location: Vaddr): number => {
    const inInput = segmentAt(image, location);
    const segment = inInput ?? (place?.kind === "rest of page" ? place.segment : undefined);
    return segment === undefined ? segmentShift(image) : segment.p_vaddr - segment.p_offset;
  };
  const lost = [...moved].filter(([, to]) => shiftOf(to) !== expected);
  if (lost.length === 0) return [];
  const before = lost.filter(([from]) => shiftOf(from) !== expected).length;
  const was = before === lost.length ? "nor could it before" : `before, it could find ${lost.length - before} of them`;
  return [
    {
      code: "perf",
      message: `perf cannot find ${count(lost.length)}: their segment and that of .stapsdt.base differ in p_vaddr - p_offset (${was})`,
    },
  ];
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
      message: `${stale} relocations kept by the linker (--emit-relocs) lie in code that changed: tools that rewrite by them must not be used on the output`,
    },
  ];
}

function trailingData({ trailing }: HazardContext): Hazard[] {
  if (trailing === 0) return [];
  return [
    {
      code: "appended-data",
      message: `${trailing} bytes are appended behind the file's own structures; they stay at the end, at another offset`,
    },
  ];
}
