/**
 * Runs damaged programs where they can do little (programs/confined.c), and says what they did: what they printed, and how
 * they ended.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { build } from "../fixtures/build.js";
import type { Runs } from "./bases.js";

/** What a file does when it is run. */
export type Runner = (file: string) => string;

/** Milliseconds: a loop that damage made is ended. */
const LONGEST = 4000;
const MOST_OUTPUT = 1 << 16;

async function built(output: string, source: string): Promise<string> {
  const file = fileURLToPath(new URL(source, import.meta.url));
  const result = await build({ output, compiler: "gcc", sources: [file], flags: ["-O1"] });
  if (!result.ok) throw new Error(result.because);
  return result.path;
}

/** What runs programs, and libraries through a program that loads them. */
export async function runners(): Promise<Readonly<Record<Runs, Runner | null>>> {
  const confined = await built("confined", "programs/confined.c");
  const opened = await built("opened", "../fixtures/library/opened.c");
  const runnerOf =
    (host: readonly string[]): Runner =>
    (file) => {
      const { status, signal, stdout } = spawnSync(confined, [...host, file], {
        stdio: ["ignore", "pipe", "ignore"],
        timeout: LONGEST,
        killSignal: "SIGKILL",
        maxBuffer: MOST_OUTPUT,
        cwd: "/",
        env: { LC_ALL: "C" },
      });
      return `${stdout?.toString("latin1") ?? ""} ends with ${signal ?? status}`;
    };
  return { program: runnerOf([]), library: runnerOf([opened]), not: null };
}
