/**
 * A private php-fpm: a folder with its configuration, its log and its socket, and four workers that are replaced after a few
 * requests each. opcache.preload has the master run a script before it forks.
 */
import { type ChildProcess, execFileSync } from "node:child_process";
import { chownSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { FETCH_TIMEOUT, libraryPath } from "../packages/corpus.js";
import { unprivileged } from "../packages/postgres.js";
import { start } from "../packages/scratch.js";
import { fastcgi } from "./fastcgi.js";

/** What Debian 12's build has: those of the command-line PHP. */
export const FPM_SITES = 14;
export const WORKERS = 4;
export const REQUESTS_A_WORKER = 5;

const fetchScript = fileURLToPath(new URL("./fetch", import.meta.url));
const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));

/** The folder that holds `root` and `libs`. */
export function fetchFpm(): string {
  return execFileSync(fetchScript, {
    encoding: "utf8",
    timeout: FETCH_TIMEOUT,
    stdio: ["ignore", "pipe", "inherit"],
  }).trim();
}

export const fpmPath = (): string => path.join(fetchFpm(), "root/usr/sbin/php-fpm8.2");

const SYS_ACCEPT = "43";

function waitsForConnection(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/syscall`, "latin1").split(" ")[0] === SYS_ACCEPT;
  } catch {
    return false; // it has ended meanwhile
  }
}

export class FpmServer {
  private constructor(
    private readonly dir: string,
    private readonly master: ChildProcess,
  ) {}

  /** @param dir a folder for it alone, made here */
  static async start(php: string, dir: string): Promise<FpmServer> {
    const user = unprivileged();
    mkdirSync(dir);
    for (const script of ["preload.php", "page.php"]) copyFileSync(program(script), path.join(dir, script));
    writeFileSync(
      path.join(dir, "fpm.conf"),
      `[global]
error_log = ${dir}/log
daemonize = no
[www]
listen = ${dir}/socket
pm = static
pm.max_children = ${WORKERS}
pm.max_requests = ${REQUESTS_A_WORKER}
`,
    );
    if (user.uid !== undefined && user.gid !== undefined) chownSync(dir, user.uid, user.gid);
    const settings = {
      zend_extension: path.join(fetchFpm(), "root/usr/lib/php/20220829/opcache.so"),
      "opcache.preload": path.join(dir, "preload.php"),
      // A page that is compiled again would be more hits.
      "opcache.validate_timestamps": "0",
      "opcache.file_update_protection": "0",
    };
    const args = ["-n", "-F", "-y", path.join(dir, "fpm.conf")];
    for (const [key, value] of Object.entries(settings)) args.push("-d", `${key}=${value}`);
    const libs = path.join(fetchFpm(), "libs/usr/lib/x86_64-linux-gnu");
    // Without USE_ZEND_DTRACE PHP goes through its ordinary functions, which have no sites.
    const master = start(php, args, { env: { ...libraryPath(libs), USE_ZEND_DTRACE: "1" }, ...user });
    master.stdout?.resume();
    master.stderr?.resume();
    const server = new FpmServer(dir, master);
    try {
      for (let attempt = 0; !server.log.includes("ready to handle connections"); attempt++) {
        if (attempt === 100 || master.exitCode !== null) throw new Error(`php-fpm does not come up:\n${server.log}`);
        await sleep(50);
      }
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get log(): string {
    try {
      return readFileSync(path.join(this.dir, "log"), "utf8");
    } catch {
      return "";
    }
  }

  /** The workers of this moment. */
  get workers(): readonly number[] {
    const pid = this.master.pid!;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ");
    return children.filter((child) => child !== "").map(Number);
  }

  /** How the workers that the log tells of have ended, as the log says it, and how often. */
  get endings(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const [, how] of this.log.matchAll(/child \d+ exited (with code \d+|on signal \d+)/g)) {
      counts[how!] = (counts[how!] ?? 0) + 1;
    }
    return counts;
  }

  ask(n: number): Promise<string | undefined> {
    return fastcgi(path.join(this.dir, "socket"), path.join(this.dir, "page.php"), `n=${n}`);
  }

  /** Asks for so many pages, each worker's share at a time; the answers in the order of asking. */
  async load(requests: number): Promise<readonly (string | undefined)[]> {
    const answers: (string | undefined)[] = [];
    let next = 0;
    const client = async (): Promise<void> => {
      while (next < requests) {
        const n = next++;
        answers[n] = await this.ask(n);
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, client));
    return answers;
  }

  /** Returns when all workers are there and wait for a connection: the last page's request is over, not only answered. */
  async settled(): Promise<readonly number[]> {
    for (let i = 0; i < 200; i++) {
      const { workers } = this;
      if (workers.length === WORKERS && workers.every(waitsForConnection)) return workers;
      await sleep(20);
    }
    throw new Error(`workers that do not wait for connections:\n${this.log}`);
  }

  /** Kills a worker that waits for a connection, and waits for the one that takes its place. */
  async killWorker(): Promise<void> {
    const [worker] = await this.settled();
    process.kill(worker!, "SIGKILL");
    while ((await this.settled()).includes(worker!)) await sleep(20);
  }

  async stop(): Promise<void> {
    if (this.master.exitCode !== null || this.master.signalCode !== null) return;
    const ended = new Promise<void>((resolve) => this.master.once("close", () => resolve()));
    this.master.kill("SIGTERM");
    const timer = setTimeout(() => {
      for (const pid of [this.master.pid!, ...this.workers]) process.kill(pid, "SIGKILL");
    }, 10_000);
    await ended;
    clearTimeout(timer);
  }
}
