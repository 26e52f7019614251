/**
 * php-fpm with probes on all 14 sites, attached before it starts. Its master runs PHP code when it preloads classes
 * (opcache.preload), and so comes by sites before it forks; each worker answers a few requests and is replaced, and some are
 * killed while they wait.
 *
 * What a request hits is fixed once the page is compiled: hits are compared exactly, from after the first request on.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { CallWatch } from "../packages/calls.js";
import { FETCH_TIMEOUT } from "../packages/corpus.js";
import { attachAll, type SiteHits } from "../packages/sites.js";
import { FPM_SITES, FpmServer, fpmPath, REQUESTS_A_WORKER, WORKERS } from "./php-fpm.js";
import { byProbe, expectGuarded, makeVersions, type Versions } from "./versions.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 1000 : 80;
/** Workers, one after each tenth of the requests. */
const KILLED = 10;
/** A worker that is killed, or is alive at the end, has not answered its share. */
const REQUESTS = (CHILDREN + KILLED + WORKERS) * REQUESTS_A_WORKER;

interface Outcome {
  readonly endings: Readonly<Record<string, number>>;
  readonly answers: readonly (string | undefined)[];
  readonly hits: readonly SiteHits[];
  /** Sites that were calls in some worker while it lived. */
  readonly calls: number;
  /** Of the master before it was asked for anything. */
  readonly preloading: Readonly<Record<string, number>>;
}

describe.skipIf(cannotOptimize("php-fpm"))("php-fpm", () => {
  let versions: Versions;
  beforeAll(async () => {
    versions = await makeVersions(fpmPath());
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => versions?.scratch.remove());

  async function serve(php: string, body: (server: FpmServer) => Promise<readonly (string | undefined)[]>) {
    const probes = attachAll(php);
    try {
      const server = await FpmServer.start(php, `${php}.dir`);
      const watch = new CallWatch(php, () => server.workers);
      try {
        const preloading = byProbe(probes.perSite());
        await server.ask(0);
        await server.settled();
        const before = probes.perSite();
        watch.start(20);
        const answers = await body(server);
        const hits = probes.perSite().map((h, i) => ({ probe: h.probe, hits: h.hits - before[i]!.hits }));
        const calls = watch.calls.filter(Boolean).length;
        return { endings: server.endings, answers, hits, calls, preloading } satisfies Outcome;
      } finally {
        watch.stop();
        await server.stop();
      }
    } finally {
      probes.detach();
    }
  }

  const workload = (php: string): Promise<Outcome> =>
    serve(php, async (server) => {
      const answers: (string | undefined)[] = [];
      for (let part = 0; part < KILLED; part++) {
        answers.push(...(await server.load(REQUESTS / KILLED)));
        await server.killWorker();
      }
      return answers;
    });

  it("keeps its workers when rewritten with auto, all of them traced", async () => {
    expectGuarded(versions.report, FPM_SITES);
    const before = await workload(versions.original);
    const after = await workload(versions.guarded);
    console.log("php-fpm:", after.endings, `${after.calls} sites are calls`, after.preloading, byProbe(after.hits));
    // The master has come by these before it forked; its children would die of them.
    for (const probe of ["php:request__startup", "php:function__entry", "php:execute__entry"])
      expect(after.preloading[probe], probe).toBeGreaterThan(0);
    expect(Object.keys(after.endings).sort()).toEqual(["on signal 9", "with code 0"]);
    expect(after.endings["on signal 9"]).toBe(KILLED);
    expect(after.endings["with code 0"]).toBeGreaterThanOrEqual(CHILDREN);
    expect(after.answers.every((answer) => /^\d+$/.test(answer ?? ""))).toBe(true);
    expect(after.answers).toEqual(before.answers);
    expect(after.hits).toEqual(before.hits);
    // Workers are optimized again, they are not only alive.
    expect(before.calls).toBe(0);
    expect(after.calls).toBeGreaterThan(0);
    expect(byProbe(after.hits)["php:request__startup"]).toBe(REQUESTS);
  }, 600_000);

  it("loses them without the guard", async () => {
    const { endings, answers } = await serve(versions.unguarded, async (server) => {
      const answers = await server.load(20);
      await server.settled();
      return answers;
    });
    console.log("php-fpm, no guard:", endings);
    expect(endings["on signal 11"]).toBeGreaterThanOrEqual(20);
    expect(answers.every((answer) => answer === undefined)).toBe(true);
  }, 300_000);
});
