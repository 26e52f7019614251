/**
 * The real tracers as witnesses: perf, gdb, bpftrace, libbpf and readelf must see in a rewritten file the probes, the hits and the
 * arguments that they saw before, and that the program's own words say. For executables that may be anywhere and that may
 * not, for a static one and a library, by several linkers; with probes behind semaphores, several sites of one name, and one in a
 * red zone, which a nop5 can only have with a guard.
 *
 * perf takes a note's address for an offset in the file, but for what .stapsdt.base says: where a linker gives segments
 * different distances it finds nothing. Then the report of `rewrite` has to say so.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { fileOffset, perfFinds, readSections, readSegments } from "../judges/headers.js";
import { type Note, readNotes } from "../judges/notes.js";
import { skipBecause } from "../packages/skips.js";
import { run } from "../run.js";
import { bpftraceMissing, withBpftrace } from "./bpftrace.js";
import { gdbMissing, seenByGdb } from "./gdb.js";
import { cannotTrace } from "./kernel.js";
import { libbpfMissing, withLibbpf } from "./libbpf.js";
import { eventsOf, perfMissing, removeEvents, seenByPerf } from "./perf.js";
import { type Rewritten, scratch } from "./rewriting.js";
import {
  buildWitness,
  countsOf,
  EXPECTED,
  NAMES,
  OUTPUT,
  rewriteTarget,
  runTarget,
  type Seen,
  SITES,
  type Target,
  type Way,
} from "./witness.js";

const noUprobes = cannotTrace("tracers as witnesses");
const without = (tool: string, missing: () => string | null): boolean =>
  noUprobes || skipBecause(`tracers as witnesses: ${tool}`, missing());
const noPerf = without("perf", perfMissing);
const noGdb = without("gdb", gdbMissing);
const noBpftrace = without("bpftrace", bpftraceMissing);
const noLibbpf = without("libbpf", libbpfMissing);

const LONG = process.env.LONG === "1";

/** Every layout with LONG=1; else the two that differ most, and nop5 alone for what is linked in other ways. */
const layoutsFor = (way: Way): readonly string[] =>
  LONG ? ["nop5", "nop,nop5", "nop,nop10"] : way === ways[0] ? ["nop5", "nop,nop10"] : ["nop5"];

/** perf finds no probes by a short build-id, which lld gives where it is not told. */
const lld = ["-fuse-ld=lld", "-Wl,--build-id=sha1"];

const ways: readonly Way[] = [
  { title: "a PIE", flags: ["-pie", "-fPIE"] },
  { title: "an executable with fixed addresses", flags: ["-no-pie", "-fno-pie"] },
  { title: "a library", library: true, flags: [] },
  { title: "a PIE by lld", flags: lld },
];

/** Other linkers, other distances between segments; the static one has no dynamic section. */
const further: readonly Way[] = [
  { title: "a static executable", flags: ["-static"] },
  { title: "a PIE by lld, its segments in pages of their own", flags: [...lld, "-Wl,-z,separate-loadable-segments"] },
  { title: "a library by lld", library: true, flags: lld },
  { title: "a PIE by gold", flags: ["-fuse-ld=gold"] },
  { title: "a PIE by mold", flags: ["-fuse-ld=mold"] },
];

async function seenByBpftrace(target: Target): Promise<Seen> {
  const lengths = new Map((await readNotes(target.file)).map((note) => [note.name, note.arguments.length]));
  const probes = [...lengths].map(([name, length]) => {
    const values = Array.from({ length }, (_, i) => `, arg${i}`).join("");
    return {
      provider: target.provider,
      name,
      action: `printf("${name}${" %ld".repeat(length)}\\n"${values});`,
    };
  });
  let output = "";
  const printed = await withBpftrace(target.file, probes, async () => {
    output = await runTarget(target);
  });
  return {
    output,
    hits: printed
      .split("\n")
      .filter((line) => NAMES.includes(line.split(" ")[0]!))
      .sort(),
  };
}

/** libbpf's program keeps of each probe how often it was hit, and the arguments of the last time. */
const LAST: ReadonlyMap<string, string> = new Map([
  ["entered", "11 -33"],
  ["shared", "1011 11"],
  ["leaf", "1100 1"],
  ["wide", "2048 -11 -55 -11 -12 211"],
  ["gate", "11 -11"],
  ["fence", "45"],
  ["last", ""],
]);

