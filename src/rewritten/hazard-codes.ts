/**
 * The codes of all hazards that a report may name: scripts and `--accept` know them by these, so none is ever renamed.
 * What each says is in src/rewrite/hazards.ts, and beside the commands that write files.
 */
export const HAZARD_CODES = [
  "appended-data",
  "attributes",
  "detach",
  "fork",
  "fork-in-library",
  "fork-uncounted",
  "not-universal",
  "old-kernel",
  "perf",
  "perf-build-id",
  "privileged",
  "punned",
  "red-zone",
  "refused",
  "self-check",
  "stale-relocations",
  "unwind",
] as const;

export type HazardCode = (typeof HAZARD_CODES)[number];
