/** Runs a program with an event on each of its probes, and reads all their arguments at each hit, by readelf's word. */
import { readSegments } from "../judges/headers.js";
import { must } from "../run.js";
import { type EventDefinition, type Hit, record } from "./events.js";
import { type Addresses, type Fetched, fetchOf } from "./fetch.js";
import { places } from "./places.js";

export interface Reading {
  /** `name: value value ...` for each hit, in their order; `?` where tracefs cannot read an argument. */
  readonly hits: readonly string[];
  /** What the program printed. */
  readonly output: string;
}

/** @param step see `places` */
export async function readArguments(file: string, step = 0n): Promise<Reading> {
  const addresses = await addressesOf(file);
  const probes = (await places(file, step)).map(({ note, point }) => {
    const fetches = note.arguments.map((argument) => fetchOf(argument, note.location, addresses));
    const definition: EventDefinition = { ...point, fetches: fetches.flatMap((fetch) => fetch?.definitions ?? []) };
    return { name: note.name, fetches, definition };
  });
  const recording = record(probes.map((probe) => probe.definition));
  try {
    const output = await must("setarch", ["-R", file]);
    const line = ({ event, values }: Hit): string =>
      `${probes[event]!.name}: ${combine(probes[event]!.fetches, values).join(" ")}`;
    return { hits: recording.hits().map(line), output };
  } finally {
    recording.stop();
  }
}

/** Symbols with a value, by what nm says, and segments. */
async function addressesOf(file: string): Promise<Addresses> {
  const rows = (await must("nm", [file])).matchAll(/^([0-9a-f]+) \w (\S+)$/gm);
  return {
    symbols: new Map([...rows].map(([, value, name]) => [name!, BigInt(`0x${value}`)])),
    segments: await readSegments(file),
  };
}

function combine(fetches: readonly (Fetched | null)[], values: readonly string[]): readonly string[] {
  let at = 0;
  return fetches.map((fetch) => {
    if (fetch === null) return "?";
    at += fetch.definitions.length;
    return fetch.value(values.slice(at - fetch.definitions.length, at));
  });
}