async function expectSeenByLibbpf(target: Target, expected: readonly string[]): Promise<void> {
  const probes = NAMES.map((name) => `${target.provider}:${name}`);
  let output = "";
  const seen = await withLibbpf(target.file, probes, async () => {
    output = await runTarget(target);
  });
  expect(output).toBe(OUTPUT);
  const counts = countsOf(expected);
  const hits = NAMES.map((name) => `${name} ${seen.get(`${target.provider}:${name}`)?.hits}`);
  expect(hits.filter((line) => !line.endsWith(" 0")).sort()).toEqual(counts);
  for (const name of NAMES) {
    if (!counts.some((line) => line.startsWith(`${name} `))) continue;
    const last = LAST.get(name)!.split(" ").filter(Boolean);
    const filled = [...last, ...Array(12 - last.length).fill("0")];
    expect(seen.get(`${target.provider}:${name}`)?.arguments, name).toEqual(filled);
  }
}

/** Probes as readelf has them, without where they are: the same in a rewritten file, but for operands that go by a lowered rsp. */
async function notesOf({ file }: Target, report?: Rewritten): Promise<readonly string[]> {
  return (await readNotes(file)).map(({ provider, name, location, semaphore, arguments: list }) => {
    const guarded = report?.sites.find((site) => BigInt(site.newLocation) === location)?.guard === true;
    const words = list.map((argument) =>
      argument.replace(/(-?\d+)\(%rsp\)/, (_, n: string) => `${Number(n) - (guarded ? 128 : 0)}(%rsp)`),
    );
    return `${provider}:${name} ${words.join(" ")} ${semaphore === 0n ? "open" : "gated"}`;
  });
}

/** How often the places of these notes are passed, as `name hits`; whatever is never passed has 0. */
function countsAt(notes: readonly Note[]): readonly string[] {
  return NAMES.map((name) => {
    const at = notes.filter((note) => note.name === name).length;
    const all = EXPECTED.filter((hit) => hit.split(" ")[0] === name).length;
    // The four of shared are passed equally often; where one of gate is found, so is the other.
    return `${name} ${name === "shared" ? (all / 4) * at : at > 0 ? all : 0}`;
  }).sort();
}

/** Notes that perf's rule leads to the right place. */
async function findableByPerf({ file }: Target): Promise<{ notes: readonly Note[]; found: readonly Note[] }> {
  const [sections, segments, notes] = await Promise.all([readSections(file), readSegments(file), readNotes(file)]);
  return { notes, found: notes.filter((note) => perfFinds(sections, segments, note.location)) };
}

const PAGE = 4096n;

/**
 * Whether a process that starts while it is traced finds its semaphores raised. The kernel raises what it meets first: a writable
 * mapping that has the semaphore's page of the file in it. lld and mold let two segments share that page, the first of which is only
 * writable until the program has been relocated: there it is raised, and the program looks into the other.
 */
async function semaphoresRaised({ file }: Target): Promise<boolean> {
  const [segments, notes] = await Promise.all([readSegments(file), readNotes(file)]);
  const writable = segments.filter((segment) => segment.type === "LOAD" && segment.flags.includes("W"));
  return notes
    .filter((note) => note.semaphore !== 0n)
    .every(({ semaphore }) => {
      const offset = fileOffset(segments, semaphore, "W")!;
      const first = writable.find(
        (s) => offset / PAGE >= s.offset / PAGE && offset / PAGE <= (s.offset + s.fileSize - 1n) / PAGE,
      )!;
      return semaphore >= first.vaddr && semaphore < first.vaddr + first.fileSize;
    });
}

const gated = (hit: string): boolean => /^(?:gate|fence) /.test(hit);

/** What a tracer that is there before the program starts must see. */
const expectedOf = async (target: Target): Promise<readonly string[]> =>
  (await semaphoresRaised(target)) ? EXPECTED : EXPECTED.filter((hit) => !gated(hit));

