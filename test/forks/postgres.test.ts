/**
 * Postgres under pgbench with a connection for each transaction, that is a backend, with probes on all 71 sites that are there
 * before the server starts: the postmaster comes by sites while it starts, and every process that it forks inherits them.
 *
 * Hits are those of the load alone. What is compared exactly: the probes of transactions and statements. A transaction of
 * pgbench is seven statements in one transaction block, a backend that starts has one more transaction of its own, and no other
 * process of the server begins any (no autovacuum, no parallel workers, no launcher of logical replication). Locks, buffers
 * and WAL depend on who comes first, by up to 4 % in runs of the same server: what comes often has to agree within 10 %, what
 * counts waiting is chance.
 */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { CallWatch } from "../packages/calls.js";
import { corpus, corpusPath, FETCH_TIMEOUT } from "../packages/corpus.js";
import { install, Server } from "../packages/postgres.js";
import { attachAll } from "../packages/sites.js";
import { byProbe, expectGuarded, makeVersions, type Versions } from "./versions.js";

const LONG = process.env.LONG === "1";
/** Runs of pgbench, and backends of each. */
const RUNS = LONG ? 10 : 1;
const BACKENDS = LONG ? 1000 : 200;
const CLIENTS = 4;

const SETTINGS = {
  max_logical_replication_workers: "0",
  max_parallel_workers_per_gather: "0",
  // The system's tables fit: a backend that starts need not read them from files.
  shared_buffers: "16MB",
};
const EXACT = /:(query__|transaction__|statement__status)/;
const CHANCE = /wait|fail/;
const OFTEN = 1000;
const CRASH = /PANIC|terminated by signal|crash of another/;

type Hits = Readonly<Record<string, number>>;

interface Outcome {
  readonly hits: Hits;
  /** Sessions of clients that the server has had in the load, by its own account. */
  readonly sessions: number;
  /** Connections, that is transactions, a second. */
  readonly rates: readonly number[];
  /** Sites that were calls in a backend which lived long enough to be looked at. */
  readonly calls: number;
}

describe.skipIf(cannotOptimize("postgres that forks"))("postgres with a backend for each transaction", () => {
  let versions: Versions;
  beforeAll(async () => {
    versions = await makeVersions(corpusPath(corpus.postgres));
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => versions?.scratch.remove());

  let trees = 0;
  const tree = (postgres: string): ReturnType<typeof install> => install(versions.scratch, `tree-${trees++}`, postgres);

  async function load(postgres: string): Promise<Outcome> {
    const at = tree(postgres);
    const file = path.join(at.bin, "postgres");
    const probes = attachAll(file);
    let server: Server | undefined;
    try {
      server = await Server.start(at, SETTINGS);
      const { pgbench, psql } = { pgbench: server.pgbench.bind(server), psql: server.psql.bind(server) };
      const mustBench = async (...args: readonly string[]): Promise<string> => {
        const { status, stdout, stderr } = await pgbench(...args);
        expect(status, `${stderr}\n${server?.log.slice(-3000)}`).toBe(0);
        return stdout;
      };
      const sessions = async (): Promise<number> => {
        const { stdout } = await psql("select sessions from pg_stat_database where datname = 'postgres';");
        return Number(/^\d+$/m.exec(stdout)?.[0]);
      };
      await mustBench("-i", "-s", "1", "-q");
      const sessionsBefore = await sessions();
      const before = byProbe(probes.perSite());
      const rates: number[] = [];
      for (let i = 0; i < RUNS; i++) {
        const said = await mustBench("-n", "-C", "-c", `${CLIENTS}`, "-j", "2", "-t", `${BACKENDS / CLIENTS}`);
        expect(said).toContain(`number of transactions actually processed: ${BACKENDS}/${BACKENDS}`);
        expect(said).toContain("number of failed transactions: 0 ");
        rates.push(Number(/tps = (\d+)/.exec(said)?.[1]));
      }
      const after = byProbe(probes.perSite());
      const sessionsAfter = await sessions();

      const end = await server.session("select 1;");
      const watch = new CallWatch(file, () => server!.processes.slice(1));
      watch.look();
      await end();
      return {
        hits: Object.fromEntries(Object.entries(after).map(([probe, n]) => [probe, n - before[probe]!])),
        sessions: sessionsAfter - sessionsBefore,
        rates,
        calls: watch.calls.filter(Boolean).length,
      };
    } finally {
      const status = await server?.stop();
      probes.detach();
      if (server !== undefined) {
        expect(server.log).not.toMatch(CRASH);
        expect(status, server.log.slice(-3000)).toBe(0);
      }
    }
  }

  it("keeps its backends when rewritten with auto, all of them traced", async () => {
    expectGuarded(versions.report, corpus.postgres.sites);
    const before = await load(versions.original);
    const after = await load(versions.guarded);
    const lines = Object.entries(before.hits).map(
      ([probe, hits]) => `  ${probe.padEnd(42)}${String(hits).padStart(10)}${String(after.hits[probe]).padStart(10)}`,
    );
    console.log(["postgres: hits, unrewritten and rewritten", ...lines.filter((l) => !/ 0 +0$/.test(l))].join("\n"));
    console.log(
      [before, after].map(({ rates, sessions, calls }) => JSON.stringify({ rates, sessions, calls })).join("\n"),
    );

    for (const { sessions } of [before, after]) expect(sessions).toBeGreaterThanOrEqual(RUNS * BACKENDS);
    const exact = (hits: Hits): Hits => Object.fromEntries(Object.entries(hits).filter(([probe]) => EXACT.test(probe)));
    expect(exact(after.hits)).toEqual(exact(before.hits));
    expect(after.hits["postgresql:transaction__commit"]).toBeGreaterThanOrEqual(2 * RUNS * BACKENDS);
    expect(after.hits["postgresql:query__start"]).toBeGreaterThanOrEqual(7 * RUNS * BACKENDS);
    for (const [probe, hits] of Object.entries(before.hits)) {
      if (hits < OFTEN || CHANCE.test(probe)) continue;
      expect(after.hits[probe]! / hits, probe).toBeGreaterThan(0.9);
      expect(after.hits[probe]! / hits, probe).toBeLessThan(1.1);
    }
    // Backends are optimized again, they are not only alive.
    expect(after.calls).toBeGreaterThan(0);
  }, 900_000);

  // The first one dies behind a lock that it holds: after that the server starts its processes again, and they wait for ever.
  it("loses them without the guard", async () => {
    const at = tree(versions.unguarded);
    const probes = attachAll(path.join(at.bin, "postgres"));
    try {
      const server = await Server.launch(at, SETTINGS);
      const deaths = (): number => [...server.log.matchAll(/was terminated by signal 11/g)].length;
      for (let i = 0; i < 100 && server.alive && deaths() === 0; i++) await sleep(100);
      await server.stop();
      console.log("postgres, no guard:", server.log.slice(0, 1500));
      expect(deaths()).toBeGreaterThanOrEqual(1);
    } finally {
      probes.detach();
    }
  }, 300_000);
});
