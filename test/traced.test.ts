/**
 * Real uprobes on fixtures, before and after rewriting: every site is hit as often as it was, by the kernel's own count,
 * and the traced program does what it did.
 *
 * Built with -mno-red-zone: on Linux 6.18 to 7.1 a traced nop5 overwrites what a function keeps below the stack pointer,
 * and `--layout nop5` takes that risk on request. Without red zones none of it is left, so nothing else may differ.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { rewrite } from "./command.js";
import { buildEntry, type Entry, execute, matrix } from "./fixtures/matrix.js";
import { fileOffset, readSegments } from "./judges/headers.js";
import { type Note, readNotes } from "./judges/notes.js";
import { attach, uprobesMissing } from "./packages/uprobes.js";

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "usdt-traced-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/**
 * The first way of each fixture in each of these link modes: linkers, compilers and options differ from one to the next. With
 * LONG=1 all of these, else one of each fixture, of the link modes by turns.
 */
function sample(): readonly Entry[] {
  const seen = new Set<string>();
  const first = matrix().filter((entry) => {
    const kind = `${entry.fixture.name} ${entry.way.link}`;
    if (entry.impossible !== null || entry.way.link === "static" || seen.has(kind)) return false;
    seen.add(kind);
    return true;
  });
  if (process.env.LONG === "1") return first;
  return [...new Set(first.map((entry) => entry.fixture))].map((fixture, turn) => {
    const ways = first.filter((entry) => entry.fixture === fixture);
    return ways[turn % ways.length]!;
  });
}

/** Hits at each note's place, and what the program showed meanwhile. */
async function traced(entry: Entry, file: string, notes: readonly Note[]) {
  const segments = await readSegments(file);
  const semaphores = new Map(notes.map((note) => [note.location, note.semaphore]));
  // Two notes at one place are one probe; a note that a linker left behind without its function has no place at all.
  const places = [...semaphores].flatMap(([location, semaphore]) => {
    const offset = fileOffset(segments, location, "E");
    if (offset === null) return [];
    const refCtrOffset = semaphore === 0n ? null : fileOffset(segments, semaphore, "W");
    return [
      {
        location,
        point: {
          path: file,
          offset: Number(offset),
          ...(refCtrOffset === null ? {} : { refCtrOffset: Number(refCtrOffset) }),
        },
      },
    ];
  });
  const probes = attach(places.map((place) => place.point));
  try {
    const seen = await execute(entry, file);
    const hits = probes.hits();
    const byPlace = new Map(places.map((place, i) => [place.location, hits[i]!]));
    return { seen, hits: (location: bigint): number | null => byPlace.get(location) ?? null };
  } finally {
    probes.detach();
  }
}

const missing = uprobesMissing();

describe.skipIf(missing !== null)(`uprobes on fixtures${missing === null ? "" : ` (${missing})`}`, () => {
  for (const entry of sample()) {
    if (entry.fixture.name === "forks") {
      it.skip(`${entry.name}: Linux 6.18 to 7.1 kill a forked child at a bare nop5 that its parent was traced at`);
      continue;
    }
    it(entry.name, { timeout: 300_000 }, async () => {
      const built = await buildEntry(entry, ["-mno-red-zone"]);
      if (!built.ok) throw new Error(built.because);
      const folder = join(scratch, entry.name.replaceAll(" ", "_"));
      mkdirSync(folder);
      const output = join(folder, basename(built.path));
      const report = await rewrite(built.path, output);
      const [notesBefore, notesAfter] = await Promise.all([readNotes(built.path), readNotes(output)]);
      const before = await traced(entry, built.path, notesBefore);
      const after = await traced(entry, output, notesAfter);

      const line = (site: (typeof report.sites)[number], hits: number | null): string =>
        `${site.name} ${site.location} ${hits}`;
      expect(report.sites.map((site) => line(site, after.hits(BigInt(site.newLocation))))).toEqual(
        report.sites.map((site) => line(site, before.hits(BigInt(site.location)))),
      );
      expect(
        report.sites.some((site) => (before.hits(BigInt(site.location)) ?? 0) > 0),
        "some site was passed",
      ).toBe(true);
      expect(after.seen).toEqual(before.seen);
    });
  }
});