function describeWay(way: Way): void {
  describe(way.title, () => {
    let before: Target;
    let targets: readonly { title: string; target: Target; report?: Rewritten }[];
    beforeAll(async () => {
      before = await buildWitness(way);
      const rewritten = await Promise.all(
        layoutsFor(way).map(async (layout) => ({
          title: layout,
          ...(await rewriteTarget(before, "--layout", layout)),
        })),
      );
      // What tracers must see is known without them: one look at what they see before is enough.
      targets = LONG || way === ways[0] ? [{ title: "as it was", target: before }, ...rewritten] : rewritten;
    });

    it("has the same probes by readelf, and all of them rewritten", async () => {
      const notes = await notesOf(before);
      expect(notes.length).toBe(SITES);
      expect(new Set(notes.map((note) => note.split(" ")[0])).size).toBe(NAMES.length);
      expect(notes.filter((note) => note.endsWith("gated")).length).toBe(3);
      for (const { title, target, report } of targets) {
        expect(await notesOf(target, report), title).toEqual(notes);
        expect(await runTarget(target), title).toBe(OUTPUT);
        if (report === undefined) continue;
        expect([title, report.layout, report.summary.rewritten]).toEqual([title, title, SITES]);
        // What is below rsp in leaf would be overwritten by a call: this is the guarded form.
        if (title !== "nop,nop10") expect(report.sites.find((site) => site.name === "leaf")?.guard, title).toBe(true);
      }
    });

    it.skipIf(noPerf)("is counted and read the same by perf, or the report says why not", async () => {
      for (const { title, target, report } of targets) {
        const { counts, output, recorded } = await seenByPerf(target, LONG || (way === ways[0] && title === "nop5"));
        const { notes, found } = await findableByPerf(target);
        // No file may lose what the one before had.
        expect(found.length, title).toBeGreaterThanOrEqual((await findableByPerf(before)).found.length);
        const raised = await semaphoresRaised(before);
        const passed = found.filter((note) => raised || note.semaphore === 0n);
        expect([title, output]).toEqual([title, OUTPUT]);
        expect(counts, title).toEqual(countsAt(passed));
        if (recorded !== null) {
          expect(recorded.output, title).toBe(OUTPUT);
          expect(countsOf(recorded.hits), title).toEqual(countsAt(passed).filter((line) => !line.endsWith(" 0")));
          const unknown = recorded.hits.filter((hit) => !EXPECTED.includes(hit));
          expect(unknown, title).toEqual([]);
          if (found.length === SITES && raised) expect(recorded.hits, title).toEqual(EXPECTED);
        }
        if (report !== undefined) {
          const lost = notes.length - found.length;
          const said = report.hazards.find((h) => h.code === "perf")?.message ?? "nothing";
          expect(report.hazards.map((h) => h.code)).not.toContain("perf-build-id");
          expect(said, title).toContain(lost === 0 ? "nothing" : `cannot find ${lost} probes`);
          if (lost > 0) expect(said, title).toContain("p_vaddr - p_offset");
        }
        expect(eventsOf(target.provider), title).toEqual([]);
      }
    });

    it.skipIf(noGdb)("is listed and read the same by gdb", async () => {
      for (const { title, target } of targets) {
        const seen = await seenByGdb(target);
        const notes = await readNotes(target.file);
        const bias =
          seen.listed.length === 0
            ? 0n
            : lowest(seen.listed.map((p) => p.where)) - lowest(notes.map((n) => n.location));
        // A semaphore is listed where it is in the file.
        const places = seen.listed.map((p) => `${p.name} ${p.where - bias} ${p.semaphore ?? 0n}`);
        expect(places.sort(), title).toEqual(notes.map((n) => `${n.name} ${n.location} ${n.semaphore}`).sort());
        expect(seen.hits, title).toEqual(EXPECTED);
        expect(seen.output, title).toBe(OUTPUT);
      }
    });

    it.skipIf(noBpftrace)("is read the same by bpftrace", async () => {
      for (const { title, target } of targets) {
        expect(await seenByBpftrace(target), title).toEqual({
          hits: await expectedOf(before),
          output: OUTPUT,
        });
      }
    });

    it.skipIf(noLibbpf)("is read the same by libbpf", async () => {
      for (const { target } of targets) await expectSeenByLibbpf(target, await expectedOf(before));
    });
  });
}

const lowest = (values: readonly bigint[]): bigint => values.reduce((least, value) => (value < least ? value : least));

describe.skipIf(noUprobes)("tracers as witnesses:", () => {
  for (const way of ways) describeWay(way);

  it.skipIf(noPerf).each([
    { id: "none", because: "has no build-id", places: 0 },
    { id: "0x1122334455667788", because: "build-id has 8 bytes", places: SITES },
  ])("perf does not find by name what has --build-id=$id, and the report says so", async ({ id, because, places }) => {
    const target = await buildWitness({ title: id, flags: [`-Wl,--build-id=${id}`] });
    const { target: rewritten, report } = await rewriteTarget(target, "--layout", "nop5");
    for (const { provider, file } of [target, rewritten]) {
      const folder = scratch("perf");
      const perf = (...args: readonly string[]) => run("perf", ["--buildid-dir", folder, ...args]);
      try {
        await perf("buildid-cache", "--add", file);
        expect((await perf("probe", "--quiet", "--force", `sdt_${provider}:*`)).status).not.toBe(0);
        expect(eventsOf(provider)).toEqual([]);
        // With the file's name it finds what has a build-id at all.
        await perf("probe", "--quiet", "--force", "-x", file, `%sdt_${provider}:*`);
        expect(eventsOf(provider).length).toBe(places);
      } finally {
        removeEvents(provider);
      }
    }
    expect(report.hazards.find((h) => h.code === "perf-build-id")?.message).toContain(because);
    expect(report.hazards.map((h) => h.code)).not.toContain("perf");
  });
});

describe.skipIf(noUprobes || !LONG)("tracers as witnesses, more linkers (LONG=1):", () => {
  for (const way of further) describeWay(way);
});
