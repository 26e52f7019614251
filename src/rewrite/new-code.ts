/**
 * New code, from detours: each becomes a unit for the linker (x86/link.ts), and so does every stretch of the input that
 * gets new content for its sake. Linked together they find each other.
 *
 *     chunk     the displaced instructions and probes of one detour, and the jump back. A symbol stands at each instruction
 *               that moved: branches may be led there. Chunks stand one after the other, int3 between them; each begins where
 *               its probes lie in a single 16-byte line, and so never in two pages
 *     change    a window, padding that jumps go through, a branch that leads elsewhere, a far jump: at its own address
 */

import { alignUp, hex, type Interval, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import type { CfaRows } from "../elf/cfa-rows.js";
import { CALL_SIZE, JUMP_SIZE, nopFill, SHORT_JUMP_SIZE } from "../x86/bytes.js";
import { decode, Flow } from "../x86/decode.js";
import { near, short } from "../x86/distance.js";
import { Code, type Linked, link } from "../x86/link.js";
import { movable, nearBranch } from "../x86/relocate.js";
import { gapsBetween, type ProbeNames } from "./apart.js";
import type { Detour, Fragment, PlacedProbe, Proposal, Retarget } from "./proposal.js";
import { farJumpOf } from "./proposal.js";
import { movesInstruction } from "./tactics/ways.js";
import { type UniversalPlaces, writeUniversal } from "./universal-form.js";
import type { OriginStretch } from "./unwind/origins.js";
import { isUniversal, type WrittenForm } from "./written-form.js";

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
  /** The new content of the window, of padding that short jumps go through, and of branches that lead elsewhere. */
  readonly changes: readonly Change[];
  /** A jump to the chunk at an address that the input does not have, for a window that can only lead there. */
  readonly far: Change | undefined;
  /** The jumps among them that stand in padding, and the far one, each with the place that jumps there. */
  readonly relays: readonly OriginStretch[];
}

