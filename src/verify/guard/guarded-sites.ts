/**
 * What a guard has to look at: every nop5 of a file that the kernel may turn into a call, by pages.
 */
import { alignUp, PAGE_SIZE, pageStart, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation } from "../../elf/dynamic.js";
import { type ElfImage, type ProgramHeader, segmentAt } from "../../elf/image.js";
import { readUsdtNotes } from "../../usdt/notes.js";
import { codeFrom, probeInstruction } from "../../usdt/sites.js";
import type { Guarded, GuardedPage, GuardedSite } from "./kernel.js";

const WORD = 8;

/**
 * The nop5 of each probe, where it lies in one page.
 * @param twins those that run only where the selector says so
 */
export function guardedSites(image: ElfImage, twins: ReadonlySet<number>): Guarded {
  const found = new Set<number>();
  for (const { location } of readUsdtNotes(image)) {
    const code = codeFrom(image, location);
    const instruction = code === null ? null : probeInstruction(code);
    if (instruction === "nop5") found.add(location);
    if (instruction === "nop,nop5") found.add(location + 1);
  }
  const pages: { address: number; sites: number[] }[] = [];
  const sites: GuardedSite[] = [];
  for (const address of [...found].sort((a, b) => a - b)) {
    if ((address % PAGE_SIZE) + 5 > PAGE_SIZE) continue;
    if (pages.at(-1)?.address !== pageStart(address)) pages.push({ address: pageStart(address), sites: [] });
    pages.at(-1)!.sites.push(sites.length);
    sites.push({ address, page: pages.length - 1 });
  }
  const relocated = relocatedPages(image);
  return {
    sites,
    runsUnselected: sites.some(({ address }) => !twins.has(address)),
    pages: pages.map((page): GuardedPage => {
      const segment = segmentAt(image, vaddr(sites[page.sites[0]!]!.address))!;
      const isMapped = (p: ProgramHeader): boolean =>
        p.p_type === elf.PT_LOAD &&
        pageStart(p.p_vaddr) <= page.address &&
        alignUp(p.p_vaddr + p.p_memsz, PAGE_SIZE) > page.address;
      return {
        ...page,
        mapping: segment.index,
        isPrivate:
          relocated.has(page.address) || image.programHeaders.some((p) => isMapped(p) && (p.p_flags & elf.PF_W) !== 0),
        canSplit: alignUp(segment.p_vaddr + segment.p_memsz, PAGE_SIZE) - pageStart(segment.p_vaddr) > PAGE_SIZE,
      };
    }),
  };
}

/** Pages that the loader writes to. */
function relocatedPages(image: ElfImage): ReadonlySet<number> {
  const pages = new Set<number>();
  forEachRelocation(image, (place) => {
    pages.add(pageStart(place));
    pages.add(pageStart(place + WORD - 1));
  });
  return pages;
}
