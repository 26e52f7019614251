/**
 * One corpus file twice, unrewritten and rewritten, in a scratch directory: private copies, so that uprobes put on them
 * reach no other process of the machine, and the same two again with their semaphores raised.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import path from "node:path";
import { type CorpusFile, corpusPath } from "./corpus.js";
import { rewriteOnce } from "./rewritten-once.js";
import { type RunResult, type Scratch, scratchDirectory } from "./scratch.js";
import { attachAll, copyWithSemaphoresRaised, coverage, hitTable, type SiteHits } from "./sites.js";
import type { RewriteDocument } from "./tool.js";

export interface Twins {
  readonly scratch: Scratch;
  /** Both have the same file name, in folders of their own: programs print what they are called. */
  readonly original: string;
  readonly rewritten: string;
  readonly report: RewriteDocument;
}

export async function makeTwins(file: CorpusFile, fileName = path.basename(file.path)): Promise<Twins> {
  const scratch = scratchDirectory(fileName);
  try {
    const [original, rewritten] = ["original", "rewritten"].map((folder) => {
      mkdirSync(scratch.file(folder));
      return path.join(scratch.file(folder), fileName);
    }) as [string, string];
    copyFileSync(corpusPath(file), original);
    // The bare five bytes, the layout that all five files get where nobody minds what reads below rsp.
    const report = await rewriteOnce<RewriteDocument>(original, rewritten, "--layout", "nop5");
    if (report.summary.rewritten === 0)
      throw new Error(`${fileName}: nothing was rewritten, there is nothing to compare`);
    return { scratch, original, rewritten, report };
  } catch (error) {
    scratch.remove();
    throw error;
  }
}

/** The two again, with every semaphore at 1; and how many semaphores that were. */
export function raiseTwins(twins: Twins): {
  readonly original: string;
  readonly rewritten: string;
  readonly semaphores: number;
} {
  const fileName = path.basename(twins.original);
  const [original, rewritten] = ["original-raised", "rewritten-raised"].map((folder) => {
    mkdirSync(twins.scratch.file(folder));
    return path.join(twins.scratch.file(folder), fileName);
  }) as [string, string];
  copyWithSemaphoresRaised(twins.original, original);
  return { original, rewritten, semaphores: copyWithSemaphoresRaised(twins.rewritten, rewritten) };
}

/** What a person sees of a run; the time it took is nobody's business. */
export function visible(r: RunResult): Omit<RunResult, "milliseconds"> {
  const { milliseconds: _, ...rest } = r;
  return rest;
}

export interface CountedRun<T> {
  readonly result: T;
  readonly hits: readonly SiteHits[];
}

/** Runs something while every site of `file` has a uprobe. */
export async function counted<T>(file: string, body: () => Promise<T>): Promise<CountedRun<T>> {
  const probes = attachAll(file);
  try {
    const result = await body();
    return { result, hits: probes.perSite() };
  } finally {
    probes.detach();
  }
}

export function printHits(title: string, before: readonly SiteHits[], after: readonly SiteHits[]): void {
  const { hit, sites, never } = coverage(after);
  console.log(
    `${hitTable(title, before, after)}\n  passed ${hit} of ${sites} sites${never.length > 0 ? `, never: ${never.join(" ")}` : ""}`,
  );
}
