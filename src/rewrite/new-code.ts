/**
 * New code, from detours: fragments become bytes at addresses.
 *
 * Each detour is a chunk of its own; chunks stand one behind the other, int3 between them. A chunk begins where its first
 * nop5 lies in a single 16-byte line, and so never in two pages.
 */

import { alignUp, hex, type Interval, type Vaddr, vaddr } from "../address.js";
import type { CfaRows } from "../elf/cfa-rows.js";
import { INT3, JUMP_SIZE, jump, nopFill, SHORT_JUMP_SIZE, shortJump } from "../x86/bytes.js";
import { decode, Flow } from "../x86/decode.js";
import { nearBranch, relocate } from "../x86/relocate.js";
import type { Detour, PlacedProbe, Proposal, Retarget } from "./proposal.js";
import { farJumpOf } from "./proposal.js";
import { crossesLine, crossesPage } from "./tactics/safety.js";
import { movesInstruction } from "./tactics/ways.js";
import type { OriginStretch } from "./unwind/origins.js";

const CALL_SIZE = 5;
const RETURN_ADDRESS_SIZE = 8;
const LINE = 16;

/** New bytes at an address that the input has. */
export interface Change {
  readonly at: Vaddr;
  readonly bytes: Uint8Array;
}

/** New code for one detour. */
export interface Chunk {
  readonly proposal: Proposal;
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly probes: readonly PlacedProbe[];
  /** Where its code comes from, from start to end, without gaps. */
  readonly origins: readonly OriginStretch[];
  /** The new content of the window, of padding that short jumps go through, and of short branches that lead elsewhere. */
  readonly changes: readonly Change[];
  /** A jump to the chunk at an address that the input does not have, for a window that can only lead there. */
  readonly far: Change | undefined;
  /** The jumps among them that stand in padding, and the far one, each with the place that jumps there. */
  readonly relays: readonly OriginStretch[];
  /** New distances for branches that are led to the chunk: the 4 bytes that end at `branchEnd`. */
  readonly retargets: readonly { readonly branchEnd: Vaddr; readonly distance: number }[];
}

/** New code that belongs to no function of the input: the fork guard. */
export interface NamedCode {
  readonly name: string;
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** How to find the caller's frame, where the return address is the only thing that is saved for it; else there is no FDE. */
  readonly unwind: CfaRows | undefined;
}

export interface NewCode {
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly chunks: readonly Chunk[];
  readonly named: readonly NamedCode[];
  /** Detours that cannot be encoded from here, with the reason. */
  readonly failed: ReadonlyMap<Proposal, string>;
}

/**
 * Encodes all detours from link-time address `start` on, which is a multiple of 16. Where one cannot be encoded, neither
 * can those that count on the branches that it moves, and it needs no helpers.
 */
export function encodeDetours(proposals: readonly Proposal[], start: Vaddr): NewCode {
  const failed = new Map<Proposal, string>();
  for (;;) {
    const left = proposals.filter((p) => !failed.has(p));
    const made = encodeAll(left, start);
    const lost = made.failed.size > 0 ? made.failed : dependents(left);
    if (lost.size === 0) return { ...made, failed };
    for (const [proposal, reason] of lost) failed.set(proposal, reason);
  }
}

/** Proposals that make no sense without others that are not there. */
function dependents(proposals: readonly Proposal[]): ReadonlyMap<Proposal, string> {
  const served = new Set(
    proposals.flatMap(({ change }) =>
      change.kind === "detour" ? change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : [])) : [],
    ),
  );
  const lost = new Map<Proposal, string>();
  for (const proposal of proposals) {
    const { change, site } = proposal;
    if (change.kind !== "detour") continue;
    const stays = change.retargets.find(
      ({ branch, way }) => way === "moves" && !proposals.some((p) => movesInstruction(p, branch.at)),
    );
    if (stays !== undefined) lost.set(proposal, `the branch at ${hex(stays.branch.at)} could not move`);
    else if (!served.has(site)) lost.set(proposal, "the probe that it is for could not move");
  }
  return lost;
}

function encodeAll(proposals: readonly Proposal[], start: Vaddr): NewCode {
  const encoded: Encoded[] = [];
  const failed = new Map<Proposal, string>();
  const retargets = proposals.flatMap(({ change }) => (change.kind === "detour" ? change.retargets : []));
  const led = new Map(retargets.map(({ branch, target }) => [branch.at, target]));
  let at: number = start;
  for (const proposal of proposals) {
    if (proposal.change.kind !== "detour") continue;
    const made = encodeChunk(proposal, proposal.change, at, led);
    if (typeof made === "string") {
      failed.set(proposal, made);
      continue;
    }
    encoded.push(made);
    at = made.start + made.bytes.length;
  }
  if (failed.size > 0) return { start, bytes: new Uint8Array(0), chunks: [], named: [], failed };
  // A branch that moves may lead to an instruction that moved before it or behind it: all must have their places first.
  const moved = new Map(encoded.flatMap((e) => [...e.moved]));
  const bytes = new Uint8Array(encoded.length === 0 ? 0 : at - start).fill(INT3);
  for (const piece of encoded) {
    const view = new DataView(piece.bytes.buffer);
    for (const { end, target } of piece.branches)
      view.setInt32(end - 4, moved.get(target)! - (piece.start + end), true);
    bytes.set(piece.bytes, piece.start - start);
  }
  return { start, bytes, chunks: encoded.map((e) => finish(e, moved)), named: [], failed };
}

