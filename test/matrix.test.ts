/**
 * Every fixture of the matrix: listed, rewritten, packaged, reverted, and judged by tools that share no code with this
 * project. One test a build; the expectations are soft, so that one run shows all that is wrong with it.
 *
 * Packaging steps go round, one for a build: they act on kinds of files, and each kind is there many times. LONG=1 takes all for each.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, describe, it, type TestContext } from "vitest";
import { list, type RewriteDocument, rewrite, usdtNop5 } from "./command.js";
import { buildEntry, type Entry, execute, matrix } from "./fixtures/matrix.js";
import { crossesPage, instructionsAt, nop5 } from "./judges/code.js";
import { sha256 } from "./judges/digest.js";
import { findingsOf, newFindings } from "./judges/findings.js";
import { perfFinds, readBuildId, readSections, readSegments } from "./judges/headers.js";
import { type Note, readNotes } from "./judges/notes.js";
import { packagingSteps } from "./packaging.js";

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "usdt-matrix-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** What a packaging step does to the input as well is no fault of the rewriting; it is shown, so that it is not forgotten. */
const alsoBreaksTheInput: string[] = [];
const tactics = new Map<string, number>();
afterAll(() => {
  const lines = [...tactics].sort((a, b) => b[1] - a[1]).map(([what, times]) => `${times} ${what}`);
  if (process.env.SHOW_TACTICS !== undefined) console.log(lines.join("\n"));
  if (alsoBreaksTheInput.length > 0) console.log(`also break the input:\n${alsoBreaksTheInput.sort().join("\n")}`);
});

type Expect = TestContext["expect"];
type Step = (typeof packagingSteps)[number];

/** The packaging steps that a build goes through. */
function stepsOf({ entry, turn }: Subject): readonly Step[] {
  const possible = packagingSteps.filter((step) => !(step.dynamicOnly && entry.way.link.startsWith("static")));
  return process.env.LONG === "1" ? possible : [possible[turn % possible.length]!];
}

/**
 * Each build that has two of compiler, optimization, link mode, linker and option together that no build before it had, and of each
 * fixture two. LONG=1 takes all builds, where each three of link mode, linker and option meet.
 */
function chosen(): readonly Entry[] {
  const seen = new Set<string>();
  const times = new Map<string, number>();
  return matrix().filter(({ fixture, way, impossible }) => {
    if (process.env.LONG === "1" || process.env.MATRIX === "full" || impossible !== null) return true;
    const words = Object.values(way);
    const pairs = words.flatMap((word, i) => words.slice(i + 1).map((other) => `${word} ${other}`));
    const before = times.get(fixture.name) ?? 0;
    if (before >= 2 && pairs.every((pair) => seen.has(pair))) return false;
    for (const pair of pairs) seen.add(pair);
    times.set(fixture.name, before + 1);
    return true;
  });
}

const entries = chosen();

