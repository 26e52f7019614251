/**
 * Python forks by os.fork and by multiprocessing, with probes on all eight sites (a hit for each function, each line, each
 * import, each collection) attached before it starts.
 *
 * The script does the same in every run, so hits are compared exactly. The run with a Pool is not counted: its threads
 * wait for each other, and how many lines that takes is chance.
 */
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { corpus, corpusPath, FETCH_TIMEOUT, libraryPath, packagesRoot } from "../packages/corpus.js";
import { type RunResult, run } from "../packages/scratch.js";
import { byProbe, counted, expectGuarded, makeVersions, type Versions } from "./versions.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 1000 : 60;
const script = fileURLToPath(new URL("programs/children.py", import.meta.url));

describe.skipIf(cannotOptimize("Python that forks"))("Python that forks", () => {
  let versions: Versions;
  beforeAll(async () => {
    versions = await makeVersions(corpusPath(corpus.python), "python3.11");
  }, FETCH_TIMEOUT);
  afterAll(() => versions?.scratch.remove());

  const traced = (python: string, ...args: readonly string[]): ReturnType<typeof counted<RunResult>> =>
    counted(python, () =>
      run(python, ["-S", "-s", "-B", script, ...args], {
        env: { ...libraryPath(), PYTHONHOME: path.join(packagesRoot(), "usr"), PYTHONHASHSEED: "0" },
        timeout: 300_000,
      }),
    );

  it("keeps its children when rewritten with auto, all of them traced", async () => {
    expectGuarded(versions.report, corpus.python.sites);
    const before = await traced(versions.original, `${CHILDREN}`);
    const after = await traced(versions.guarded, `${CHILDREN}`);
    console.log("Python:", after.result.stdout, byProbe(after.hits));
    expect(after.result).toMatchObject({ status: 0, stdout: `as it should: ${CHILDREN}\n`, stderr: "" });
    expect(before.result.stdout).toBe(after.result.stdout);
    expect(after.hits).toEqual(before.hits);
    // Children import, collect and call functions: their hits are among them.
    expect(byProbe(after.hits)["python:function__entry"]).toBeGreaterThan(20 * CHILDREN);
  }, 600_000);

  it("keeps the workers of a Pool", async () => {
    const { result, hits } = await traced(versions.guarded, `${CHILDREN / 2}`, "pool");
    expect(result).toMatchObject({ status: 0, stdout: `as it should: ${CHILDREN / 2}\n` });
    expect(byProbe(hits)["python:gc__done"]).toBeGreaterThanOrEqual(CHILDREN);
  }, 300_000);

  it("loses them without the guard", async () => {
    const { result } = await traced(versions.unguarded, "20");
    expect(result.stdout).toBe("signal 11: 20\n");
  }, 300_000);
});
