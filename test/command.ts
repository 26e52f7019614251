/** The command under test, and the parts of its documents that tests read. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { usdtNop5 as inThisProcess } from "./commands/in-process.js";
import { type Outcome, run } from "./run.js";

/** Another build may be named, to see what a test says of it. */
export const bin = process.env.USDT_NOP5 ?? fileURLToPath(new URL("../bin/usdt-nop5.js", import.meta.url));
const built = fileURLToPath(new URL("../dist", import.meta.url));

/** What reads files and writes files, and neither starts processes nor waits for signals. */
const quiet = new Set(["list", "rewrite", "revert", "verify"]);

/**
 * Runs the command, in this process where that says the same: a process of its own takes seconds to become as quick as this one
 * is after the first call. test/commands/process.test.ts holds the two against each other.
 */
export async function usdtNop5(...args: readonly string[]): Promise<Outcome> {
  if (!quiet.has(args[0]!)) return startNop5(...args);
  const { status, stdout, stderr } = await inThisProcess(...args);
  const latin1 = (text: string): string => Buffer.from(text).toString("latin1");
  return { status, signal: null, stdout: latin1(stdout), stderr: latin1(stderr) };
}

/** Runs the command as its users do. */
export async function startNop5(...args: readonly string[]): Promise<Outcome> {
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