/** New code that belongs to no function of the input: the fork guard. */
export interface NamedCode {
  readonly name: string;
  readonly start: Vaddr;
  readonly end: Vaddr;
  /**
   * How to find the caller's frame, where the return address is the only thing that is saved for it; else there is no
   * FDE.
   */
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
 * Encodes all detours from link-time address `start` on, which is a multiple of 16. Where one cannot be encoded,
 * neither can those that count on the branches that it moves, and it needs no helpers.
 * @param names of all probes: places of one universal probe are kept apart (apart.ts)
 */
export function encodeDetours(proposals: readonly Proposal[], start: Vaddr, names: ProbeNames): NewCode {
  const failed = new Map<Proposal, string>();
  /** Bytes that are left free before a chunk. */
  const gaps = new Map<Proposal, number>();
  for (;;) {
    const left = proposals.filter((p) => !failed.has(p));
    const made = encodeAll(left, start, gaps);
    const lost = "failed" in made ? made.failed : dependents(left);
    for (const [proposal, reason] of lost) failed.set(proposal, reason);
    if ("failed" in made || lost.size > 0) continue;
    const more = gapsBetween(names, made.chunks);
    if (more.size === 0) return { start, ...made, named: [], failed };
    for (const [proposal, gap] of more) {
      const whole = (gaps.get(proposal) ?? 0) + gap;
      gaps.set(proposal, whole);
      // What moves up may take other forms of jumps, and so it may take some turns.
      if (whole > MOST_GAP) failed.set(proposal, "no place is apart, modulo 4096, from the others of its name");
    }
  }
}

/** So far a chunk is moved up to keep its places apart from others, all turns together. */
const MOST_GAP = 2 * PAGE_SIZE;

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

type Encoded = { readonly bytes: Uint8Array; readonly chunks: readonly Chunk[] };

function encodeAll(
  proposals: readonly Proposal[],
  start: Vaddr,
  gaps: ReadonlyMap<Proposal, number>,
): Encoded | { readonly failed: ReadonlyMap<Proposal, string> } {
  const detours = proposals.flatMap((p) => (p.change.kind === "detour" ? [[p, p.change] as const] : []));
  const led = new Map(detours.flatMap(([, { retargets }]) => retargets.map((r) => [r.branch.at, r.target])));
  const moved = new Set(detours.flatMap(([, { body }]) => body.map(placeOf)));
  const failed = new Map<Proposal, string>();
  const drafts: Draft[] = [];
  for (const [proposal, detour] of detours) {
    const code = chunkCode(proposal, detour, led, gaps.get(proposal) ?? 0);
    if (typeof code === "string") failed.set(proposal, code);
    else drafts.push({ proposal, detour, ...code, ...changesFor(proposal, detour, moved) });
  }
  if (failed.size > 0) return { failed };
  const linked = link(drafts.flatMap(unitsOf), start);
  if ("unit" in linked) return { bytes: linked.bytes, chunks: drafts.map((draft) => chunkOf(draft, linked)) };
  for (const draft of drafts) {
    const reason = unitsOf(draft).flatMap((unit) => linked.failed.get(unit) ?? [])[0];
    if (reason !== undefined) failed.set(draft.proposal, reason);
  }
  return { failed };
}

/** Where an instruction comes from: of what stretches are made. */
type Mark = Omit<OriginStretch, "start" | "end">;
type Unit = Code<Mark>;

/** What is linked for one detour. */
interface Draft {
  readonly proposal: Proposal;
  readonly detour: Detour;
  readonly code: Unit;
  readonly labels: ReadonlyMap<Vaddr, ProbeLabels>;
  readonly changes: readonly Unit[];
  readonly far: Unit | undefined;
  readonly relays: readonly OriginStretch[];
}

const unitsOf = ({ code, changes, far }: Draft): Unit[] => [code, ...changes, ...(far === undefined ? [] : [far])];

const placeOf = (fragment: Fragment): Vaddr => (fragment.kind === "probe" ? fragment.site : fragment.at);

const chunkName = ({ site, window }: Proposal): string => `the chunk for ${site} from ${window.start}`;
/** Where the instruction is that stood at an address of the input. */
const movedName = (at: Vaddr): string => `what stood at ${at}`;
const probeName = (site: Vaddr): string => `the probe of ${site}`;

/** Where in a unit the places of a probe are, by label. */
type ProbeLabels = Pick<UniversalPlaces, "first"> & Partial<UniversalPlaces>;

/** @param lower says from where on rsp is lower, and by how much, and whether the original has passed its nop there */
function writeProbe(
  code: Unit,
  site: Vaddr,
  form: WrittenForm,
  lower: (by: number, isPast?: boolean) => void,
): ProbeLabels {
  lower(0);
  if (isUniversal(form)) return writeUniversal(code, form, site, lower);
  const { bytes, location, stackShift } = form;
  const patched = location + form.patched.offset;
  code.raw(bytes.subarray(0, location));
  lower(stackShift);
  code.label(probeName(site)).raw(bytes.subarray(location, patched));
  code.unsplit(bytes.subarray(patched, patched + form.patched.size), "the probe");
  // A guard's second half runs with rsp still lowered, and where the original has passed its nop: the frame record of a
  // damaged file may end there.
  if (form.guard) lower(stackShift, true);
  code.raw(bytes.subarray(patched + form.patched.size));
  return { first: { label: probeName(site), stackShift } };
}

/**
 * @param led branches that shall lead to moved instructions, by their address, and where they lead in the input
 * @param gap bytes that are left free before it
 */
function chunkCode(
  proposal: Proposal,
  detour: Detour,
  led: ReadonlyMap<Vaddr, Vaddr>,
  gap: number,
): { readonly code: Unit; readonly labels: ReadonlyMap<Vaddr, ProbeLabels> } | string {
  const code: Unit = new Code({ name: chunkName(proposal), gap });
  const labels = new Map<Vaddr, ProbeLabels>();
  const called = detour.via === "call" ? RETURN_ADDRESS_SIZE : 0;
  const from = (origin: Vaddr, lower = 0, lastByte = 0): Unit =>
    code.origin({ origin, lower: lower + called, lastByte });
  for (const fragment of detour.body) {
    code.symbol(movedName(placeOf(fragment)));
    if (fragment.kind === "probe") {
      const { site, form } = fragment;
      labels.set(
        site,
        writeProbe(code, site, form, (by, isPast) => void from(isPast ? vaddr(site + 1) : site, by)),
      );
      continue;
    }
    from(fragment.at, 0, lastByteOfCall(fragment));
    const instruction = movable(fragment.bytes, fragment.at);
    const target = led.get(fragment.at);
    const form = target === undefined ? undefined : nearBranch(fragment.bytes);
    if (instruction === undefined || (target !== undefined && form === undefined))
      return `the instruction at ${hex(fragment.at)} cannot reach its operand from new code`;
    if (target === undefined) code.moved(instruction);
    else code.moved(instruction, { form: form!, target: movedName(target) });
  }
  // Where the way goes on into a function that was to be called, the frame is still that of the call.
  if (detour.resume !== undefined)
    from(detour.via === "call" ? vaddr(proposal.window.end - CALL_SIZE) : detour.resume).jump(detour.resume);
  return { code, labels };
}

/** What an unwinder asks for when a call is under way: the byte in front of the return address. */
function lastByteOfCall({ bytes, at }: Extract<Detour["body"][number], { kind: "instruction" }>): number {
  return (decode(bytes, at).flow[0]! & Flow.Call) !== 0 ? bytes.length - 1 : 0;
}

/** A detour in its place. */
function chunkOf({ proposal, detour, code, labels, changes, far, relays }: Draft, linked: Linked<Mark>): Chunk {
  const unit = linked.unit(code);
  const called = detour.via === "call" ? RETURN_ADDRESS_SIZE : 0;
  const changeOf = (of: Unit): Change => ({ at: vaddr(linked.unit(of).start), bytes: linked.unit(of).bytes });
  const probes = detour.body.flatMap((fragment): PlacedProbe[] => {
    if (fragment.kind !== "probe") return [];
    const { site, form } = fragment;
    const { first, twin } = labels.get(site)!;
    const placeOf = ({ label, stackShift }: typeof first): Pick<PlacedProbe, "location" | "stackShift"> => ({
      location: vaddr(unit.addressOf(label)),
      stackShift: stackShift + called,
    });
    return [{ site, form, ...placeOf(first), ...(twin && { twin: placeOf(twin) }) }];
  });
  return {
    proposal,
    start: vaddr(unit.start),
    end: vaddr(unit.end),
    probes,
    origins: unit.origins.map(({ start, end, mark }) => ({ start: vaddr(start), end: vaddr(end), ...mark })),
    changes: changes.map(changeOf),
    far: far && changeOf(far),
    relays,
  };
}

/** The window, and what else of the input changes. @param moved the instructions that move, of all detours */
function changesFor(
  proposal: Proposal,
  detour: Detour,
  moved: ReadonlySet<Vaddr>,
): Pick<Draft, "changes" | "far" | "relays"> {
  const { window } = proposal;
  const { via } = detour;
  const far = farJumpOf(proposal);
  const to = chunkName(proposal);
  const relays = [...relaysFrom(window.start, wayOf(via))];
  const changes: Unit[] = [];
  if (via === "call") {
    // The call at the window's end stays where it is; what stood before it becomes nops.
    changes.push(
      over(window)
        .raw(nopFill(window.end - window.start - CALL_SIZE))
        .call(to),
    );
  } else if (via === "branches") changes.push(over(window));
  else if (via === "jump") changes.push(over(window).jump(to));
  else if ("far" in via) changes.push(over(window).jump(via.far));
  else changes.push(over(window).jumpShort(via.hop[0]!.start), ...jumpsThrough(via.hop, to));
  for (const { branch, target, way } of detour.retargets) {
    // A branch that moves itself has been led to its target already.
    if (way === "moves" || moved.has(branch.at)) continue;
    changes.push(...branchChanges(branch, way, movedName(target)));
    if (typeof way === "object" && way.kind === "relay") relays.push(...relaysFrom(branch.at, way.through));
  }
  return { changes, relays, far: far && over({ start: far, end: vaddr(far + JUMP_SIZE) }).jump(to) };
}

/**
 * New content for bytes of the input. Of a window of one byte the first one of a jump, where the others are there
 * already.
 */
const over = (stretch: Interval<Vaddr>): Unit => new Code({ over: stretch });

function branchChanges(branch: Retarget["branch"], way: Exclude<Retarget["way"], "moves">, to: string): Unit[] {
  const last = (size: number): Unit => over({ start: vaddr(branch.end - size), end: branch.end });
  if (way === "near") return [last(4).leads([near([])], to)];
  if (way.kind === "widened") return [over(way.over).jump(to)];
  return [last(1).leads([short([])], way.through[0]!.start), ...jumpsThrough(way.through, to)];
}

/** Short jumps from one stretch of padding to the next, and a near one in the last. */
const jumpsThrough = (stretches: readonly Interval<Vaddr>[], to: string): Unit[] =>
  stretches.map((stretch, i) => {
    const next = stretches[i + 1];
    return next === undefined ? over(stretch).jump(to) : over(stretch).jumpShort(next.start);
  });

/** Where the jumps stand that lead from a window to new code, outside of it. */
function wayOf(via: Detour["via"]): readonly Interval<Vaddr>[] {
  if (typeof via === "string") return [];
  return "far" in via ? [{ start: via.far, end: vaddr(via.far + JUMP_SIZE) }] : via.hop;
}

/** A jump changes nothing: the frame is still that of the place where the way began. */
const relaysFrom = (origin: Vaddr, stretches: readonly Interval<Vaddr>[]): readonly OriginStretch[] =>
  stretches.map(({ start }, i) => {
    const size = i + 1 < stretches.length ? SHORT_JUMP_SIZE : JUMP_SIZE;
    return { start, end: vaddr(start + size), origin, lower: 0, lastByte: 0 };
  });

/** Where chunks may begin in a segment: after what is there already. */
export const codeStart = (end: number): Vaddr => vaddr(alignUp(end, LINE));
