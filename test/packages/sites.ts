/**
 * The sites of one file as things that can be counted and opened: uprobes on all of them, or their semaphores raised in
 * a copy. Original and rewritten file are compared note by note, in file order: rewriting moves locations, not notes.
 */
import { closeSync, copyFileSync, openSync, readSync, writeSync } from "node:fs";
import { addressToOffset, readelfSites } from "./readelf.js";
import { type AttachedProbes, attach } from "./uprobes.js";

/** What `countHits` returns: one entry a note, in file order. */
export interface SiteHits {
  readonly probe: string;
  readonly hits: number;
}

export interface CountedSites extends Pick<AttachedProbes, "detach"> {
  perSite(): readonly SiteHits[];
}

/** Attaches a uprobe to every site of a file; the semaphores are raised by the kernel as long as it is attached. */
export function attachAll(file: string): CountedSites {
  const toOffset = addressToOffset(file);
  const sites = readelfSites(file).map((s) => ({
    probe: `${s.provider}:${s.name}`,
    path: file,
    offset: mapped(toOffset(s.location, true), `${s.provider}:${s.name}`),
    refCtrOffset: s.semaphore === 0 ? undefined : mapped(toOffset(s.semaphore), `semaphore of ${s.provider}:${s.name}`),
  }));
  // Two notes may share a site: it gets one uprobe, whose hits count for both.
  const points = [...new Map(sites.map((s) => [s.offset, s])).values()];
  const probes = attach(points);
  return {
    detach: probes.detach,
    perSite: () => {
      const hits = probes.hits();
      const byOffset = new Map(points.map((p, i) => [p.offset, hits[i]!]));
      return sites.map((s) => ({ probe: s.probe, hits: byOffset.get(s.offset)! }));
    },
  };
}

/** Copies a file with all its semaphores set to 1: its sites are passed without any tracer. */
export function copyWithSemaphoresRaised(file: string, copy: string): number {
  copyFileSync(file, copy);
  const toOffset = addressToOffset(file);
  const semaphores = new Set(readelfSites(file).map((s) => s.semaphore));
  semaphores.delete(0);
  const fd = openSync(copy, "r+");
  try {
    for (const address of semaphores) {
      const offset = mapped(toOffset(address), `semaphore at 0x${address.toString(16)}`);
      const value = Buffer.alloc(2);
      readSync(fd, value, 0, 2, offset);
      if (value.readUInt16LE() !== 0) throw new Error(`${file}: no idle semaphore at 0x${address.toString(16)}`);
      value.writeUInt16LE(1);
      writeSync(fd, value, 0, 2, offset);
    }
  } finally {
    closeSync(fd);
  }
  return semaphores.size;
}

/** Sites that were passed at least once, and all of them. */
export function coverage(hits: readonly SiteHits[]): {
  readonly hit: number;
  readonly sites: number;
  readonly never: readonly string[];
} {
  const never = hits.filter((h) => h.hits === 0).map((h) => h.probe);
  return { hit: hits.length - never.length, sites: hits.length, never };
}

/** One line a probe, for the log of the test run. */
export function hitTable(title: string, before: readonly SiteHits[], after: readonly SiteHits[]): string {
  const lines = before.map(
    (b, i) => `  ${b.probe.padEnd(42)} ${String(b.hits).padStart(10)} ${String(after[i]?.hits ?? "-").padStart(10)}`,
  );
  return [`${title}: ${"hits per site, unrewritten and rewritten"}`, ...lines].join("\n");
}

function mapped(offset: number | null, what: string): number {
  if (offset === null) throw new Error(`${what}: not in a mapped part of the file`);
  return offset;
}
