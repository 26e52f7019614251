/**
 * Programs in which something enters the bytes behind a site, each in one of the ways that a rewriter has to prove absent.
 *
 * For each: it is entered, and says so; overwriting the site without a proof breaks it (so the test can fail); rewritten by
 * the command it runs as before, its site either left alone, with a reason, or rewritten by a way that keeps it right.
 * The controls, where nothing is planted, survive the careless rewriter and must be rewritten.
 *
 * A plant is built with each of its link modes. Of the three ways to do so (two of gcc, one with another compiler and linker) each
 * has its turn from one to the next; LONG=1 takes all.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type RewrittenSite, rewrite } from "./command.js";
import { firstOfEach, SMOKE } from "./extent.js";
import { overwriteCarelessly } from "./fixtures/careless.js";
import { type PlantBuild, plantBuilds } from "./fixtures/plants.js";
import { crossesPage, instructionsAt, nop5 } from "./judges/code.js";
import { readNotes } from "./judges/notes.js";
import { type Outcome, run } from "./run.js";

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "usdt-plants-"));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** What a user of the program sees. A broken one may never end. */
async function seen(program: string): Promise<Pick<Outcome, "stdout" | "status" | "signal">> {
  const { stdout, status, signal } = await run(program, [], { timeout: 5_000 });
  return { stdout, status, signal };
}

async function built(plant: PlantBuild): Promise<string> {
  const result = await plant.build();
  if (!result.ok) throw new Error(`${result.because}\n${result.command}`);
  return result.path;
}

/** Each program checks itself; the one without a C library has only its exit status to say it with. */
const good = (build: PlantBuild): number => (build.name.includes(" bare ") ? 7 : 0);

function chosen(): readonly PlantBuild[] {
  if (process.env.LONG === "1") return plantBuilds();
  const groups = new Map<string, PlantBuild[]>();
  for (const build of plantBuilds()) {
    const [plant, link] = build.name.split(" ");
    const key = `${plant} ${link}`;
    groups.set(key, [...(groups.get(key) ?? []), build]);
  }
  if (SMOKE) return firstOfEach(plantBuilds(), ({ plant }) => plant.name);
  return [...groups.values()].map((ways, turn) => ways[turn % ways.length]!);
}

const builds = chosen();
const file = (build: PlantBuild, what: string): string => join(scratch, `${build.name.replaceAll(" ", "_")}.${what}`);

describe.concurrent("plants are real", () => {
  it.each(builds)("$name", { timeout: 300_000 }, async (build) => {
    const program = await built(build);
    const before = await seen(program);
    expect(before.status).toBe(good(build));
    const notes = await readNotes(program);
    expect(notes.length).toBeGreaterThan(0);

    for (const location of new Set(notes.map((note) => note.location))) {
      const output = file(build, "careless");
      if (build.plant.naive === "harmless") {
        const how = build.plant.name === "page-edge" ? "in place" : "displace";
        await overwriteCarelessly(program, output, how, location);
        expect(await seen(output)).toEqual(before);
        continue;
      }
      await overwriteCarelessly(program, output, build.plant.naive, location);
      const after = await seen(output);
      expect(after).not.toEqual(before);
      if (build.plant.straightSurvives) {
        expect(after.stdout.split("\n")[0]).toBe(before.stdout.split("\n")[0]);
      }
    }
  });
});

const outcomes: string[] = [];
afterAll(() => {
  // What became of each is worth a look even where all is well: a plant that is skipped for another reason proves little.
  if (process.env.SHOW_PLANTS !== undefined) console.log(outcomes.sort().join("\n"));
});

describe.concurrent("plants survive rewriting", () => {
  it.each(builds)("$name", { timeout: 300_000 }, async (build) => {
    const program = await built(build);
    const output = file(build, "rewritten");
    const before = await seen(program);
    const report = await rewrite(program, output);
    const notes = await readNotes(program);
    expect(report.sites.length).toBe(notes.length);
    for (const site of report.sites) {
      outcomes.push(`${build.name}: ${site.name} ${site.status} ${site.tactic ?? site.reason}`);
    }

    expect(await seen(output)).toEqual(before);
    await sitesAreAsReported(output, report.sites);
    if (build.plant.naive === "harmless") {
      expect(report.sites.map((site) => `${site.name} ${site.status}`)).toEqual(
        report.sites.map((site) => `${site.name} rewritten`),
      );
    }
  });
});

async function sitesAreAsReported(output: string, sites: readonly RewrittenSite[]): Promise<void> {
  const locations = sites.map((site) => BigInt(site.newLocation));
  const [notes, code] = await Promise.all([readNotes(output), instructionsAt(output, locations)]);
  expect(notes.map((note) => `${note.name} ${note.location}`).sort()).toEqual(
    sites.map((site, i) => `${site.name} ${locations[i]}`).sort(),
  );
  for (const site of sites) {
    const location = BigInt(site.newLocation);
    const bytes = code.get(location)?.bytes;
    if (site.status === "rewritten") {
      expect(bytes, site.name).toBe(nop5);
      expect(crossesPage(location), `${site.name} crosses a page`).toBe(false);
    } else {
      expect(bytes, site.name).toBe("90");
      expect(site.location).toBe(site.newLocation);
      expect(site.reason ?? "", `${site.name} has no reason`).not.toBe("");
    }
  }
}
