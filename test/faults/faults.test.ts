/**
 * Each system call that changes a file fails once, in each of its places: `npm run test:faults` (FAULTS=all) tries all of them
 * with two errors, `npm test` the first of each name with one. The file is what it was, or complete and new; nothing stays beside
 * it; the error line says what failed; and where nothing was written the status is 1.
 */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { startNop5 } from "../command.js";
import { folder, sample } from "../sample/sample.js";
import { failing, injected, type Place, placesOf, traced } from "./calls.js";

const all = process.env.FAULTS === "all";
const root = process.getuid?.() === 0;
const errors = all ? ["EIO", "ENOSPC", "EPERM"] : ["EIO"];
/** The error in the words of this program, and in those of cp. */
const words: Readonly<Record<string, RegExp>> = {
  EIO: /i\/o error|input\/output error/i,
  ENOSPC: /no space left on (?:the )?device/i,
  EPERM: /operation not permitted/i,
};

function whyNot(): string | null {
  try {
    const traced = ["-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", "true"];
    execFileSync("strace", ["-f", "--seccomp-bpf", ...traced], { stdio: "ignore" });
    return null;
  } catch {
    return "no strace that can let system calls fail";
  }
}
const missing = whyNot();

/** A run to be disturbed. */
interface Scene {
  readonly name: string;
  /** Whether the file is a rewritten one. */
  readonly rewritten: boolean;
  readonly args: (path: string) => readonly string[];
  /** The file that the result goes to. */
  readonly output: (path: string) => string;
}

const scenes: readonly Scene[] = [
  {
    name: "rewrite -o",
    rewritten: false,
    args: (path) => ["rewrite", path, "-o", `${path}.out`],
    output: (path) => `${path}.out`,
  },
  { name: "rewrite --in-place", rewritten: false, args: (p) => ["rewrite", "--in-place", p], output: (p) => p },
  { name: "revert --in-place", rewritten: true, args: (p) => ["revert", "--in-place", p], output: (p) => p },
];

const scratch = mkdtempSync(join(tmpdir(), "usdt-nop5-faults-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A file with all that can be lost: an owner that is not the caller, an access control list, an extended attribute. */
async function dressed(rewritten: boolean): Promise<string> {
  const path = join(folder(), "probes");
  copyFileSync(await sample(), path);
  if (rewritten) expect((await startNop5("rewrite", "--in-place", path)).status).toBe(0);
  if (root) chownSync(path, 65534, 65534);
  chmodSync(path, root ? 0o4751 : 0o751);
  for (const [tool, ...args] of [
    ["setfattr", "-n", "user.test", "-v", "1"],
    ["setfacl", "-m", "u:1:r"],
  ])
    try {
      execFileSync(tool!, [...args, path], { stdio: "ignore" });
    } catch {
      // The file system has none: then there is nothing to lose.
    }
  return path;
}

/** What an undisturbed run of a scene writes. */
async function expected(scene: Scene): Promise<Buffer> {
  const path = await dressed(scene.rewritten);
  expect((await startNop5(...scene.args(path))).status).toBe(0);
  return readFileSync(scene.output(path));
}

const ownership = (path: string): string => {
  const { uid, gid, mode } = statSync(path);
  return `${uid}:${gid} ${mode.toString(8)}`;
};

/** One run in which calls fail; says how it ended. */
async function disturbed(scene: Scene, wanted: Buffer, error: string, places: readonly Place[]): Promise<string> {
  const path = await dressed(scene.rewritten);
  const before = { bytes: readFileSync(path), owner: ownership(path) };
  const log = join(scratch, "failing");
  const { status, stderr } = await traced(log, failing(error, ...places), scene.args(path));
  const what = `${scene.name}, ${error} at ${places.map((p) => p.shown).join(" and ")}: exit ${status} ${stderr}`;
  expect(injected(log), what).toBeGreaterThan(0);
  const output = scene.output(path);
  const inPlace = output === path;
  if (!inPlace) expect(readFileSync(path).equals(before.bytes), what).toBe(true);
  const files = readdirSync(dirname(path)).sort();
  if (status === 0) {
    expect(files, what).toEqual(inPlace ? ["probes"] : ["probes", "probes.out"]);
    expect(readFileSync(output).equals(wanted), what).toBe(true);
    if (inPlace) expect(ownership(path), what).toBe(before.owner);
    return "written all the same";
  }
  expect(status, what).toBe(1);
  expect(files, what).toEqual(["probes"]);
  expect(readFileSync(path).equals(before.bytes), what).toBe(true);
  expect(ownership(path), what).toBe(before.owner);
  const lines = stderr.trimEnd().split("\n");
  const last = lines.at(-1)!;
  expect(last, what).toMatch(/^usdt-nop5: /);
  expect(last, what).toMatch(words[error]!);
  expect(stderr, what).not.toMatch(/defect|\n {4}at /);
  return "untouched";
}

/** By call and outcome, how often. */
const counts = new Map<string, number>();
const count = (call: string, outcome: string): void => {
  const key = `${call}: ${outcome}`;
  counts.set(key, (counts.get(key) ?? 0) + 1);
};
afterAll(() => {
  console.log(
    ["system calls that failed once:", ...[...counts].sort().map(([what, n]) => `  ${what} ${n}`)].join("\n"),
  );
});

/** Of each call's places the first, where not all are tried: of a file's many writes as well. */
const chosen = (places: readonly Place[]): readonly Place[] =>
  all ? places : [...new Map(places.toReversed().map((place) => [place.call, place])).values()];

describe.skipIf(missing !== null)(`a system call that fails${missing === null ? "" : ` (${missing})`}`, () => {
  it.each(scenes)("$name", { timeout: 3_600_000 }, async (scene) => {
    const wanted = await expected(scene);
    const places = chosen(await placesOf(scratch, scene.args(await dressed(scene.rewritten))));
    expect(places.map(({ call }) => call)).toEqual(expect.arrayContaining(["mkdir", "pwrite64", "fsync", "rename"]));
    for (const error of errors)
      for (const place of places) {
        // The report cannot be written: the file is, and that is said (streams.test.ts).
        const outcome = await disturbed(scene, wanted, error, [place]);
        count(place.call, outcome);
        // What happens before the file has its name undoes all; what happens after it, nothing.
        if (["pwrite64", "ftruncate", "mkdir", "openat", "rename", "fsetxattr"].includes(place.call))
          expect(outcome, place.shown).toBe("untouched");
      }
  });

  it.each(scenes)("$name: and to take away what is there fails once as well", async (scene) => {
    const wanted = await expected(scene);
    const places = await placesOf(scratch, scene.args(await dressed(scene.rewritten)));
    const write = places.find(({ call }) => call === "pwrite64")!;
    for (const call of ["unlink", "rmdir"]) {
      const outcome = await disturbed(scene, wanted, "EIO", [write, { call, number: 1, shown: call }]);
      expect(outcome).toBe("untouched");
      count(call, outcome);
    }
  });
});
