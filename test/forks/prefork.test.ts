/**
 * A prefork server in C++ that throws, of which nothing is rewritten but the libstdc++.so.6 that it loads: the sites and the
 * guard are in the library, the fork is in the program. The library's sites have no semaphores.
 *
 * What a request hits is fixed, idle workers hit nothing, the master hits the same for each worker that it forks: so hits are
 * compared exactly, for the number of workers and requests that the run is known to have had.
 */
import { spawnSync } from "node:child_process";
import { connect } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { corpus, corpusPath, FETCH_TIMEOUT, libraryPath } from "../packages/corpus.js";
import { mustRun, start } from "../packages/scratch.js";
import { skipBecause } from "../packages/skips.js";
import { byProbe, counted, expectGuarded, makeVersions, type Versions } from "./versions.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 1000 : 100;
const PER_CHILD = 5;
const WORKERS = 4;
/** A worker that is alive at the end has not answered its share. */
const REQUESTS = (CHILDREN + WORKERS) * PER_CHILD;

const source = fileURLToPath(new URL("programs/prefork.cc", import.meta.url));
const noCompiler = skipBecause("a prefork server", spawnSync("g++", ["--version"]).status === 0 ? null : "no g++");

interface Outcome {
  /** "forked", "exit 0", "signal 11", "signal 15" (ended by the master), and how many. */
  readonly endings: Readonly<Record<string, number>>;
  readonly replies: readonly string[];
}

/** One request: what the server answers, or an empty text where nobody did. */
function ask(socket: string, n: number): Promise<string> {
  return new Promise((resolve) => {
    let said = "";
    const client = connect(socket, () => client.write(Buffer.of(n)));
    client.on("data", (chunk: Buffer) => {
      said += chunk.toString("latin1");
    });
    client.on("error", () => {});
    client.on("close", () => resolve(said));
  });
}

async function serve(program: string, library: string, socket: string, requests: number): Promise<Outcome> {
  const server = start(program, [socket, `${WORKERS}`, `${PER_CHILD}`], { env: libraryPath(path.dirname(library)) });
  const timer = setTimeout(() => server.kill("SIGKILL"), 300_000);
  let said = "";
  let ready = (): void => {};
  const isReady = new Promise<void>((resolve) => {
    ready = resolve;
  });
  const ended = new Promise<void>((resolve) => server.once("close", () => resolve()));
  server.stdout?.on("data", (chunk: Buffer) => {
    said += chunk.toString("latin1");
    if (said.includes("ready\n")) ready();
  });
  server.stderr?.pipe(process.stderr);
  try {
    await Promise.race([isReady, ended]);
    const replies: string[] = [];
    // As many clients as workers.
    let next = 0;
    const client = async (): Promise<void> => {
      while (next < requests) {
        const n = next++;
        replies[n] = await ask(socket, n % 256);
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, client));
    server.stdin?.end();
    await ended;
    const endings = [...said.matchAll(/^(\w+(?: \d+)?):? (\d+)$/gm)].map((m) => [m[1]!, Number(m[2])] as const);
    return { endings: Object.fromEntries(endings), replies };
  } finally {
    server.stdin?.end();
    await ended;
    clearTimeout(timer);
  }
}

describe.skipIf(noCompiler || cannotOptimize("a prefork server"))("a prefork server that throws", () => {
  let versions: Versions;
  let program: string;
  beforeAll(async () => {
    versions = await makeVersions(corpusPath(corpus.libstdcxx), "libstdc++.so.6");
    program = versions.scratch.file("prefork");
    await mustRun("g++", ["-O2", source, "-o", program]);
  }, FETCH_TIMEOUT);
  afterAll(() => versions?.scratch.remove());

  const traced = (library: string, requests: number): ReturnType<typeof counted<Outcome>> =>
    counted(library, () => serve(program, library, `${path.dirname(library)}/socket`, requests));

  it("keeps its workers when libstdc++ is rewritten with auto, all of them traced", async () => {
    expectGuarded(versions.report, corpus.libstdcxx.sites);
    const before = await traced(versions.original, REQUESTS);
    const after = await traced(versions.guarded, REQUESTS);
    const hits = byProbe(after.hits);
    console.log("prefork server:", after.result.endings, hits);
    const { forked, ...ended } = after.result.endings;
    expect(Object.keys(ended).filter((how) => how !== "exit 0" && how !== "signal 15")).toEqual([]);
    expect(Object.values(ended).reduce((a, b) => a + b)).toBe(forked);
    expect(forked).toBeGreaterThanOrEqual(CHILDREN);
    expect(after.result.replies).toEqual(before.result.replies);
    expect(after.result.replies.every((reply) => /^\d+$/.test(reply))).toBe(true);
    // Each passes two throws, a rethrow and three catches; work(0) and work(1) come before.
    for (const { endings, count } of [
      { endings: before.result.endings, count: byProbe(before.hits) },
      { endings: after.result.endings, count: hits },
    ]) {
      const passes = REQUESTS + endings.forked! + 2;
      expect(count).toEqual({
        "libstdcxx:throw": 2 * passes,
        "libstdcxx:rethrow": passes,
        "libstdcxx:catch": 3 * passes,
      });
    }
  }, 600_000);

  it("loses them without the guard", async () => {
    const { result, hits } = await traced(versions.unguarded, 20);
    console.log("prefork server, no guard:", result.endings, byProbe(hits));
    expect(result.endings["signal 11"]).toBe(20);
    expect(result.replies.every((reply) => reply === "")).toBe(true);
  }, 300_000);
});
