/**
 * Root works in a directory of somebody else's, who may put anything in the place of anything there at every moment: a
 * program that does nothing else runs beside, as user nobody. Each scene is tried 50 times and must never come true.
 * When attributes were copied by path, the links in the place of the temporary file and of the output came true each
 * time, those in the place of the input in one of four, and the file could be had nearly each time.
 */
import { spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { usdtNop5 } from "../commands/in-process.js";
import { build } from "../fixtures/build.js";
import { folder, sample } from "../sample/sample.js";

const NOBODY = 65534;
const TRIES = process.env.SMOKE === "1" ? 5 : 50;
const isRoot = process.getuid?.() === 0;
const why = isRoot ? "" : " (skipped: it takes root to work in somebody else's directory)";

let attacker: string;
beforeAll(async () => {
  const source = fileURLToPath(new URL("./attacker.c", import.meta.url));
  const built = await build({ output: "attacker", compiler: "gcc", sources: [source], flags: ["-O2"] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  attacker = built.path;
});

/** A directory of nobody's with a program of nobody's in it, and beside it what is root's. */
interface Scene {
  readonly place: string;
  readonly program: string;
  /** A file of root's that nobody else may read. */
  readonly secret: string;
  /** A setuid program of root's. */
  readonly privileged: string;
}

async function scene(above: string, number: number): Promise<Scene> {
  const place = join(above, `place${number}`);
  mkdirSync(place, { mode: 0o755 });
  const [program, secret, privileged] = [join(place, "program"), join(above, "secret"), join(above, "privileged")];
  copyFileSync(await sample(), program);
  chmodSync(program, 0o755);
  for (const path of [place, program]) chownSync(path, NOBODY, NOBODY);
  writeFileSync(secret, "secret", { mode: 0o600 });
  copyFileSync("/bin/true", privileged);
  chmodSync(privileged, 0o4755);
  return { place, program, secret, privileged };
}

interface Attack {
  /** How many temporary files the attacker saw, and whether it won. */
  readonly seen: number;
  readonly won: boolean;
}

/** Runs `body` while the attacker is at work. */
async function attacked(kind: string, at: Scene, target: string, body: () => Promise<unknown>): Promise<Attack> {
  const ids = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  const child = spawn("setpriv", [...ids, join(at.place, "..", "attacker"), kind, at.place, "program", target], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      if (said.startsWith("ready\n")) resolve();
    });
    child.on("close", () => reject(new Error(`the attacker ended: ${said}`)));
  });
  const ended = new Promise<void>((resolve) => child.on("close", () => resolve()));
  await ready;
  await body();
  child.kill("SIGTERM");
  await ended;
  const [seen, won] = said.slice("ready\n".length).split(" ").map(Number);
  return { seen: seen!, won: won === 1 };
}

/** Tries a scene, and counts the tries in which the attacker saw something, and those in which it came true. */
async function tried(
  attempt: (at: Scene) => Promise<{ readonly seen: number; readonly won: boolean }>,
): Promise<{ seen: number; won: number }> {
  const above = folder();
  chmodSync(above, 0o755);
  copyFileSync(attacker, join(above, "attacker"));
  const result = { seen: 0, won: 0 };
  for (let i = 0; i < TRIES; i++) {
    const at = await scene(above, i);
    const { seen, won } = await attempt(at);
    if (seen > 0) result.seen++;
    if (won) result.won++;
    rmSync(at.place, { recursive: true, force: true });
  }
  console.log(
    `${expect.getState().currentTestName}: ${TRIES} tries, ${result.seen} with something to attack, ${result.won} came true`,
  );
  return result;
}

const isTouched = ({ secret }: Scene): boolean => {
  const { uid, gid, mode } = statSync(secret);
  return uid !== 0 || gid !== 0 || (mode & 0o7777) !== 0o600 || readFileSync(secret, "utf8") !== "secret";
};

/** Whether there is a program of root's with setuid that root did not put there. */
const hasSetuid = ({ place }: Scene): boolean =>
  readdirSync(place, { withFileTypes: true }).some((entry) => {
    if (!entry.isFile()) return false;
    const { uid, mode } = lstatSync(join(place, entry.name));
    return uid === 0 && (mode & 0o4000) !== 0;
  });

const ways: readonly (readonly [string, (at: Scene) => readonly string[]])[] = [
  ["--in-place", () => ["--in-place"]],
  ["-o", ({ place }) => ["-o", join(place, "out")]],
];

describe.skipIf(!isRoot)(`in a directory of somebody else's${why}`, () => {
  it.each(ways)("a link in the place of the temporary file gives away no file of root's: %s", async (_way, options) => {
    const { seen, won } = await tried(async (at) => {
      const { seen } = await attacked("temporary", at, at.secret, () =>
        usdtNop5("rewrite", at.program, ...options(at)),
      );
      return { seen, won: isTouched(at) };
    });
    // Else nothing was tried.
    expect(seen).toBeGreaterThan(TRIES / 5);
    expect(won).toBe(0);
  });

  it.each(ways)("a link in the place of the input makes no setuid program of root's: %s", async (_way, options) => {
    const { seen, won } = await tried(async (at) => {
      const { seen, won } = await attacked("input", at, at.privileged, () =>
        usdtNop5("rewrite", at.program, ...options(at)),
      );
      return { seen, won: won || hasSetuid(at) };
    });
    expect(seen).toBeGreaterThan(TRIES / 5);
    expect(won).toBe(0);
  });

  it.each(ways)("nobody gets hold of the temporary file, whose ever it becomes: %s", async (_way, options) => {
    const { seen, won } = await tried((at) => {
      chmodSync(at.program, 0o6755);
      return attacked("grab", at, at.secret, () => usdtNop5("rewrite", at.program, ...options(at)));
    });
    expect(seen).toBeGreaterThan(TRIES / 5);
    expect(won).toBe(0);
  });

  it("a link that was put where the output is to be leads nowhere", async () => {
    const { won } = await tried(async (at) => {
      symlinkSync(at.secret, join(at.place, "out"));
      const { status } = await usdtNop5("rewrite", at.program, "-o", join(at.place, "out"));
      expect(status).toBe(0);
      return { seen: 1, won: isTouched(at) };
    });
    expect(won).toBe(0);
  });
});
