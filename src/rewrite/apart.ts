/**
 * Keeps the places of one probe apart. bcc tells places of one provider and name apart by their addresses modulo 4096
 * alone, and cannot attach to a probe two of whose places agree in that. Of probes with one note each that is chance,
 * and was before; universal ones have two, so it is seen to.
 */
import { PAGE_SIZE, type Vaddr } from "../address.js";
import { addTo } from "../grouped.js";
import type { UsdtNote } from "../usdt/notes.js";
import type { PlacedProbe } from "./proposal.js";

/** With more notes of one name there is no room for all in what 4096 bytes tell apart. */
export const MOST_OF_ONE_NAME = 256;

export class ProbeNames {
  readonly #namesAt = new Map<Vaddr, string[]>();
  readonly #sitesOf = new Map<string, Vaddr[]>();

  constructor(notes: readonly UsdtNote[]) {
    for (const { provider, name, location } of notes) {
      const full = `${provider}:${name}`;
      addTo(this.#namesAt, location, full);
      addTo(this.#sitesOf, full, location);
    }
  }

  /** Whether a site's names have so few places that two for each can be kept apart. */
  areFew(site: Vaddr): boolean {
    return this.of(site).every((name) => this.#sitesOf.get(name)!.length <= MOST_OF_ONE_NAME);
  }

  /** The names of the probes at a place of the input. */
  of(site: Vaddr): readonly string[] {
    return this.#namesAt.get(site) ?? [];
  }

  /** Where probes of a name are in the input. */
  sitesOf(name: string): readonly Vaddr[] {
    return this.#sitesOf.get(name) ?? [];
  }
}

/** A chunk moves up in such steps: two places of it in one 16-byte line each stay so. */
const STEP = 16;

/**
 * By how much each detour has to move up so that none of its places agrees, modulo 4096, with an earlier one of its name,
 * or one that stays; those after it move along. Infinity where no such place is left.
 */
export function gapsBetween<Proposal>(
  names: ProbeNames,
  chunks: readonly { readonly proposal: Proposal; readonly probes: readonly PlacedProbe[] }[],
): ReadonlyMap<Proposal, number> {
  const moved = new Set(chunks.flatMap(({ probes }) => probes.map(({ site }) => site)));
  const taken = new Map<string, Set<number>>();
  const takenOf = (name: string): Set<number> => {
    const known = taken.get(name) ?? new Set(stay(names, name, moved));
    taken.set(name, known);
    return known;
  };
  const gaps = new Map<Proposal, number>();
  let before = 0;
  for (const { proposal, probes } of chunks) {
    if (!probes.some(({ twin }) => twin !== undefined)) continue;
    const places = probes.flatMap(({ site, location, twin }) =>
      names.of(site).flatMap((name) => [location, ...(twin ? [twin.location] : [])].map((at) => ({ name, at }))),
    );
    const isFree = (by: number): boolean =>
      places.every(({ name, at }) => !takenOf(name).has((at + by) % PAGE_SIZE)) && !hasEqual(places);
    let gap = 0;
    while (gap < PAGE_SIZE && !isFree(before + gap)) gap += STEP;
    if (gap > 0) gaps.set(proposal, gap < PAGE_SIZE ? gap : Number.POSITIVE_INFINITY);
    if (gap === PAGE_SIZE) continue;
    before += gap;
    for (const { name, at } of places) takenOf(name).add((at + before) % PAGE_SIZE);
  }
  return gaps;
}

const stay = (names: ProbeNames, name: string, moved: ReadonlySet<Vaddr>): number[] =>
  names.sitesOf(name).flatMap((at) => (moved.has(at) ? [] : [at % PAGE_SIZE]));

const hasEqual = (places: readonly { readonly name: string; readonly at: Vaddr }[]): boolean =>
  new Set(places.map(({ name, at }) => `${at % PAGE_SIZE} ${name}`)).size < places.length;
