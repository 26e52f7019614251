/**
 * Runs that are ended at any moment: the file is whole, old or new, and nothing stays beside it. Half of the signals come at
 * a moment drawn from a whole run, half right when something appears beside the file, where names are made and removed.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { startNop5 } from "../command.js";
import { sampleCopy } from "../sample/sample.js";

const program = join(import.meta.dirname, "../../bin/usdt-nop5.js");
const signals = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"] as const;
const RUNS = process.env.SMOKE === "1" ? 12 : 96;

interface Scene {
  readonly path: string;
  readonly old: Buffer;
  readonly rewritten: Buffer;
  /** How long a run takes, in ms. */
  readonly length: number;
}

async function scene(): Promise<Scene> {
  const path = await sampleCopy();
  const old = readFileSync(path);
  const started = performance.now();
  expect((await startNop5("rewrite", "--in-place", path)).status).toBe(0);
  return { path, old, rewritten: readFileSync(path), length: performance.now() - started };
}

/** One run that is ended; says what became of it. */
async function ended(number: number, { path, old, rewritten, length }: Scene): Promise<"old" | "new"> {
  const folder = dirname(path);
  writeFileSync(path, old);
  const child = spawn(process.execPath, [program, "rewrite", "--in-place", path], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let errors = "";
  child.stderr.on("data", (text) => {
    errors += text;
  });
  let over = false;
  const end = new Promise<unknown>((resolve) =>
    child.on("close", (code, signal) => {
      over = true;
      resolve(signal ?? code);
    }),
  );
  const signal = signals[number % signals.length]!;
  if (number % 2 === 0) await new Promise((resolve) => setTimeout(resolve, Math.random() * length));
  else {
    // Whoever waits by timers comes too late.
    while (!over && readdirSync(folder).length === 1) await new Promise((resolve) => setImmediate(resolve));
    const until = performance.now() + Math.random() * 4;
    while (performance.now() < until);
  }
  child.kill(signal);
  const status = await end;
  expect([signal, 0], `run ${number}, ${signal}: ${errors}`).toContain(status);
  expect(readdirSync(folder), `run ${number}, ${signal}`).toEqual(["probes"]);
  const now = readFileSync(path);
  if (now.equals(old)) return "old";
  expect(now.equals(rewritten)).toBe(true);
  return "new";
}

describe("a run that is ended", () => {
  it(`leaves the file whole and nothing beside it, ${RUNS} times`, async () => {
    const at = await scene();
    const counts = { old: 0, new: 0 };
    for (let i = 0; i < RUNS; i++) counts[await ended(i, at)]++;
    console.log(`${RUNS} runs ended: ${counts.old} before the file was replaced, ${counts.new} after`);
    expect(counts.old).toBeGreaterThan(0);
  });
});
