/**
 * The memo in the revert section: which options a file was rewritten with, and what became of each note's probe, for
 * whoever finds the file. What a file says about itself may be anything: nobody goes by it, but for one question of
 * `verify`, and that finds more with it and never less.
 */
import type { RewriteOptions, RewriteReport } from "./contract.js";

/** JSON with the fields in a fixed order: the same input gives the same bytes. */
export function encodeMemo(
  options: RewriteOptions,
  done: Pick<RewriteReport, "layout" | "sites" | "hazards" | "forkGuard">,
): Uint8Array {
  const stored = {
    options: normalized(options),
    layout: done.layout,
    sites: done.sites.map((s) => [
      s.provider,
      s.name,
      s.location,
      s.newLocation,
      s.twin,
      s.tactic,
      s.redZone,
      s.guard,
      s.reason,
      s.reasonCode,
    ]),
    hazards: done.hazards.map(({ code, message }) => ({ code, message })),
    forkGuard: done.forkGuard,
  };
  return Buffer.from(JSON.stringify(stored));
}

function normalized(options: RewriteOptions): RewriteOptions {
  const { kernel, layout, only, newBuildId, tableAtEnd, keepOffsets, forkGuard } = options;
  return { kernel, layout, only: [...only].sort(), newBuildId, tableAtEnd, keepOffsets, forkGuard };
}

/** A memo that is larger is not looked at: a probe takes some 150 bytes of it. */
const LARGEST = 1 << 26;

/** Whether a memo tells of a fork guard; undefined where it is not what encodeMemo wrote. */
export function tellsOfGuard(memo: Uint8Array): boolean | undefined {
  if (memo.length > LARGEST) return undefined;
  let told: unknown;
  try {
    told = JSON.parse(Buffer.from(memo).toString("utf8"));
  } catch {
    return undefined;
  }
  const guard = fieldOf(told, "forkGuard");
  if (guard === null) return false;
  const installed = fieldOf(guard, "installed");
  return typeof installed === "boolean" ? installed : undefined;
}

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>)[name] : undefined;
