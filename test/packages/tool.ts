/**
 * The command under test, with the documents that the contract promises: as its users run it, `bin/usdt-nop5.js`, or in this
 * process, which is quicker and does the same (test/commands/process.test.ts).
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { usdtNop5 as inThisProcess } from "../commands/in-process.js";
import { type RunResult, run } from "./scratch.js";

const bin = fileURLToPath(new URL("../../bin/usdt-nop5.js", import.meta.url));
const built = fileURLToPath(new URL("../../dist", import.meta.url));

export interface SiteEntry {
  readonly provider: string;
  readonly name: string;
  readonly location: string;
  readonly newLocation: string;
  readonly status: "rewritten" | "already" | "skipped";
  readonly tactic: string | null;
  readonly reason: string | null;
}

export interface RewriteDocument {
  readonly schemaVersion: number;
  readonly size: { readonly input: number; readonly output: number };
  readonly summary: Readonly<Record<"sites" | "rewritten" | "already" | "skipped", number>>;
  readonly sites: readonly SiteEntry[];
}

/** What `rewrite` takes to run the command. */
export type Command = (...args: readonly string[]) => Promise<RunResult>;

export const usdtNop5: Command = async (...args) => {
  const began = performance.now();
  const printed = await inThisProcess(...args);
  return { ...printed, signal: null, milliseconds: performance.now() - began };
};

export async function startNop5(...args: readonly string[]): Promise<RunResult> {
  if (!existsSync(bin) || !existsSync(built)) throw new Error("build the command first: npm run build");
  return run(process.execPath, [bin, ...args], { env: { NO_COLOR: "1", CI: "true" } });
}

interface Rewriting {
  readonly report: RewriteDocument;
  readonly milliseconds: number;
}

/** Layout nop5: the bare five bytes, the layout that all five files get under the first, main job. */
export const rewrite = (input: string, output: string, ...options: readonly string[]): Promise<Rewriting> =>
  rewriteBy(usdtNop5, input, output, ...options);

export async function rewriteBy(
  command: Command,
  input: string,
  output: string,
  ...options: readonly string[]
): Promise<Rewriting> {
  const r = await command("rewrite", input, "-o", output, "--layout", "nop5", "--json", ...options);
  if (r.status !== 0) throw new Error(`rewrite ${input}: exit ${r.status}\n${r.stderr}`);
  return { report: JSON.parse(r.stdout) as RewriteDocument, milliseconds: r.milliseconds };
}