function encodeChunk(
  proposal: Proposal,
  detour: Detour,
  earliest: number,
  led: ReadonlyMap<Vaddr, Vaddr>,
): Encoded | string {
  const first = encodeAt(proposal, detour, vaddr(earliest), led);
  if (typeof first === "string") return first;
  // Encoded a few bytes further on, the code has the same length, so where its probes will be is known beforehand.
  const fits = (by: number, crosses: typeof crossesLine): boolean =>
    first.probes.every((p) => !crosses(vaddr(p.location + by), p.form));
  const distances = Array.from({ length: LINE }, (_, by) => by);
  const by = distances.find((d) => fits(d, crossesLine)) ?? distances.find((d) => fits(d, crossesPage));
  if (by === undefined) return "the probe would cross a page boundary";
  const encoded = by === 0 ? first : encodeAt(proposal, detour, vaddr(earliest + by), led);
  if (typeof encoded === "string") return encoded;
  if (encoded.probes.some((p) => crossesPage(p.location, p.form))) return "the probe would cross a page boundary";
  return encoded;
}

interface Encoded {
  readonly proposal: Proposal;
  readonly detour: Detour;
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly probes: readonly PlacedProbe[];
  readonly origins: readonly OriginStretch[];
  /** Where each fragment is now, by where it was. */
  readonly moved: ReadonlyMap<Vaddr, Vaddr>;
  /** Branches that are led to moved instructions: where they end in `bytes`, and where they led. */
  readonly branches: readonly { readonly end: number; readonly target: Vaddr }[];
}

/** @param led branches that shall lead to moved instructions, by their address, and where they lead in the input */
function encodeAt(proposal: Proposal, detour: Detour, start: Vaddr, led: ReadonlyMap<Vaddr, Vaddr>): Encoded | string {
  const branches: { end: number; target: Vaddr }[] = [];
  const probes: PlacedProbe[] = [];
  const moved = new Map<Vaddr, Vaddr>();
  const pieces: Uint8Array[] = [];
  const called = detour.via === "call" ? RETURN_ADDRESS_SIZE : 0;
  const origins: OriginStretch[] = [];
  const from = (origin: Vaddr, size: number, lower = 0, lastByte = 0): void => {
    const begin = origins.at(-1)?.end ?? start;
    if (size > 0) origins.push({ start: begin, end: vaddr(begin + size), origin, lower: lower + called, lastByte });
  };
  let at: number = start;
  for (const fragment of detour.body) {
    let bytes: Uint8Array | undefined;
    if (fragment.kind === "probe") {
      const { site, form } = fragment;
      bytes = form.bytes;
      probes.push({ site, location: vaddr(at + form.location), form, stackShift: form.stackShift + called });
      moved.set(fragment.site, vaddr(at));
      // A guard's second half runs with rsp still lowered.
      if (form.guard) from(site, form.location);
      from(site, bytes.length - (form.guard ? form.location : 0), form.stackShift);
    } else {
      const target = led.get(fragment.at);
      bytes = target === undefined ? relocate(fragment.bytes, fragment.at, vaddr(at)) : nearBranch(fragment.bytes);
      if (bytes === undefined) return `the instruction at ${hex(fragment.at)} cannot reach its operand from new code`;
      // Where it leads has no place yet.
      if (target !== undefined) branches.push({ end: at - start + bytes.length, target });
      moved.set(fragment.at, vaddr(at));
      from(fragment.at, bytes.length, 0, lastByteOfCall(fragment));
    }
    pieces.push(bytes);
    at += bytes.length;
  }
  if (detour.resume !== undefined) {
    pieces.push(jump(at, detour.resume));
    // Where the way goes on into a function that was to be called, the frame is still that of the call.
    from(detour.via === "call" ? vaddr(proposal.window.end - CALL_SIZE) : detour.resume, JUMP_SIZE);
    at += JUMP_SIZE;
  }
  const bytes = new Uint8Array(at - start);
  let offset = 0;
  for (const piece of pieces) {
    bytes.set(piece, offset);
    offset += piece.length;
  }
  return { proposal, detour, start, bytes, probes, origins, moved, branches };
}

