/**
 * Real loads with a uprobe on every site: postgres under pgbench, a Java program that passes what can be passed of libjvm.so with
 * the extended probes on. Hits must be those of the unrewritten file within the noise of the load, which two runs of the unrewritten file
 * show; and every rewritten site that was hit must have been seen as a call in the memory of a process.
 *
 * The probes of postgres are attached once the server is up (from its start on: test/forks/postgres.test.ts). A short load; LONG=1 takes
 * ten times as many transactions, and Java, which runs for ten seconds when every method is traced.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { CallWatch } from "./calls.js";
import { corpus, FETCH_TIMEOUT, fetchPackages, libraryPath } from "./corpus.js";
import { compileJava, type JavaImage, javaImage } from "./java.js";
import { type Installation, install, Server } from "./postgres.js";
import { start } from "./scratch.js";
import { attachAll, type SiteHits } from "./sites.js";
import { skipBecause } from "./skips.js";
import { makeTwins, type Twins } from "./twins.js";

const LONG = process.env.LONG === "1";

/** How far a probe's hits may be from those of the two unrewritten runs, as a share of them or as a number, whichever is more. */
interface Noise {
  readonly share: number;
  readonly few: number;
}

/** Postgres's probes of sessions that wait for each other. */
const WAITING = /wait__(?:start|done)$|__fail$/;

const EXACT: Noise = { share: 0, few: 0 };
/** Chance alone: two runs do not show how far it goes. */
const ANY: Noise = { share: Number.POSITIVE_INFINITY, few: 0 };

/** Hits outside of what two unrewritten runs and the noise leave room for. */
function outOfNoise(
  first: readonly SiteHits[],
  second: readonly SiteHits[],
  rewritten: readonly SiteHits[],
  noiseOf: (probe: string) => Noise,
): readonly string[] {
  return rewritten.flatMap(({ probe, hits }, i) => {
    const [a, b] = [first[i]!.hits, second[i]!.hits];
    const { share, few } = noiseOf(probe);
    const room = share === 0 ? 0 : Math.max(2 * Math.abs(a - b), share * Math.max(a, b), few);
    return hits < Math.min(a, b) - room || hits > Math.max(a, b) + room ? [`${probe}: ${a}, ${b}, but ${hits}`] : [];
  });
}

/**
 * Rewritten sites that were hit and never seen as a call. A wait that came a few times may have been in processes that ended
 * before they were looked at again; that is no excuse for any other site.
 */
const hitButNoCall = (twins: Twins, hits: readonly SiteHits[], calls: readonly boolean[]): readonly string[] =>
  hits
    .filter(
      (h, i) => h.hits > (WAITING.test(h.probe) ? 10 : 0) && twins.report.sites[i]!.status === "rewritten" && !calls[i],
    )
    .map((h) => `${h.probe}: ${h.hits} hits`);

function table(title: string, columns: readonly (readonly SiteHits[])[], calls: readonly boolean[]): string {
  const lines = columns[0]!.map(({ probe }, i) => {
    const numbers = columns.map((column) => String(column[i]!.hits).padStart(9)).join("");
    return `  ${probe.padEnd(42)}${numbers}${calls[i] ? "  call" : ""}`;
  });
  return [title, ...lines.filter((line) => !/^ +\S+( +0)+$/.test(line))].join("\n");
}

const since = (later: readonly SiteHits[], earlier: readonly SiteHits[]): readonly SiteHits[] =>
  later.map((h, i) => ({ probe: h.probe, hits: h.hits - earlier[i]!.hits }));

