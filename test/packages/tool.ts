/** The command under test, run as its users run it: `bin/usdt-nop5.js`, with the documents that the contract promises. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
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

export async function usdtNop5(...args: readonly string[]): Promise<RunResult> {
  if (!existsSync(bin) || !existsSync(built)) throw new Error("build the command first: npm run build");
  return run(process.execPath, [bin, ...args], { env: { NO_COLOR: "1", CI: "true" } });
}

/** Layout nop5: the bare five bytes, the layout that all five files get under the first, main job. */
export async function rewrite(
  input: string,
  output: string,
  ...options: readonly string[]
): Promise<{ report: RewriteDocument; milliseconds: number }> {
  const r = await usdtNop5("rewrite", input, "-o", output, "--layout", "nop5", "--json", ...options);
  if (r.status !== 0) throw new Error(`rewrite ${input}: exit ${r.status}\n${r.stderr}`);
  return { report: JSON.parse(r.stdout) as RewriteDocument, milliseconds: r.milliseconds };
}
