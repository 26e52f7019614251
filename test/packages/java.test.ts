/**
 * libjvm.so, rewritten, under `java`: a multi-threaded program with every garbage collector, with the extended probes on
 * (methods, monitors, allocations), plain and with uprobes on all 531 sites. The JNI functions, most of the sites, have a
 * test of their own.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { corpus, FETCH_TIMEOUT, fetchPackages, libraryPath } from "./corpus.js";
import { compileJava, type JavaImage, javaImage } from "./java.js";
import { type RunResult, run } from "./scratch.js";
import { coverage, type SiteHits } from "./sites.js";
import { skipBecause } from "./skips.js";
import { counted, makeTwins, printHits, type Twins, visible } from "./twins.js";
import { uprobesMissing } from "./uprobes.js";

const uncounted = skipBecause("hits of libjvm.so under java", uprobesMissing());
const source = fileURLToPath(new URL("programs/Busy.java", import.meta.url));

/** The serial one is compared while it is traced as well, and G1 is the usual one, without a switch: LONG=1 tries all here. */
const collectors =
  process.env.LONG === "1" || uncounted
    ? ["-XX:+UseSerialGC", "-XX:+UseParallelGC", "-XX:+UseG1GC"]
    : ["-XX:+UseParallelGC"];
/** The switch turns on DTraceMethodProbes, DTraceAllocProbes and DTraceMonitorProbes. */
const probesOn = "-XX:+ExtendedDTraceProbes";

describe("libjvm.so, rewritten, under java", () => {
  let twins: Twins;
  let original: JavaImage;
  let rewritten: JavaImage;
  let classes: string;
  beforeAll(async () => {
    fetchPackages();
    twins = await makeTwins(corpus.libjvm);
    original = javaImage(twins.scratch.file("image-original"), twins.original);
    rewritten = javaImage(twins.scratch.file("image-rewritten"), twins.rewritten);
    classes = twins.scratch.file("classes");
    await compileJava(original, source, classes);
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => twins?.scratch.remove());

  const runBusy = (image: JavaImage, ...flags: readonly string[]): Promise<RunResult> => {
    const bounded = [
      "-Xmx48m",
      "-Xms24m",
      `-XX:ErrorFile=${twins.scratch.file("hs_err.log")}`,
      "-XX:-CreateCoredumpOnCrash",
    ];
    return run(image.java, [...flags, ...bounded, "-cp", classes, "Busy"], { env: libraryPath(), timeout: 90_000 });
  };
  const expectRan = (r: RunResult): void => {
    expect(r.status, r.stdout + r.stderr).toBe(0);
    expect(r.stdout).toContain("end of the program");
  };

  it.each(collectors)(
    "prints what the unrewritten one prints with %s",
    async (collector) => {
      const before = await runBusy(original, collector, probesOn);
      expectRan(before);
      expect(visible(await runBusy(rewritten, collector, probesOn))).toEqual(visible(before));
    },
    60_000,
  );

  it("does so without the extended probes", async () => {
    const before = await runBusy(original);
    expectRan(before);
    expect(visible(await runBusy(rewritten))).toEqual(visible(before));
  }, 300_000);

  it.skipIf(uncounted)(
    "passes the same sites, counted by uprobes",
    async () => {
      const before = await counted(original.libjvm, () => runBusy(original, "-XX:+UseSerialGC", probesOn));
      const after = await counted(rewritten.libjvm, () => runBusy(rewritten, "-XX:+UseSerialGC", probesOn));
      expectRan(before.result);
      expect(visible(after.result)).toEqual(visible(before.result));
      const own = (hits: readonly SiteHits[]): readonly SiteHits[] =>
        hits.filter((h) => !h.probe.startsWith("hotspot_jni:"));
      printHits("libjvm.so without JNI", own(before.hits), own(after.hits));
      expect(coverage(own(before.hits)).hit).toBeGreaterThanOrEqual(44);
      // Threads and the JIT make every count a little different, and how often threads meet in a monitor is chance: what is
      // passed often is passed by both.
      for (const [i, b] of before.hits.entries()) {
        const least = /monitor__|park|safepoint|vmops/.test(b.probe) ? 0 : b.hits / 4;
        if (b.hits >= 50) expect(after.hits[i]!.hits, b.probe).toBeGreaterThan(least);
      }
    },
    120_000,
  );
});
