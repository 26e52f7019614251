/**
 * Which bytes and instructions a proposal lays claim to, beside its window, and whether two proposals want the same.
 */
import { type Interval, type Vaddr, vaddr } from "../address.js";
import { JUMP_SIZE } from "../x86/bytes.js";
import { isPlainBranch } from "../x86/relocate.js";
import type { Claims } from "./claims.js";
import type { Detour, Proposal } from "./proposal.js";
import { type Refusal, refuse } from "./refusal.js";
import { movesInstruction, stretchesOf } from "./tactics/ways.js";

/** Bytes outside of a proposal's window that it changes. */
export interface Claim extends Interval<Vaddr> {
  /** They change so that the branch there leads elsewhere: where the branch moves, they are free. */
  readonly branch: Vaddr | undefined;
}

/** The sites that a proposal takes care of. */
export function probesOf({ change }: Proposal): readonly Vaddr[] {
  if (change.kind === "in-place") return change.probes.map((p) => p.site);
  return change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : []));
}

/** Bytes outside of its window that a proposal needs: it changes them, or goes by what they are. */
export function outsideOf({ change, helpers }: Proposal): readonly Claim[] {
  if (change.kind !== "detour") return [];
  const branches = change.retargets.flatMap(({ branch, way, bytes }) =>
    stretchesOf(branch, way).map((s) => ({ ...s, branch: isPlainBranch(bytes) ? branch.at : undefined })),
  );
  const hops = typeof change.via === "object" && "hop" in change.via ? change.via.hop : [];
  const kept = change.kept === undefined ? [] : [change.kept];
  const others = [...hops, ...kept, ...farBytes(change.via), ...helpers.map((h) => h.window)];
  return [...branches, ...others.map((s) => ({ ...s, branch: undefined }))];
}

/** Those of the far jump that a window leads to. */
const farBytes = (via: Detour["via"]): readonly Interval<Vaddr>[] =>
  typeof via === "object" && "far" in via ? [{ start: via.far, end: vaddr(via.far + JUMP_SIZE) }] : [];

/** The instructions that a proposal moves. */
export const movedBy = ({ change }: Proposal): readonly Vaddr[] =>
  change.kind === "detour" ? change.body.flatMap((f) => (f.kind === "instruction" ? [f.at] : [])) : [];

/** Whether a proposal changes bytes that an earlier one changes, in a window or outside of it. */
export function overlap(
  proposal: Proposal,
  windows: Claims<Interval<Vaddr>>,
  claimed: Claims<Claim>,
): Refusal | undefined {
  const outside = outsideOf(proposal);
  const stays = ({ branch }: Claim): boolean => branch === undefined || !movesInstruction(proposal, branch);
  const collides =
    [proposal.window, ...outside].some((bytes) => claimed.some(bytes, stays)) || outside.some((o) => windows.some(o));
  return collides ? taken(proposal) : undefined;
}

export const taken = ({ window }: Proposal): Refusal =>
  refuse("bytes-taken", "bytes that it needs are needed for another probe", window.start);

/** Why a probe of the proposal must not move. */
export function pinObstacle(proposal: Proposal, pinned: ReadonlyMap<Vaddr, string>): Refusal | undefined {
  if (pinned.size === 0) return undefined;
  const { change } = proposal;
  for (const site of probesOf(proposal)) {
    const stays = change.kind === "in-place" && change.probes.some((p) => p.site === site && p.location === site);
    const pin = pinned.get(site);
    if (pin !== undefined && !stays) return refuse("pinned-place", pin, site);
  }
  return undefined;
}
