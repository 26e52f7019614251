/** Programs and what rewriting makes of them, side by side under names of one length: names are on the stack too. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type RewriteDocument, rewrite } from "../command.js";
import { scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";

export interface Pair {
  readonly before: string;
  readonly after: string;
  readonly report: RewriteDocument;
}

/** For gcc: no padding, in which jumps could find room. Then calls have to move. */
export const DENSE = ["functions", "jumps", "labels", "loops"].map((what) => `-falign-${what}=1`);

export const program = (name: string): string => new URL(`programs/${name}`, import.meta.url).pathname;

export const canRun = async (...tools: readonly string[]): Promise<boolean> => {
  for (const tool of tools)
    if ((await run(tool, ["--version"]).catch(() => ({ status: 1 }))).status !== 0) return false;
  return true;
};

/** Compiles a program of this folder, changes it by `patch`, and rewrites it; all of its sites must be rewritten but those that may be left. */
export async function build(
  source: string,
  compiler: string,
  flags: readonly string[],
  options: readonly string[] = [],
  patch: (file: string) => void | Promise<void> = () => {},
  mayLeave: readonly string[] = [],
): Promise<Pair> {
  const folder = scratch("pair");
  mkdirSync(folder);
  const [before, after] = [join(folder, "before"), join(folder, "after_")];
  await must(compiler, [...flags, program(source), "-o", before, "-w"]);
  await patch(before);
  const report = await rewrite(before, after, ...options);
  const left = report.sites.filter((s) => s.status !== "rewritten" && !mayLeave.includes(s.name));
  if (left.length > 0) throw new Error(`left: ${left.map((s) => `${s.name}: ${s.reason}`).join("; ")}`);
  return { before, after, report };
}

/** Runs a program where it finds the same addresses every time. */
export const steadily = (file: string, ...args: readonly string[]) => run("setarch", ["-R", file, ...args]);
