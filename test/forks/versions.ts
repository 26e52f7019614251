/**
 * One file three times, for processes that fork: as it is, rewritten with `auto`, which gives nop5 with the fork guard, and
 * rewritten to bare nop5 without the guard. The third is there to lose its children: as long as it does, children that live
 * with the second one live because of the guard.
 *
 * All probes are attached before the program starts, so that a parent comes by its sites first and its children inherit
 * what the kernel made of them.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";
import { rewriteOnce } from "../packages/rewritten-once.js";
import { type Scratch, scratchDirectory } from "../packages/scratch.js";
import type { SiteHits } from "../packages/sites.js";
import type { RewriteDocument } from "../packages/tool.js";
import { counted } from "../packages/twins.js";

export interface GuardDocument extends RewriteDocument {
  readonly layout: string;
  readonly hazards: readonly { readonly code: string; readonly message: string }[];
  readonly forkGuard: { readonly installed: boolean; readonly reason: string | null; readonly sites: number } | null;
}

export interface Versions {
  readonly scratch: Scratch;
  /** All have the same file name, in folders of their own. */
  readonly original: string;
  readonly guarded: string;
  readonly unguarded: string;
  /** Of the guarded one. */
  readonly report: GuardDocument;
}

const WITHOUT_GUARD = ["--layout", "nop5", "--no-fork-guard"];

/** @param file what is copied and rewritten, under the name by which programs and loaders know it */
export async function makeVersions(file: string, fileName = path.basename(file)): Promise<Versions> {
  const scratch = scratchDirectory(`forks-${fileName}`);
  try {
    const [original, guarded, unguarded] = ["original", "guarded", "unguarded"].map((folder) => {
      mkdirSync(scratch.file(folder));
      return path.join(scratch.file(folder), fileName);
    }) as [string, string, string];
    copyFileSync(file, original);
    const report = await rewriteOnce<GuardDocument>(original, guarded, "--kernel", "6.18");
    await rewriteOnce<GuardDocument>(original, unguarded, ...WITHOUT_GUARD);
    return { scratch, original, guarded, unguarded, report };
  } catch (error) {
    scratch.remove();
    throw error;
  }
}

/** A test of the guard is worth nothing unless the file has nop5 at nearly all of its sites, and the guard to look after them. */
export function expectGuarded({ layout, summary, forkGuard, hazards }: GuardDocument, sites: number): void {
  expect({ layout, forkGuard, hazards }).toMatchObject({
    layout: "nop5",
    forkGuard: { installed: true, reason: null },
  });
  expect(hazards.filter((hazard) => hazard.code === "fork")).toEqual([]);
  expect(summary.sites).toBe(sites);
  expect(summary.rewritten).toBeGreaterThan(0.9 * sites);
}

/** Hits by probe: several sites of one name are one number, as in what tracers print. */
export function byProbe(hits: readonly SiteHits[]): Readonly<Record<string, number>> {
  const sums: Record<string, number> = {};
  for (const { probe, hits: n } of hits) sums[probe] = (sums[probe] ?? 0) + n;
  return sums;
}

export { counted };