describe.skipIf(cannotOptimize("real loads: postgres"))("postgres under pgbench, all 71 probes attached", () => {
  const script = readFileSync(new URL("programs/sites.sql", import.meta.url), "utf8");
  const transactions = LONG ? 2000 : 200;

  interface Run {
    /** Of loading the tables and one client. */
    readonly one: readonly SiteHits[];
    readonly four: readonly SiteHits[];
    /** Of all, with the session if there is one. */
    readonly all: readonly SiteHits[];
    readonly calls: readonly boolean[];
    readonly rates: readonly string[];
  }

  /** @param session whether there is one that passes the rarer sites and lives until it has been looked at */
  async function load(at: Installation, session: boolean): Promise<Run> {
    const server = await Server.start(at);
    const starting = server.log.length;
    const file = path.join(at.bin, "postgres");
    const probes = attachAll(file);
    const watch = new CallWatch(file, () => server.processes);
    watch.start(50);
    const rates: string[] = [];
    const bench = async (...args: readonly string[]): Promise<readonly SiteHits[]> => {
      const { status, stdout, stderr } = await server.pgbench(...args);
      expect(status, stderr).toBe(0);
      if (!args.includes("-i")) expect(stdout).toMatch(/number of failed transactions: 0 /);
      const rate = /tps = (\d+)/.exec(stdout)?.[1];
      if (rate !== undefined) rates.push(rate);
      return probes.perSite();
    };
    try {
      await bench("-i", "-s", "1", "-q");
      const one = await bench("-n", "-c", "1", "-t", `${transactions}`, "--random-seed=42", "-M", "prepared");
      const four = await bench("-n", "-c", "4", "-j", "2", "-t", `${transactions / 4}`, "--random-seed=42");
      expect(server.log.slice(starting)).not.toMatch(/ERROR|FATAL|PANIC|signal/);
      const end = session ? await server.session(script) : undefined;
      const all = probes.perSite();
      watch.look();
      await end?.();
      // The script makes some errors, which postgres.test.ts compares.
      expect(server.log.slice(starting)).not.toMatch(/FATAL|PANIC|signal/);
      return { one, four: since(four, one), all, calls: watch.calls, rates };
    } finally {
      watch.stop();
      await server.stop();
      probes.detach();
      expect(await server.stop(), server.log.slice(-2000)).toBe(0);
    }
  }

  /** What the transactions decide alone; the rest depends on what is still in memory, and on who waits for whom. */
  const repeatable = /:(?:query__|transaction__|statement__status|sort__)/;
  const noise =
    (share: number) =>
    (probe: string): Noise => {
      if (repeatable.test(probe)) return EXACT;
      // A lock that is tried without waiting is had or not as the server's own processes come by: 2 % apart in a run of three here.
      const ofChance = /:lwlock__condacquire$/.test(probe) ? Math.max(share, 0.1) : share;
      return WAITING.test(probe) ? ANY : { share: ofChance, few: 20 };
    };
  const total = (hits: readonly SiteHits[], probe: RegExp): number =>
    hits.filter((h) => probe.test(h.probe)).reduce((sum, h) => sum + h.hits, 0);

  it(
    `counts the same in ${transactions} transactions of one client and as many of four, by calls`,
    async () => {
      fetchPackages();
      const twins = await makeTwins(corpus.postgres);
      try {
        const first = await load(install(twins.scratch, "first", twins.original), false);
        const second = await load(install(twins.scratch, "second", twins.original), false);
        const rewritten = await load(install(twins.scratch, "rewritten", twins.rewritten), true);
        const columns = (pick: (r: Run) => readonly SiteHits[]) => [first, second, rewritten].map(pick);
        const passed = rewritten.all.filter((h) => h.hits > 0).length;
        console.log(
          [
            table(
              "postgres, one client: unrewritten, unrewritten, rewritten",
              columns((r) => r.one),
              rewritten.calls,
            ),
            table(
              "postgres, four clients",
              columns((r) => r.four),
              rewritten.calls,
            ),
            `transactions a second with all probes attached, one client and four: unrewritten ${first.rates}, unrewritten ${second.rates}, rewritten ${rewritten.rates}`,
            `${passed} of ${rewritten.all.length} sites hit, ${rewritten.calls.filter(Boolean).length} seen as calls`,
          ].join("\n"),
        );
        expect(outOfNoise(first.one, second.one, rewritten.one, noise(0.02))).toEqual([]);
        // How often sessions wait is chance; that they do, and that each wait ends, is not.
        for (const { four } of [first, second, rewritten]) {
          expect(total(four, /:lock__wait__start$/)).toBeGreaterThan(0);
          expect(total(four, /wait__done$/)).toBe(total(four, /wait__start$/));
        }
        expect(outOfNoise(first.four, second.four, rewritten.four, noise(0.1))).toEqual([]);
        expect(hitButNoCall(twins, rewritten.all, rewritten.calls)).toEqual([]);
        expect(passed).toBeGreaterThanOrEqual(60);
        // Nothing that is not rewritten becomes a call: what is looked for is not just there.
        expect(first.calls.filter(Boolean)).toEqual([]);
      } finally {
        twins.scratch.remove();
      }
    },
    FETCH_TIMEOUT + 300_000,
  );
});

