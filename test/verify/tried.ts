/** A finished program is rewritten as the command does it, run on both sides, and verified: what is not as it must be. */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { parseElf } from "../../src/elf/image.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteReport } from "../../src/rewritten/contract.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";
import { scratch } from "../rewrite/compile.js";
import { run } from "../run.js";

export interface Tried {
  readonly report: RewriteReport;
  readonly rewritten: number;
  /** Empty where all is well. */
  readonly problems: readonly string[];
  /** Milliseconds that rewriting and verifying took, in memory. */
  readonly rewriting: number;
  readonly verifying: number;
}

/** @param path a program that ends with status 0, or a file that is not to be run */
export async function tryRewriting(path: string, isRun = true): Promise<Tried> {
  const original = parseElf(readFileSync(path));
  const began = performance.now();
  const { content, report } = rewrite(original, {
    kernel: "6.18",
    layout: "auto",
    only: [],
    newBuildId: false,
    tableAtEnd: false,
    keepOffsets: false,
    forkGuard: true,
  });
  const rewriting = performance.now() - began;
  const rewritten = report.sites.filter((s) => s.status === "rewritten").length;
  if (content === null) return { report, rewritten, problems: [], rewriting, verifying: 0 };
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  const problems = isRun ? await differingRuns(path, bytes) : [];
  const start = performance.now();
  const image = parseElf(bytes);
  const { sites, findings } = verify(image, carriedOriginal(image));
  const verifying = performance.now() - start;
  for (const s of sites) if (s.verdict !== "equivalent") problems.push(`${s.name} ${s.verdict}: ${s.reason}`);
  for (const { where, what } of findings) problems.push(`${where}: ${what}`);
  return { report, rewritten, problems, rewriting, verifying };
}

async function differingRuns(before: string, bytes: Buffer): Promise<string[]> {
  const after = scratch("rewritten");
  writeFileSync(after, bytes);
  chmodSync(after, 0o755);
  const [a, b] = await Promise.all([before, after].map((path) => run(path, [], { timeout: 10_000 })));
  if (a!.status !== 0) return [`the original ends with ${a!.status ?? a!.signal}`];
  return a!.stdout === b!.stdout && a!.status === b!.status ? [] : ["not the same output, or end"];
}
