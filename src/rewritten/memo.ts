/**
 * The memo in the revert section: which options a file was rewritten with, and what became of each note's probe. With
 * it a second run knows that there is nothing to do, and says the same about every site.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { ProbeLayout } from "../usdt/forms.js";
import type { ForkGuardReport, Hazard, RedZone, RewriteOptions, RewriteReport, SiteReport } from "./contract.js";

/** What is kept of each site. */
type MemoSite = Pick<SiteReport, "provider" | "name" | "newLocation" | "redZone" | "guard" | "reason" | "reasonCode">;

export interface Memo {
  readonly options: RewriteOptions;
  readonly layout: ProbeLayout;
  readonly sites: readonly MemoSite[];
  readonly hazards: readonly Hazard[];
  readonly forkGuard: ForkGuardReport | null;
}

/** A site as it is written: old and new location, tactic, red zone, guard, reason and its code. */
type StoredSite = [string, string, Vaddr, Vaddr, string | null, RedZone, boolean, string | null, string | null];

interface Stored {
  readonly options: RewriteOptions;
  readonly layout: ProbeLayout;
  readonly sites: readonly StoredSite[];
  readonly hazards: readonly Hazard[];
  readonly forkGuard: ForkGuardReport | null;
}

/** JSON with the fields in a fixed order: the same input gives the same bytes. */
export function encodeMemo(
  options: RewriteOptions,
  done: Pick<RewriteReport, "layout" | "sites" | "hazards" | "forkGuard">,
): string {
  const stored: Stored = {
    options: normalized(options),
    layout: done.layout,
    sites: done.sites.map((s) => [
      s.provider,
      s.name,
      s.location,
      s.newLocation,
      s.tactic,
      s.redZone,
      s.guard,
      s.reason,
      s.reasonCode,
    ]),
    hazards: done.hazards.map(({ code, message }) => ({ code, message })),
    forkGuard: done.forkGuard,
  };
  return JSON.stringify(stored);
}

function normalized(options: RewriteOptions): RewriteOptions {
  const { kernel, layout, only, newBuildId, tableAtEnd, keepOffsets, forkGuard } = options;
  return { kernel, layout, only: [...only].sort(), newBuildId, tableAtEnd, keepOffsets, forkGuard };
}

/** Reads what encodeMemo wrote; undefined where it is something else. */
export function decodeMemo(text: string): Memo | undefined {
  try {
    const { options, layout, sites, hazards, forkGuard } = JSON.parse(text) as Stored;
    return {
      options,
      layout,
      hazards,
      forkGuard,
      sites: sites.map(([provider, name, , newLocation, , redZone, guard, reason, reasonCode]) => ({
        provider,
        name,
        newLocation: vaddr(newLocation),
        redZone,
        guard,
        reason,
        reasonCode,
      })),
    };
  } catch {
    return undefined;
  }
}

/** Whether two runs were asked for the same. */
export const sameOptions = (a: RewriteOptions, b: RewriteOptions): boolean =>
  JSON.stringify(normalized(a)) === JSON.stringify(normalized(b));
