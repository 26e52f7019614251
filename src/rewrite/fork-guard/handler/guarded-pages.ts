/**
 * What a fork guard has to look at: nop5 sites, by the pages and the mappings that they lie in; and the two tables that
 * its code reads them from.
 *
 *     sites    u32 each: distance from the first site, ascending
 *     pages    u32 distance of the page from the first site's page, its low 12 bits: flags
 *              u32 how many sites it has
 */
import { hex, PAGE_SIZE, pageStart, type Vaddr } from "../../../address.js";
import { NOP5 } from "../../../x86/bytes.js";

/** Sites that the loader maps with one PT_LOAD. */
export interface GuardedMapping {
  /** Link-time addresses of nop5 instructions, in any order; none crosses a page boundary. */
  readonly sites: readonly Vaddr[];
  /**
   * Link-time addresses of pages that have other bytes in memory than in the file, the sites apart: those that carry
   * relocations, or that the program itself writes to. What is not a page with sites is ignored.
   */
  readonly privatePages: ReadonlySet<Vaddr>;
}

/** The bytes of the page in memory are not all those of the file. */
export const PAGE_PRIVATE = 1;
/** The first page with sites of its mapping. */
export const PAGE_FIRST = 2;

export const SITE_ENTRY = 4;
export const PAGE_ENTRY = 8;

export interface GuardedPages {
  readonly firstSite: Vaddr;
  readonly firstPage: Vaddr;
  readonly siteCount: number;
  readonly pageCount: number;
  readonly siteTable: readonly number[];
  readonly pageTable: readonly number[];
}

/**
 * Both tables.
 * @throws RangeError where there is no site, one is given twice or crosses a page boundary, two mappings share a page,
 * or the sites are 4 GiB apart or more
 */
export function guardedPages(mappings: readonly GuardedMapping[]): GuardedPages {
  const pages = new Map<Vaddr, { sites: Vaddr[]; flags: number; mapping: number }>();
  mappings.forEach(({ sites, privatePages }, mapping) => {
    let first = true;
    for (const site of [...sites].sort((a, b) => a - b)) {
      const address = pageStart(site);
      if (site + NOP5.length > address + PAGE_SIZE) throw new RangeError(`the site at ${hex(site)} crosses a page`);
      const page = pages.get(address);
      if (page === undefined) {
        const flags = (privatePages.has(address) ? PAGE_PRIVATE : 0) | (first ? PAGE_FIRST : 0);
        pages.set(address, { sites: [site], flags, mapping });
        first = false;
        continue;
      }
      if (page.mapping !== mapping) throw new RangeError(`two mappings share the page at ${hex(address)}`);
      if (page.sites.at(-1) === site) throw new RangeError(`the site at ${hex(site)} is given twice`);
      page.sites.push(site);
    }
  });
  const sorted = [...pages].sort(([a], [b]) => a - b);
  const all = sorted.flatMap(([, page]) => page.sites);
  const firstSite = all[0];
  if (firstSite === undefined) throw new RangeError("a guard needs a site");
  const firstPage = pageStart(firstSite);
  if (all.at(-1)! - firstSite >= 2 ** 32) throw new RangeError("the sites are too far from each other for one guard");
  return {
    firstSite,
    firstPage,
    siteCount: all.length,
    pageCount: sorted.length,
    siteTable: all.map((site) => site - firstSite),
    pageTable: sorted.flatMap(([page, { sites, flags }]) => [page - firstPage + flags, sites.length]),
  };
}
