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

/** The detours with a place that agrees, modulo 4096, with an earlier one of its name, or one that stays. */
export function agreeing<Proposal>(
  names: ProbeNames,
  chunks: readonly { readonly proposal: Proposal; readonly probes: readonly PlacedProbe[] }[],
): readonly Proposal[] {
  const moved = new Set(chunks.flatMap(({ probes }) => probes.map(({ site }) => site)));
  const taken = new Map<string, Set<number>>();
  const found: Proposal[] = [];
  for (const { proposal, probes } of chunks) {
    if (!probes.some(({ twin }) => twin !== undefined)) continue;
    const places = probes.flatMap(({ site, location, twin }) =>
      names.of(site).flatMap((name) => [location, ...(twin ? [twin.location] : [])].map((at) => ({ name, at }))),
    );
    const takenOf = (name: string): Set<number> => {
      const known = taken.get(name) ?? new Set(stay(names, name, moved));
      taken.set(name, known);
      return known;
    };
    const agrees = places.some(({ name, at }) => takenOf(name).has(at % PAGE_SIZE)) || hasEqual(places);
    if (agrees) found.push(proposal);
    for (const { name, at } of places) takenOf(name).add(at % PAGE_SIZE);
  }
  return found;
}

const stay = (names: ProbeNames, name: string, moved: ReadonlySet<Vaddr>): number[] =>
  names.sitesOf(name).flatMap((at) => (moved.has(at) ? [] : [at % PAGE_SIZE]));

const hasEqual = (places: readonly { readonly name: string; readonly at: Vaddr }[]): boolean =>
  new Set(places.map(({ name, at }) => `${at % PAGE_SIZE} ${name}`)).size < places.length;