describe.concurrent("matrix", () => {
  entries.forEach((entry, turn) => {
    if (entry.impossible !== null) {
      it.skip(`${entry.name}: ${entry.impossible}`);
      return;
    }
    it(entry.name, { timeout: 300_000 }, async ({ expect }) => {
      const built = await buildEntry(entry);
      if (!built.ok) throw new Error(`${built.because}\n${built.command}`);
      const folder = join(scratch, String(turn));
      const place = (stage: string): string => {
        mkdirSync(join(folder, stage), { recursive: true });
        return join(folder, stage, basename(built.path));
      };
      const subject: Subject = { entry, input: built.path, output: place("rewritten"), turn, place };
      try {
        await check(subject, expect);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
});

interface Subject {
  readonly entry: Entry;
  readonly input: string;
  readonly output: string;
  readonly turn: number;
  place(stage: string): string;
}

async function check(subject: Subject, expect: Expect): Promise<void> {
  const { entry, input, output } = subject;
  const [before, notes, findings, buildId] = await Promise.all([
    execute(entry, input),
    readNotes(input),
    findingsOf(input),
    readBuildId(input),
  ]);
  for (const seen of before) expect(seen, "the fixture itself runs").toMatch(/^[a-z].*\nexit \d+$/s);
  expect(notes.length).toBeGreaterThan(0);

  await listAgrees(input, notes, expect);
  const report = await rewrite(input, output);
  for (const site of report.sites) {
    const what = site.tactic ?? site.reason?.replace(/0x[0-9a-f]+/g, "N") ?? "";
    tactics.set(`${site.status} ${what}`, (tactics.get(`${site.status} ${what}`) ?? 0) + 1);
  }
  await sitesAreAsReported(output, notes, report, expect);
  await perfStillFinds(input, output, report, expect);
  expect.soft(await execute(entry, output), "runs as before").toEqual(before);
  const found = newFindings(findings, await findingsOf(output)).join("\n");
  expect.soft(found, "checkers find nothing new").toBe("");
  expect.soft(await readBuildId(output), "build-id").toBe(buildId);

  if (report.summary.rewritten === 0 && report.forkGuard?.installed !== true) {
    // A plain copy, which revert rightly does not know.
    expect.soft(sha256(output), "nothing was rewritten").toBe(sha256(input));
    return;
  }
  await packagingKeeps(subject, report, before, buildId, expect);
  await revertRestores(subject, expect);
  const again = subject.place("again");
  await rewrite(output, again);
  expect.soft(sha256(again), "a second rewrite changes nothing").toBe(sha256(output));
}

const hex = (address: bigint): string => `0x${address.toString(16)}`;

async function listAgrees(input: string, notes: readonly Note[], expect: Expect): Promise<void> {
  const line = (site: Omit<Note, "location" | "semaphore">, location: bigint, semaphore: bigint): string =>
    `${site.provider}:${site.name} ${hex(location)} ${hex(semaphore)} ${site.arguments.join(" ")}`;
  const listed = (await list(input)).map((site) => line(site, BigInt(site.location), BigInt(site.semaphore ?? 0)));
  expect.soft(listed.sort()).toEqual(notes.map((note) => line(note, note.location, note.semaphore)).sort());
}

async function sitesAreAsReported(
  output: string,
  before: readonly Note[],
  report: RewriteDocument,
  expect: Expect,
): Promise<void> {
  const names = (items: readonly { provider: string; name: string; location: bigint | string }[]): readonly string[] =>
    items.map((item) => `${item.provider}:${item.name} ${hex(BigInt(item.location))}`).sort();
  const moved = report.sites.map((site) => ({ ...site, location: site.newLocation }));
  const after = await readNotes(output);
  expect.soft(names(report.sites), "every note of the input is in the report").toEqual(names(before));
  expect.soft(names(after), "the notes say what the report says").toEqual(names(moved));
  const count = (status: string): number => report.sites.filter((site) => site.status === status).length;
  expect.soft(report.summary).toEqual({
    sites: before.length,
    rewritten: count("rewritten"),
    already: count("already"),
    skipped: count("skipped"),
  });
  // A guarded site's arguments may name another distance from rsp; nothing else of a note may change but its place.
  if (report.sites.every((site) => !site.guard)) {
    const rest = (items: readonly Note[]): readonly string[] =>
      items.map((item) => `${item.provider}:${item.name} ${hex(item.semaphore)} ${item.arguments.join(" ")}`).sort();
    expect.soft(rest(after), "arguments and semaphores").toEqual(rest(before));
  }
  const code = await instructionsAt(
    output,
    report.sites.map((site) => BigInt(site.newLocation)),
  );
  for (const site of report.sites) {
    const location = BigInt(site.newLocation);
    const label = `${site.provider}:${site.name} at ${site.newLocation}`;
    if (site.status === "rewritten") {
      expect.soft(code.get(location)?.bytes, label).toBe(nop5);
      expect.soft(crossesPage(location), `${label} crosses a page`).toBe(false);
    } else {
      expect.soft(site.newLocation, label).toBe(site.location);
      expect.soft(site.reason ?? "", `${label} has no reason`).not.toBe("");
      // A note of a function that the linker dropped points at no code.
      const bytes = code.get(location)?.bytes;
      if (bytes !== undefined) expect.soft(bytes, label).toBe("90");
    }
  }
}

/** perf goes by the section .stapsdt.base: a probe that it found before it finds again, or the report says so. */
async function perfStillFinds(input: string, output: string, report: RewriteDocument, expect: Expect): Promise<void> {
  const headers = (file: string) => Promise.all([readSections(file), readSegments(file)]);
  const [before, after] = await Promise.all([headers(input), headers(output)]);
  const lost = report.sites.filter(
    (site) => perfFinds(...before, BigInt(site.location)) && !perfFinds(...after, BigInt(site.newLocation)),
  );
  if (lost.length > 0) {
    const told = report.hazards.map((hazard) => hazard.code);
    expect.soft(told, `perf no longer finds ${lost.map((site) => site.name).join(", ")}`).toContain("perf");
    tactics.set("lost to perf, and reported", (tactics.get("lost to perf, and reported") ?? 0) + lost.length);
  }
}

/** What is left of a file's probes: by name and place, and whether nop5 is still there. */
async function probes(file: string, report: RewriteDocument): Promise<readonly string[]> {
  const [notes, code] = await Promise.all([
    readNotes(file),
    instructionsAt(
      file,
      report.sites.filter((site) => site.status === "rewritten").map((site) => BigInt(site.newLocation)),
    ),
  ]);
  return [
    ...notes.map((note) => `${note.provider}:${note.name} ${hex(note.location)}`).sort(),
    ...[...code].map(([location, instruction]) => `${hex(location)} ${instruction?.bytes}`).sort(),
  ];
}

async function packagingKeeps(
  subject: Subject,
  report: RewriteDocument,
  before: readonly string[],
  buildId: string | null,
  expect: Expect,
): Promise<void> {
  const { entry, output } = subject;
  const wanted = await probes(output, report);
  for (const step of stepsOf(subject)) {
    const packaged = subject.place(step.name.replace(" ", ""));
    let seen: unknown;
    try {
      await step.run(output, packaged);
      seen = {
        runs: await execute(entry, packaged),
        probes: await probes(packaged, report),
        id: await readBuildId(packaged),
      };
    } catch (error) {
      seen = error;
    }
    const good = { runs: before, probes: wanted, id: buildId };
    if (isDeepStrictEqual(seen, good)) continue;
    if (await breaksTheInput(subject, step, before)) alsoBreaksTheInput.push(`${step.name}: ${entry.name}`);
    else expect.soft(seen, `after ${step.name}`).toEqual(good);
  }
}

/** The same step on the input, asked the same questions. */
async function breaksTheInput(subject: Subject, step: Step, before: readonly string[]): Promise<boolean> {
  const packaged = subject.place(`input-${step.name.replace(" ", "")}`);
  const read = async (file: string): Promise<readonly string[]> => {
    const notes = await readNotes(file);
    const code = await instructionsAt(
      file,
      notes.map((note) => note.location),
    );
    return notes.map((note) => `${note.name} ${hex(note.location)} ${code.get(note.location)?.bytes}`);
  };
  try {
    await step.run(subject.input, packaged);
    const runs = await execute(subject.entry, packaged);
    return !isDeepStrictEqual([runs, await read(packaged)], [before, await read(subject.input)]);
  } catch {
    return true;
  }
}

async function revertRestores(subject: Subject, expect: Expect): Promise<void> {
  const { input, output, place, turn } = subject;
  const steps = stepsOf(subject);
  const reverted = place("reverted");
  const outcome = await usdtNop5("revert", output, "-o", reverted);
  expect.soft(outcome.status, outcome.stderr).toBe(0);
  expect.soft(existsSync(reverted) ? sha256(reverted) : "nothing written", "revert").toBe(sha256(input));

  // One of the packaging steps each, in turn: a file that is not exactly what rewrite wrote is refused.
  const step = steps[turn % steps.length]!;
  const packaged = place(step.name.replace(" ", ""));
  // Where the step failed there is no such file, which was reported above; where it found nothing to strip it is the same.
  if (!existsSync(packaged) || sha256(packaged) === sha256(output)) return;
  const refused = place("refused");
  const refusal = await usdtNop5("revert", packaged, "-o", refused);
  expect.soft(refusal.status, `revert after ${step.name}: ${refusal.stderr}`).toBe(1);
  expect.soft(refusal.stderr).not.toBe("");
  expect.soft(existsSync(refused), `revert after ${step.name} wrote something`).toBe(false);
}
