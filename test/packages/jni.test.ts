/**
 * The JNI functions hold 483 of libjvm.so's 531 sites. A C program that loads the JVM calls every one of them, rewritten and
 * not, and with uprobes every call is counted: here, other than under `java`, the counts are the same in every run.
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { corpus, FETCH_TIMEOUT, fetchPackages, libraryPath, packagesRoot } from "./corpus.js";
import { compileJava, type JavaImage, javaImage } from "./java.js";
import { mustRun, type RunResult, run } from "./scratch.js";
import { coverage, type SiteHits } from "./sites.js";
import { skipBecause } from "./skips.js";
import { counted, makeTwins, printHits, type Twins, visible } from "./twins.js";
import { uprobesMissing } from "./uprobes.js";

const uncounted = skipBecause("hits of libjvm.so through JNI", uprobesMissing());
const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));
const noCompiler = skipBecause("libjvm.so through JNI", spawnSync("gcc", ["--version"]).status === 0 ? null : "no gcc");

describe.skipIf(noCompiler)("libjvm.so, rewritten, through JNI", () => {
  let twins: Twins;
  let original: JavaImage;
  let rewritten: JavaImage;
  let classes: string;
  let jni: string;
  beforeAll(async () => {
    fetchPackages();
    twins = await makeTwins(corpus.libjvm);
    original = javaImage(twins.scratch.file("image-original"), twins.original);
    rewritten = javaImage(twins.scratch.file("image-rewritten"), twins.rewritten);
    classes = twins.scratch.file("classes");
    jni = twins.scratch.file("jni");
    await compileJava(original, program("Jni.java"), classes);
    const headers = path.join(packagesRoot(), "usr/include/android/nativehelper");
    await mustRun("gcc", ["-O1", `-I${headers}`, program("jni.c"), "-o", jni, "-ldl", "-pthread"]);
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => twins?.scratch.remove());

  const runJni = (image: JavaImage, ...more: readonly string[]): Promise<RunResult> =>
    run(jni, [image.libjvm, classes, ...more], { env: libraryPath(), cwd: twins.scratch.dir });

  it("answers every call as the unrewritten one does", async () => {
    const before = await runJni(original);
    expect(before.status, before.stderr).toBe(0);
    expect(before.stdout).toContain("end of the program");
    expect(visible(await runJni(rewritten))).toEqual(visible(before));
  });

  it("dies of a fatal error as the unrewritten one does", async () => {
    const before = await runJni(original, "fatal");
    const after = await runJni(rewritten, "fatal");
    expect(before.status).not.toBe(0);
    expect([after.status, after.signal]).toEqual([before.status, before.signal]);
    // Below this line come addresses inside libjvm.so, which may differ.
    const message = "FATAL ERROR in native method: on purpose";
    expect([before.stdout.includes(message), after.stdout.includes(message)]).toEqual([true, true]);
  });

  it.skipIf(uncounted)(
    "passes the same sites as often, counted by uprobes",
    async () => {
      const ofJni = (hits: readonly SiteHits[]): readonly SiteHits[] =>
        hits.filter((h) => h.probe.startsWith("hotspot_jni:"));
      const both = async (image: JavaImage): Promise<RunResult> => {
        await runJni(image, "fatal");
        return runJni(image);
      };
      const before = await counted(original.libjvm, () => both(original));
      const after = await counted(rewritten.libjvm, () => both(rewritten));
      expect(before.result.status, before.result.stderr).toBe(0);
      expect(visible(after.result)).toEqual(visible(before.result));
      printHits("JNI", ofJni(before.hits), ofJni(after.hits));
      // The program is there to call every function; what it cannot reach are two or three returns after rare failures.
      const { never, sites } = coverage(ofJni(before.hits));
      expect(sites).toBeGreaterThan(450);
      expect(never.length, never.join(" ")).toBeLessThanOrEqual(3);
      expect(ofJni(after.hits)).toEqual(ofJni(before.hits));
    },
    60_000,
  );
});
