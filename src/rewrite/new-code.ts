/**
 * New code, from detours: fragments become bytes at addresses.
 *
 * Each detour is a chunk of its own; chunks stand one behind the other, int3 between them. A chunk begins where its first
 * nop5 lies in a single 16-byte line, and so never in two pages.
 */
import { alignUp, hex, type Vaddr, vaddr } from "../address.js";
import type { CfaRows } from "../elf/cfa-rows.js";
import { INT3, JUMP_SIZE, jump, nopFill, shortJump } from "../x86/bytes.js";
import { relocate } from "../x86/relocate.js";
import type { Detour, PlacedProbe, Proposal, Stretch } from "./proposal.js";
import { crossesLine, crossesPage } from "./tactics/safety.js";

const CALL_SIZE = 5;
const RETURN_ADDRESS_SIZE = 8;
const LINE = 16;

/** New code for one detour. */
export interface Chunk {
  readonly proposal: Proposal;
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly probes: readonly PlacedProbe[];
  /** The new content of the window, and of the padding that a short jump goes through. */
  readonly changes: readonly { readonly at: Vaddr; readonly bytes: Uint8Array }[];
  /** New distances for branches that are led to the chunk: the 4 bytes that end at `branchEnd`. */
  readonly retargets: readonly { readonly branchEnd: Vaddr; readonly distance: number }[];
}

/** New code that belongs to no function of the input: the fork guard. */
export interface NamedCode {
  readonly name: string;
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** How to find the caller's frame, where the return address is the only thing that is saved for it. */
  readonly unwind: CfaRows;
}

export interface NewCode {
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly chunks: readonly Chunk[];
  readonly named: readonly NamedCode[];
  /** Detours that cannot be encoded from here, with the reason. */
  readonly failed: ReadonlyMap<Proposal, string>;
}

/** Encodes all detours from link-time address `start` on, which is a multiple of 16. */
export function encodeDetours(proposals: readonly Proposal[], start: Vaddr): NewCode {
  const pieces: { at: number; bytes: Uint8Array }[] = [];
  const chunks: Chunk[] = [];
  const failed = new Map<Proposal, string>();
  let at: number = start;
  for (const proposal of proposals) {
    const { change } = proposal;
    if (change.kind !== "detour") continue;
    const made = encodeChunk(proposal, change, at);
    if (typeof made === "string") {
      failed.set(proposal, made);
      continue;
    }
    chunks.push(made.chunk);
    pieces.push({ at: made.chunk.start, bytes: made.bytes });
    at = made.chunk.end;
  }
  const bytes = new Uint8Array(chunks.length === 0 ? 0 : at - start).fill(INT3);
  for (const piece of pieces) bytes.set(piece.bytes, piece.at - start);
  return { start, bytes, chunks, named: [], failed };
}

function encodeChunk(
  proposal: Proposal,
  detour: Detour,
  earliest: number,
): { chunk: Chunk; bytes: Uint8Array } | string {
  const first = encodeAt(detour, vaddr(earliest));
  if (typeof first === "string") return first;
  // Encoded a few bytes further on, the code has the same length, so where its probes will be is known beforehand.
  const fits = (by: number, crosses: typeof crossesLine): boolean =>
    first.probes.every((p) => !crosses(vaddr(p.location + by), p.form));
  const distances = Array.from({ length: LINE }, (_, by) => by);
  const by = distances.find((d) => fits(d, crossesLine)) ?? distances.find((d) => fits(d, crossesPage));
  if (by === undefined) return "the probe would cross a page boundary";
  const encoded = by === 0 ? first : encodeAt(detour, vaddr(earliest + by));
  if (typeof encoded === "string") return encoded;
  if (encoded.probes.some((p) => crossesPage(p.location, p.form))) return "the probe would cross a page boundary";
  return finish(proposal, detour, encoded);
}

interface Encoded {
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly probes: readonly PlacedProbe[];
  /** Where each fragment is now, by where it was. */
  readonly moved: ReadonlyMap<Vaddr, Vaddr>;
}

function encodeAt(detour: Detour, start: Vaddr): Encoded | string {
  const probes: PlacedProbe[] = [];
  const moved = new Map<Vaddr, Vaddr>();
  const pieces: Uint8Array[] = [];
  const called = detour.via === "call" ? RETURN_ADDRESS_SIZE : 0;
  let at: number = start;
  for (const fragment of detour.body) {
    let bytes: Uint8Array | undefined;
    if (fragment.kind === "probe") {
      const { site, form } = fragment;
      bytes = form.bytes;
      probes.push({ site, location: vaddr(at + form.location), form, stackShift: form.stackShift + called });
      moved.set(fragment.site, vaddr(at));
    } else {
      bytes = relocate(fragment.bytes, fragment.at, vaddr(at));
      if (bytes === undefined) return `the instruction at ${hex(fragment.at)} cannot reach its operand from new code`;
      moved.set(fragment.at, vaddr(at));
    }
    pieces.push(bytes);
    at += bytes.length;
  }
  if (detour.resume !== undefined) {
    pieces.push(jump(at, detour.resume));
    at += JUMP_SIZE;
  }
  const bytes = new Uint8Array(at - start);
  let offset = 0;
  for (const piece of pieces) {
    bytes.set(piece, offset);
    offset += piece.length;
  }
  return { start, bytes, probes, moved };
}

function finish(
  proposal: Proposal,
  detour: Detour,
  { start, bytes, probes, moved }: Encoded,
): { chunk: Chunk; bytes: Uint8Array } {
  const retargets = detour.retargets.map(({ branch, target }) => ({
    branchEnd: branch.end,
    distance: moved.get(target)! - branch.end,
  }));
  const changes = changesFor(proposal.window, detour.via, start);
  return { chunk: { proposal, start, end: vaddr(start + bytes.length), probes, changes, retargets }, bytes };
}

function changesFor(window: Stretch, via: Detour["via"], to: Vaddr): Chunk["changes"] {
  if (via === "call") return [{ at: window.start, bytes: callWindow(window, to) }];
  if (via === "jump") return [{ at: window.start, bytes: filled(window, jump(window.start, to)) }];
  const { hop } = via;
  return [
    { at: window.start, bytes: filled(window, shortJump(window.start, hop.start)) },
    { at: hop.start, bytes: filled(hop, jump(hop.start, to)) },
  ];
}

/** A jump at the start of a stretch; nothing runs the rest. */
function filled({ start, end }: Stretch, jumpBytes: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(end - start).fill(INT3);
  bytes.set(jumpBytes);
  return bytes;
}

/** The call at the window's end stays where it is; what stood before it becomes nops. */
function callWindow(window: Stretch, to: Vaddr): Uint8Array {
  const length = window.end - window.start;
  const bytes = new Uint8Array(length);
  bytes.set(nopFill(length - CALL_SIZE));
  bytes.set(jump(window.end - CALL_SIZE, to), length - CALL_SIZE);
  bytes[length - CALL_SIZE] = 0xe8;
  return bytes;
}

/** Where chunks may begin in a segment: behind what is there already. */
export const codeStart = (end: number): Vaddr => vaddr(alignUp(end, LINE));