const noJava = cannotOptimize("real loads: Java") || skipBecause("real loads: Java", LONG ? null : "LONG=1 runs it");

describe.skipIf(noJava)("libjvm.so under java, all 531 probes attached (LONG=1)", () => {
  const source = fileURLToPath(new URL("programs/Busy.java", import.meta.url));

  interface Run {
    readonly hits: readonly SiteHits[];
    readonly calls: readonly boolean[];
    readonly seconds: number;
    readonly said: string;
    readonly ending: string;
  }

  /** Busy with something to read, for whose end it waits: until then its memory can be looked at. */
  async function busy(image: JavaImage, classes: string): Promise<Run> {
    const probes = attachAll(image.libjvm);
    const flags = ["-XX:+UseSerialGC", "-XX:+ExtendedDTraceProbes", "-Xmx48m", "-Xms24m"];
    const began = performance.now();
    const java = start(image.java, [...flags, "-cp", classes, "Busy", "stay"], { env: libraryPath() });
    const timer = setTimeout(() => java.kill("SIGKILL"), 120_000);
    const watch = new CallWatch(image.libjvm, () => [java.pid!]);
    watch.start(50);
    let [said, complained] = ["", ""];
    java.stderr?.on("data", (chunk: Buffer) => (complained += chunk.toString("utf8")));
    const ended = new Promise<string>((resolve) =>
      java.once("close", (status, signal) => resolve(`${signal ?? `exit ${status}`}${complained}`)),
    );
    const done = new Promise<void>((resolve) => {
      java.stdout?.on("data", (chunk: Buffer) => {
        said += chunk.toString("utf8");
        if (said.includes("end of the program")) resolve();
      });
    });
    try {
      await Promise.race([done, ended]);
      const seconds = (performance.now() - began) / 1000;
      // Hits first: what is hit between the two is then seen as a call without being asked for.
      const hits = probes.perSite();
      watch.look();
      java.stdin?.end();
      return { hits, calls: watch.calls, seconds, said, ending: await ended };
    } finally {
      watch.stop();
      java.stdin?.end();
      await ended;
      clearTimeout(timer);
      probes.detach();
    }
  }

  const waiting = /monitor|wait|park|sleep|safepoint|vmops|gc__/;
  const noise = (probe: string): Noise => (waiting.test(probe) ? { share: 0.6, few: 50 } : { share: 0.15, few: 20 });

  it("counts the same, by calls", { timeout: FETCH_TIMEOUT + 300_000 }, async () => {
    fetchPackages();
    const twins = await makeTwins(corpus.libjvm);
    try {
      const original = javaImage(twins.scratch.file("image-original"), twins.original);
      const rewritten = javaImage(twins.scratch.file("image-rewritten"), twins.rewritten);
      const classes = twins.scratch.file("classes");
      await compileJava(original, source, classes);
      const first = await busy(original, classes);
      const second = await busy(original, classes);
      const after = await busy(rewritten, classes);
      const passed = after.hits.filter((h) => h.hits > 0).length;
      console.log(
        [
          table("libjvm.so: unrewritten, unrewritten, rewritten", [first.hits, second.hits, after.hits], after.calls),
          `seconds, all probes attached: ${[first, second, after].map((r) => r.seconds.toFixed(1)).join(", ")}`,
          `${passed} of ${after.hits.length} sites hit, ${after.calls.filter(Boolean).length} seen as calls`,
        ].join("\n"),
      );
      expect([after.said, after.ending]).toEqual([first.said, "exit 0"]);
      expect(outOfNoise(first.hits, second.hits, after.hits, noise)).toEqual([]);
      expect(hitButNoCall(twins, after.hits, after.calls)).toEqual([]);
      expect(passed).toBeGreaterThanOrEqual(110);
      expect(first.calls.filter(Boolean)).toEqual([]);
    } finally {
      twins.scratch.remove();
    }
  });
});
