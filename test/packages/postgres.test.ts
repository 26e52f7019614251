/**
 * Postgres, rewritten, under initdb, a server, a SQL script, concurrent sessions that wait for and deadlock each other, and
 * pgbench in all three protocols: plain, with all semaphores set in a copy, and with real uprobes on all sites.
 *
 * Here uprobes are attached when the server is up. That its processes live as well when the postmaster has come by traced
 * sites before it forks is shown in test/forks/postgres.test.ts. The second way, with the semaphores set in the file, goes
 * through all sites of all processes from initdb on, without the kernel's part.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { corpus, FETCH_TIMEOUT, fetchPackages } from "./corpus.js";
import { type Installation, install, Server } from "./postgres.js";
import { coverage, type SiteHits } from "./sites.js";
import { skipBecause } from "./skips.js";
import { counted, makeTwins, printHits, raiseTwins, type Twins } from "./twins.js";
import { uprobesMissing } from "./uprobes.js";

const script = readFileSync(new URL("programs/sites.sql", import.meta.url), "utf8");
const uncounted = skipBecause("hits of postgres", uprobesMissing());

interface Workload {
  readonly sql: { readonly status: number | null; readonly stdout: string; readonly stderr: string };
  readonly balances: string;
  readonly deadlocks: number;
  readonly failedTransactions: number;
}

/** All that is compared of a run; the same in every run of the same postgres. */
async function workload(server: Server): Promise<Workload> {
  const { status, stdout, stderr } = await server.psql(script);

  // Two sessions that lock in opposite order: one waits, the other is told of the deadlock. Which, is chance.
  const cross = (first: number, second: number): Promise<{ stderr: string }> =>
    server.psql(`begin; select pg_advisory_xact_lock(${first}); select pg_sleep(0.5);
      select pg_advisory_xact_lock(${second}); commit;`);
  const sessions = await Promise.all([cross(1, 2), cross(2, 1)]);
  const deadlocks = sessions.filter((s) => s.stderr.includes("deadlock detected")).length;

  let failedTransactions = 0;
  const bench = async (...args: readonly string[]): Promise<void> => {
    const r = await server.pgbench(...args);
    const failed = /number of failed transactions: (\d+)/.exec(r.stdout);
    if (r.status !== 0 || (failed === null && !args.includes("-i")))
      throw new Error(`pgbench ${args.join(" ")}: ${r.stderr}`);
    failedTransactions += Number(failed?.[1] ?? 0);
  };
  await bench("-i", "-s", "1", "-q");
  for (const protocol of ["simple", "extended", "prepared"]) {
    await bench("-M", protocol, "-n", "-c", "1", "-t", "100", "--random-seed=42");
  }
  const balances = await server.psql("select sum(abalance), sum(abalance * aid) from pgbench_accounts;");
  // Many at once, then a connection for each transaction: waits for locks, and forks.
  await bench("-n", "-c", "8", "-j", "2", "-t", "50");
  await bench("-n", "-C", "-c", "2", "-t", "20");
  const consistent =
    await server.psql(`select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
      and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches), count(*) from pgbench_history;`);
  return {
    sql: { status, stdout, stderr },
    balances: balances.stdout + consistent.stdout,
    deadlocks,
    failedTransactions,
  };
}

function expectSound(result: Workload): void {
  expect(result.sql.status, result.sql.stderr).toBe(0);
  expect(result.sql.stdout).toContain("end of the script");
  expect(result.deadlocks).toBe(1);
  expect(result.failedTransactions).toBe(0);
  expect(result.balances).toContain("t|740"); // 3 * 100 + 8 * 50 + 2 * 20 transactions
}

/** Starts a server, hands it over, and looks at its end: no crash in the log, an orderly exit. */
async function withServer<T>(at: Installation, body: (server: Server) => Promise<T>): Promise<T> {
  const server = await Server.start(at);
  let result: T;
  try {
    result = await body(server);
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\nserver log:\n${server.log.slice(-3000)}`);
  } finally {
    await server.stop();
  }
  expect(await server.stop(), server.log.slice(-3000)).toBe(0);
  expect(server.log).not.toMatch(/PANIC|terminated by signal|crash of another/);
  return result;
}

/** Probes whose number of hits the workload decides alone; the others (locks, buffers, WAL) depend on timing too. */
const REPEATABLE =
  /:(query__|sort__|deadlock__found|wal__switch|checkpoint__|transaction__abort|twophase|statement__status)/;

describe("postgres 15, rewritten", () => {
  let twins: Twins;
  let original: Installation;
  let rewritten: Installation;
  beforeAll(async () => {
    fetchPackages();
    twins = await makeTwins(corpus.postgres);
    original = install(twins.scratch, "tree-original", twins.original);
    rewritten = install(twins.scratch, "tree-rewritten", twins.rewritten);
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => twins?.scratch.remove());

  // What is compared here is compared of a server that is traced as well, and of one with all semaphores raised.
  it.runIf(process.env.LONG === "1" || uncounted)(
    "serves what the unrewritten one serves",
    async () => {
      const before = await withServer(original, workload);
      expectSound(before);
      expect(await withServer(rewritten, workload)).toEqual(before);
    },
    300_000,
  );

  it("does so with all semaphores raised in a copy, from initdb on", async () => {
    const raised = raiseTwins(twins);
    expect(raised.semaphores).toBeGreaterThan(0);
    const before = await withServer(install(twins.scratch, "tree-original-raised", raised.original), workload);
    expectSound(before);
    expect(await withServer(install(twins.scratch, "tree-rewritten-raised", raised.rewritten), workload)).toEqual(
      before,
    );
  }, 300_000);

  it.skipIf(uncounted)(
    "passes the same sites, counted by uprobes",
    async () => {
      const traced = (at: Installation): Promise<{ result: Workload; hits: readonly SiteHits[] }> =>
        withServer(at, (server) => counted(`${at.bin}/postgres`, () => workload(server)));
      const before = await traced(original);
      const after = await traced(rewritten);
      expectSound(before.result);
      expect(after.result).toEqual(before.result);
      printHits("postgres", before.hits, after.hits);
      const repeatable = (hits: readonly SiteHits[]): readonly SiteHits[] =>
        hits.filter((h) => REPEATABLE.test(h.probe));
      expect(repeatable(after.hits)).toEqual(repeatable(before.hits));
      // What is passed often is passed by both; how often sessions wait for each other is chance.
      for (const [i, b] of before.hits.entries()) {
        const least = /wait|fail/.test(b.probe) ? 0 : b.hits / 4;
        if (b.hits >= 100) expect(after.hits[i]!.hits, b.probe).toBeGreaterThan(least);
      }
      expect(coverage(before.hits).hit).toBeGreaterThanOrEqual(63);
    },
    180_000,
  );
});
