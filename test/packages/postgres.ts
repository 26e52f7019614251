/**
 * A private postgres: its own tree, since initdb and the server find each other, lib and share beside themselves; its own
 * data directory; a unix socket and no port; as an unprivileged user, since the server refuses root.
 *
 *     DIR/lib/postgresql/15/bin    the programs, copied, with the `postgres` that is to be tested
 *     DIR/lib/postgresql/15/lib    links into a copy that all trees of a scratch directory share
 *     DIR/share/postgresql/15
 */
import { type ChildProcess, execFileSync } from "node:child_process";
import {
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
} from "node:fs";
import path from "node:path";
import { fetchPackages, packagesRoot } from "./corpus.js";
import { mustRun, type RunOptions, type RunResult, run, type Scratch, start } from "./scratch.js";

const VERSION = "postgresql/15";

/** Few buffers and little WAL memory, so that the sites of eviction and of full WAL buffers are passed; no autovacuum, so that counts repeat. */
const SETTINGS = {
  listen_addresses: "",
  shared_buffers: "256kB",
  wal_buffers: "32kB",
  max_prepared_transactions: "4",
  deadlock_timeout: "200ms",
  autovacuum: "off",
  fsync: "off",
  jit: "off",
  checkpoint_timeout: "1d",
  max_wal_size: "2GB",
  bgwriter_lru_maxpages: "0",
  log_checkpoints: "off",
};

/** Nobody, where the tests run as root. */
export function unprivileged(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {};
  const id = (flag: string): number => Number(execFileSync("id", [flag, "nobody"], { encoding: "utf8" }));
  return { uid: id("-u"), gid: id("-g") };
}

export interface Installation {
  readonly dir: string;
  readonly bin: string;
  readonly options: RunOptions;
}

export function install(scratch: Scratch, name: string, postgres: string): Installation {
  const shared = scratch.file("shared");
  const source = packagesRoot();
  if (!existsSync(shared)) {
    // Bitcode is for the JIT, which is off.
    const wanted = (from: string): boolean => path.basename(from) !== "bitcode";
    cpSync(path.join(source, "usr/lib", VERSION, "lib"), path.join(shared, "lib"), { recursive: true, filter: wanted });
    cpSync(path.join(source, "usr/share", VERSION), path.join(shared, "share"), { recursive: true });
    cpSync(path.join(fetchPackages(), "libs"), path.join(shared, "libs"), { recursive: true });
  }
  const dir = scratch.file(name);
  const bin = path.join(dir, "lib", VERSION, "bin");
  mkdirSync(bin, { recursive: true });
  mkdirSync(path.join(dir, "share", path.dirname(VERSION)), { recursive: true });
  symlinkSync(path.join(shared, "lib"), path.join(dir, "lib", VERSION, "lib"));
  symlinkSync(path.join(shared, "share"), path.join(dir, "share", VERSION));
  for (const program of ["initdb", "psql", "pgbench"]) {
    copyFileSync(path.join(source, "usr/lib", VERSION, "bin", program), path.join(bin, program));
  }
  copyFileSync(postgres, path.join(bin, "postgres"));
  const user = unprivileged();
  const work = path.join(dir, "work");
  mkdirSync(work, { mode: 0o700 });
  if (user.uid !== undefined && user.gid !== undefined) chownSync(work, user.uid, user.gid);
  const libs = path.join(shared, "libs/usr/lib/x86_64-linux-gnu");
  const env = {
    PGHOST: work,
    PGDATABASE: "postgres",
    PGUSER: "tester",
    ...(existsSync(libs) ? { LD_LIBRARY_PATH: libs } : {}),
  };
  return { dir, bin, options: { cwd: work, env, ...user } };
}

export class Server {
  private constructor(
    private readonly at: Installation,
    private readonly postmaster: ChildProcess,
    private readonly logged: Buffer[],
  ) {}

  /** initdb, then the server; returns when that has begun to start. */
  static async launch(at: Installation, more: Readonly<Record<string, string>> = {}): Promise<Server> {
    const data = path.join(at.dir, "work", `data${readdirSync(path.join(at.dir, "work")).length}`);
    const initdb = ["-D", data, "-U", "tester", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"];
    await mustRun(path.join(at.bin, "initdb"), initdb, at.options);
    const settings = Object.entries({ ...SETTINGS, ...more, unix_socket_directories: path.join(at.dir, "work") });
    const args = ["-D", data, ...settings.flatMap(([key, value]) => ["-c", `${key}=${value}`])];
    const postmaster = start(path.join(at.bin, "postgres"), args, at.options);
    const logged: Buffer[] = [];
    postmaster.stderr?.on("data", (c: Buffer) => logged.push(c));
    postmaster.stdout?.resume();
    return new Server(at, postmaster, logged);
  }

  /** The same; returns when it takes connections. */
  static async start(at: Installation, more: Readonly<Record<string, string>> = {}): Promise<Server> {
    const server = await Server.launch(at, more);
    try {
      for (let attempt = 0; ; attempt++) {
        if ((await server.psql("select 1")).status === 0) return server;
        if (attempt === 100 || !server.alive) throw new Error(`postgres does not come up:\n${server.log}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get log(): string {
    return Buffer.concat(this.logged).toString("utf8");
  }

  /** The postmaster and the processes that it has forked and that live. */
  get processes(): readonly number[] {
    const pid = this.postmaster.pid!;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ");
    return [pid, ...children.filter((child) => child !== "").map(Number)];
  }

  get alive(): boolean {
    return this.postmaster.exitCode === null && this.postmaster.signalCode === null;
  }

  /** The script on psql's standard input, so that messages name no path. */
  psql(script: string, timeout = 60_000): Promise<RunResult> {
    return run(path.join(this.at.bin, "psql"), ["-X", "-A", "-f", "-"], { ...this.at.options, input: script, timeout });
  }

  /** A script in a session that goes on: returns when the script is done, with a way to end the session. */
  async session(script: string): Promise<() => Promise<void>> {
    const psql = start(path.join(this.at.bin, "psql"), ["-X", "-q", "-A", "-f", "-"], this.at.options);
    const ended = new Promise<void>((resolve) => psql.once("close", () => resolve()));
    const done = "the session has done its script";
    let said = "";
    psql.stderr?.resume();
    const ready = new Promise<void>((resolve) => {
      psql.stdout?.on("data", (chunk: Buffer) => {
        said += chunk.toString("latin1");
        if (said.includes(done)) resolve();
      });
    });
    psql.stdin?.write(`${script}\n\\echo ${done}\n`);
    await Promise.race([ready, ended]);
    if (!said.includes(done)) throw new Error(`psql ended before its script did:\n${said}`);
    return () => {
      psql.stdin?.end();
      return ended;
    };
  }

  pgbench(...args: readonly string[]): Promise<RunResult> {
    return run(path.join(this.at.bin, "pgbench"), args, { ...this.at.options, timeout: 90_000 });
  }

  /** A fast shutdown; the exit status of the postmaster, which is 0 unless something went wrong before. */
  async stop(): Promise<number | null> {
    if (!this.alive) return this.postmaster.exitCode;
    const ended = new Promise<number | null>((resolve) => this.postmaster.once("close", (code) => resolve(code)));
    this.postmaster.kill("SIGINT");
    // SIGQUIT takes its children along; a bare SIGKILL would leave them.
    const timers = [
      setTimeout(() => this.postmaster.kill("SIGQUIT"), 15_000),
      setTimeout(() => this.postmaster.kill("SIGKILL"), 20_000),
    ];
    try {
      return await ended;
    } finally {
      for (const t of timers) clearTimeout(t);
    }
  }
}
