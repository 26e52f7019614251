/**
 * The memo in the revert section: which options a file was rewritten with, and what became of each note's probe. With it a
 * second run knows that there is nothing to do, and says the same about every site.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { RewriteOptions, SiteReport } from "./contract.js";

interface MemoSite {
  readonly provider: string;
  readonly name: string;
  readonly location: Vaddr;
  readonly newLocation: Vaddr;
  readonly tactic: string | null;
  readonly reason: string | null;
}

export interface Memo {
  readonly options: RewriteOptions;
  readonly sites: readonly MemoSite[];
}

/** JSON with the fields in a fixed order: the same input gives the same bytes. */
export function encodeMemo(options: RewriteOptions, sites: readonly SiteReport[]): string {
  const { kernel, layout, only, newBuildId, tableAtEnd } = options;
  return JSON.stringify({
    options: { kernel, layout, only: [...only].sort(), newBuildId, tableAtEnd },
    sites: sites.map((s) => [s.provider, s.name, s.location, s.newLocation, s.tactic, s.reason]),
  });
}

/** Reads what encodeMemo wrote; undefined where it is something else. */
export function decodeMemo(text: string): Memo | undefined {
  try {
    const { options, sites } = JSON.parse(text) as {
      options: RewriteOptions;
      sites: [string, string, number, number, string | null, string | null][];
    };
    return {
      options,
      sites: sites.map(([provider, name, location, newLocation, tactic, reason]) => ({
        provider,
        name,
        location: vaddr(location),
        newLocation: vaddr(newLocation),
        tactic,
        reason,
      })),
    };
  } catch {
    return undefined;
  }
}

/** Whether two runs were asked for the same. */
export const sameOptions = (a: RewriteOptions, b: RewriteOptions): boolean => encodeMemo(a, []) === encodeMemo(b, []);
