/** The command under test, run as its users run it, and the parts of its documents that tests read. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Outcome, run } from "./run.js";

export const bin = fileURLToPath(new URL("../bin/usdt-nop5.js", import.meta.url));
const built = fileURLToPath(new URL("../dist", import.meta.url));

export function usdtNop5(...args: readonly string[]): Promise<Outcome> {
  if (!existsSync(built)) throw new Error("the command is not built: npm run build");
  return run(process.execPath, [bin, ...args]);
}

export interface ListedSite {
  readonly provider: string;
  readonly name: string;
  readonly location: string;
  readonly semaphore: string | null;
  readonly arguments: readonly string[];
  readonly instruction: string;
}

export interface RewrittenSite {
  readonly provider: string;
  readonly name: string;
  readonly location: string;
  readonly newLocation: string;
  readonly status: "rewritten" | "already" | "skipped";
  readonly tactic: string | null;
  readonly redZone: "unused" | "live" | "unknown";
  readonly guard: boolean;
  readonly reason: string | null;
}

export interface RewriteDocument {
  readonly summary: Readonly<Record<"sites" | "rewritten" | "already" | "skipped", number>>;
  readonly sites: readonly RewrittenSite[];
  readonly hazards: readonly { readonly code: string; readonly message: string }[];
  readonly forkGuard: {
    readonly installed: boolean;
    readonly reason: string | null;
    readonly sites: number;
    readonly pages: number;
  } | null;
}

/** The document of a command that has to succeed. */
async function document(...args: readonly string[]): Promise<unknown> {
  const outcome = await usdtNop5(...args, "--json");
  if (outcome.status !== 0) {
    throw new Error(`usdt-nop5 ${args.join(" ")}: ${outcome.signal ?? `exit ${outcome.status}`}\n${outcome.stderr}`);
  }
  return JSON.parse(outcome.stdout);
}

export async function list(file: string): Promise<readonly ListedSite[]> {
  const { files } = (await document("list", file)) as { files: readonly { sites: readonly ListedSite[] }[] };
  return files[0]!.sites;
}

export async function rewrite(file: string, output: string, ...options: readonly string[]): Promise<RewriteDocument> {
  return (await document("rewrite", "--layout", "nop5", file, "-o", output, ...options)) as RewriteDocument;
}