/** What an unwinder asks for when a call is under way: the byte in front of the return address. */
function lastByteOfCall({ bytes, at }: Extract<Detour["body"][number], { kind: "instruction" }>): number {
  return (decode(bytes, at).flow[0]! & Flow.Call) !== 0 ? bytes.length - 1 : 0;
}

/** @param moved where all instructions that move are now */
function finish(encoded: Encoded, moved: ReadonlyMap<Vaddr, Vaddr>): Chunk {
  const { proposal, detour, start, bytes, probes, origins } = encoded;
  const retargets: { branchEnd: Vaddr; distance: number }[] = [];
  const changes = [...windowChanges(proposal.window, detour.via, start)];
  const far = farJumpOf(proposal);
  const relays = [...relaysFrom(proposal.window.start, wayOf(detour.via))];
  for (const { branch, target, way } of detour.retargets) {
    const to = moved.get(target)!;
    // A branch that moves itself has been led to its target already.
    if (way === "moves" || moved.has(branch.at)) continue;
    if (way === "near") retargets.push({ branchEnd: branch.end, distance: to - branch.end });
    else {
      changes.push(...shortBranchChanges(branch, way, to));
      if (way.kind === "relay") relays.push(...relaysFrom(branch.at, way.through));
    }
  }
  return {
    proposal,
    start,
    end: vaddr(start + bytes.length),
    probes,
    origins,
    changes,
    far: far && { at: far, bytes: jump(far, start) },
    relays,
    retargets,
  };
}

/** Where the jumps stand that lead from a window to new code, outside of it. */
function wayOf(via: Detour["via"]): readonly Interval<Vaddr>[] {
  if (typeof via === "string") return [];
  return "far" in via ? [{ start: via.far, end: vaddr(via.far + JUMP_SIZE) }] : via.hop;
}

function windowChanges(window: Interval<Vaddr>, via: Detour["via"], to: Vaddr): readonly Change[] {
  if (via === "call") return [{ at: window.start, bytes: callWindow(window, to) }];
  if (via === "branches") return [{ at: window.start, bytes: filled(window, new Uint8Array(0)) }];
  if (via === "jump") return [{ at: window.start, bytes: filled(window, jump(window.start, to)) }];
  if ("far" in via) return [{ at: window.start, bytes: filled(window, jump(window.start, via.far)) }];
  const [first, ...rest] = jumpsThrough(via.hop, to);
  const short = shortJump(window.start, first!.at);
  return [{ at: window.start, bytes: filled(window, short) }, first!, ...rest];
}

function shortBranchChanges(
  branch: Retarget["branch"],
  way: Exclude<Retarget["way"], string>,
  to: Vaddr,
): readonly Change[] {
  if (way.kind === "widened") return [{ at: branch.at, bytes: filled(way.over, jump(branch.at, to)) }];
  const jumps = jumpsThrough(way.through, to);
  return [{ at: vaddr(branch.end - 1), bytes: Uint8Array.of((jumps[0]!.at - branch.end) & 0xff) }, ...jumps];
}

/** Short jumps from one stretch of padding to the next, and a near one in the last. */
const jumpsThrough = (stretches: readonly Interval<Vaddr>[], to: Vaddr): readonly Change[] =>
  stretches.map((stretch, i) => {
    const next = stretches[i + 1];
    const bytes = next === undefined ? jump(stretch.start, to) : shortJump(stretch.start, next.start);
    return { at: stretch.start, bytes: filled(stretch, bytes) };
  });

/** A jump changes nothing: the frame is still that of the place where the way began. */
const relaysFrom = (origin: Vaddr, stretches: readonly Interval<Vaddr>[]): readonly OriginStretch[] =>
  stretches.map(({ start }, i) => {
    const size = i + 1 < stretches.length ? SHORT_JUMP_SIZE : JUMP_SIZE;
    return { start, end: vaddr(start + size), origin, lower: 0, lastByte: 0 };
  });

/** A jump at the start of a stretch; nothing runs the rest. */
function filled({ start, end }: Interval<Vaddr>, jumpBytes: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(end - start).fill(INT3);
  // A window may hold the first byte of a jump alone, where the others are there already.
  bytes.set(jumpBytes.subarray(0, bytes.length));
  return bytes;
}

/** The call at the window's end stays where it is; what stood before it becomes nops. */
function callWindow(window: Interval<Vaddr>, to: Vaddr): Uint8Array {
  const length = window.end - window.start;
  const bytes = new Uint8Array(length);
  bytes.set(nopFill(length - CALL_SIZE));
  bytes.set(jump(window.end - CALL_SIZE, to), length - CALL_SIZE);
  bytes[length - CALL_SIZE] = 0xe8;
  return bytes;
}

/** Where chunks may begin in a segment: behind what is there already. */
export const codeStart = (end: number): Vaddr => vaddr(alignUp(end, LINE));
