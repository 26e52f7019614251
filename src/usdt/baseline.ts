/**
 * What `list --json` printed of files at another time, read back: how many probes each had. It is a file of a stranger, and
 * may hold anything.
 *
 * Of a universal probe the document has two entries, one a note, each with the place of the other: it counts once. An
 * entry whose instruction says, in parentheses, that there is no code was no probe that anybody could hit, and counts
 * for none.
 */
import { InputError } from "../errors.js";
import { type Expectation, expectationOf } from "./expected.js";
import { saysNoCode } from "./sites.js";

export interface Baseline {
  /** In the order of the document; a path may be there only once. */
  readonly files: ReadonlyMap<string, readonly Expectation[]>;
}

/** More than a list of a million probes takes, in bytes. */
const LARGEST_BASELINE = 2 ** 28;

/**
 * Reads such a document.
 * @throws InputError where it is none
 */
export function parseBaseline(bytes: Uint8Array): Baseline {
  if (bytes.length > LARGEST_BASELINE) throw new InputError(`larger than ${LARGEST_BASELINE} bytes`);
  let told: unknown;
  try {
    told = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new InputError("is no JSON document");
  }
  const document = recordOf(told, "the document");
  if (document.schemaVersion !== 1) throw unlike("schemaVersion");
  const files = new Map<string, readonly Expectation[]>();
  for (const [i, entry] of listOf(document.files, "files").entries()) {
    const where = `files[${i}]`;
    const { path, sites } = recordOf(entry, where);
    const named = textOf(path, `${where}.path`);
    if (files.has(named)) throw new InputError("has a file twice", `${where}.path`);
    files.set(named, expectationsOf(listOf(sites, `${where}.sites`), `${where}.sites`));
  }
  return { files };
}

interface Tally {
  readonly provider: string;
  readonly name: string;
  alone: number;
  /** Entries that have another place: two a probe. */
  paired: number;
}

function expectationsOf(sites: readonly unknown[], where: string): readonly Expectation[] {
  // Providers and names may be anything: no separator tells them apart.
  const tallies = new Map<string, Map<string, Tally>>();
  for (const [i, entry] of sites.entries()) {
    const at = `${where}[${i}]`;
    const site = recordOf(entry, at);
    const [provider, name, instruction] = ["provider", "name", "instruction"].map((key) =>
      textOf(site[key], `${at}.${key}`),
    ) as [string, string, string];
    // Lists of version 0.1 knew no twins.
    const isPaired = site.twin !== undefined && site.twin !== null;
    if (isPaired && !/^0x[0-9a-f]{1,16}$/.test(textOf(site.twin, `${at}.twin`))) throw unlike(`${at}.twin`);
    if (saysNoCode(instruction)) continue;
    const names = tallies.get(provider) ?? new Map<string, Tally>();
    const tally = names.get(name) ?? { provider, name, alone: 0, paired: 0 };
    if (isPaired) tally.paired++;
    else tally.alone++;
    tallies.set(provider, names.set(name, tally));
  }
  return [...tallies.values()].flatMap((names) =>
    [...names.values()].map(({ provider, name, alone, paired }) => {
      if (paired % 2 !== 0) throw new InputError(`has one place of ${provider}:${name} without its twin`, where);
      return expectationOf(provider, name, alone + paired / 2);
    }),
  );
}

const unlike = (where: string): InputError => new InputError("is not what list --json prints", where);

function recordOf(value: unknown, where: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw unlike(where);
  return value as Readonly<Record<string, unknown>>;
}

function listOf(value: unknown, where: string): readonly unknown[] {
  if (!Array.isArray(value)) throw unlike(where);
  return value as readonly unknown[];
}

function textOf(value: unknown, where: string): string {
  if (typeof value !== "string") throw unlike(where);
  return value;
}
