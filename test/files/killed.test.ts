/**
 * Runs that are killed outright (SIGKILL, which nobody can hear of) at random moments, and runs on one file at once: the file is
 * whole, old or new. What a killed run leaves is its folder `.usdt-nop5-...` and nothing else; no later run minds it. `KILLS=300`
 * says how often each command is killed; `npm test` does it a few times.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { bin, startNop5 } from "../command.js";
import { sampleCopy } from "../sample/sample.js";

const KILLS = Number(process.env.KILLS ?? 12);
const LEFT = /^\.usdt-nop5-[0-9a-f]{12}$/;

interface Scene {
  readonly path: string;
  readonly before: Buffer;
  readonly after: Buffer;
  /** How long a run takes, in ms. */
  readonly length: number;
}

async function scene(command: "rewrite" | "revert"): Promise<Scene> {
  const path = await sampleCopy();
  const original = readFileSync(path);
  expect((await startNop5("rewrite", "--in-place", path)).status).toBe(0);
  const rewritten = readFileSync(path);
  const [before, after] = command === "rewrite" ? [original, rewritten] : [rewritten, original];
  writeFileSync(path, before);
  const started = performance.now();
  expect((await startNop5(command, "--in-place", path)).status).toBe(0);
  return { path, before, after, length: performance.now() - started };
}

/** One run that is killed: every other as soon as it has made its folder, and some moments later. */
async function killed(number: number, command: string, { path, before, after, length }: Scene) {
  writeFileSync(path, before);
  const folder = dirname(path);
  const there = readdirSync(folder).length;
  const child = spawn(process.execPath, [bin, command, "--in-place", path], { stdio: "ignore" });
  let over = false;
  const end = new Promise<string>((resolve) =>
    child.on("close", (code, signal) => {
      over = true;
      resolve(signal ?? String(code));
    }),
  );
  if (number % 2 === 0) await new Promise((resolve) => setTimeout(resolve, Math.random() * length));
  else {
    while (!over && readdirSync(folder).length === there) await new Promise((resolve) => setImmediate(resolve));
    const until = performance.now() + Math.random() * 12;
    while (performance.now() < until);
  }
  child.kill("SIGKILL");
  expect(["SIGKILL", "0"]).toContain(await end);
  const others = readdirSync(folder).filter((name) => name !== "probes");
  for (const name of others) {
    expect(name).toMatch(LEFT);
    // Nobody but the caller may enter it.
    expect(statSync(join(folder, name)).mode & 0o777).toBe(0o700);
    for (const inside of readdirSync(join(folder, name))) expect(inside).toBe("new");
  }
  const now = readFileSync(path);
  const isOld = now.equals(before);
  expect(isOld || now.equals(after), `run ${number}`).toBe(true);
  return { isOld, left: others.length - (there - 1) };
}

describe("a run that is killed", () => {
  it.each(["rewrite", "revert"] as const)(
    "%s --in-place leaves the file whole",
    { timeout: 7_200_000 },
    async (command) => {
      const at = await scene(command);
      const counts = { old: 0, new: 0, left: 0 };
      for (let i = 0; i < KILLS; i++) {
        const { isOld, left } = await killed(i, command, at);
        counts[isOld ? "old" : "new"]++;
        counts.left += left;
      }
      console.log(
        `${KILLS} times ${command} --in-place killed: ${counts.old} before the file was replaced, ${counts.new} after; ` +
          `${counts.left} folders stayed`,
      );
      expect(counts.old + counts.new).toBe(KILLS);
      // What has stayed disturbs nobody, and is taken away as docs/reliability.md says.
      writeFileSync(at.path, at.before);
      expect((await startNop5(command, "--in-place", at.path)).status).toBe(0);
      expect(readFileSync(at.path).equals(at.after)).toBe(true);
      for (const name of readdirSync(dirname(at.path)))
        if (LEFT.test(name)) rmSync(join(dirname(at.path), name), { recursive: true });
      expect(readdirSync(dirname(at.path))).toEqual(["probes"]);
    },
  );
});

describe("runs on one file at once", () => {
  it("8 in place: each is done, or says that the file changed, and the file is whole", async () => {
    const { path, before, after } = await scene("rewrite");
    let done = 0;
    for (let round = 0; round < (KILLS >= 300 ? 10 : 2); round++) {
      writeFileSync(path, before);
      const runs = await Promise.all(Array.from({ length: 8 }, () => startNop5("rewrite", "--in-place", path)));
      for (const { status, stderr } of runs)
        if (status === 0) done++;
        else {
          expect(status, stderr).toBe(1);
          expect(stderr).toMatch(/^usdt-nop5: .*(?:changed|vanished) while it was (?:worked on|read)\n$/m);
        }
      expect(readFileSync(path).equals(after)).toBe(true);
      expect(readdirSync(dirname(path))).toEqual(["probes"]);
    }
    console.log(`8 runs at once on one file: ${done} were done, the others told that it had changed`);
    expect(done).toBeGreaterThan(0);
  });

  it("8 to one output: it is whole", async () => {
    const { path, before, after } = await scene("rewrite");
    writeFileSync(path, before);
    const runs = await Promise.all(Array.from({ length: 8 }, () => startNop5("rewrite", path, "-o", `${path}.out`)));
    expect(runs.map(({ status }) => status)).toEqual(Array(8).fill(0));
    expect(readFileSync(`${path}.out`).equals(after)).toBe(true);
    expect(readdirSync(dirname(path)).sort()).toEqual(["probes", "probes.out"]);
  });
});
