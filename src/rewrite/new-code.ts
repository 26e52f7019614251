/**
 * New code, from detours: fragments become bytes at addresses.
 *
 * Each detour is a chunk of its own; chunks stand one behind the other, int3 between them. A chunk begins where its first
 * nop5 lies in a single 16-byte line, and so never in two pages.
 */
import { alignUp, hex, type Vaddr, vaddr } from "../address.js";
import { INT3, JUMP_SIZE, jump, NOP5, nopFill } from "../x86/bytes.js";
import { relocate } from "../x86/relocate.js";
import type { Detour, Proposal } from "./proposal.js";
import { crossesLine, crossesPage } from "./tactics/safety.js";

const CALL_SIZE = 5;
const LINE = 16;

/** New code for one detour. */
export interface Chunk {
  readonly proposal: Proposal;
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** Where the probes' nop5s are. */
  readonly probes: readonly { readonly site: Vaddr; readonly location: Vaddr }[];
  /** The new content of the window. */
  readonly window: Uint8Array;
  /** New distances for branches that are led to the chunk: the 4 bytes that end at `branchEnd`. */
  readonly retargets: readonly { readonly branchEnd: Vaddr; readonly distance: number }[];
}

export interface NewCode {
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly chunks: readonly Chunk[];
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
  return { start, bytes, chunks, failed };
}

function encodeChunk(
  proposal: Proposal,
  detour: Detour,
  earliest: number,
): { chunk: Chunk; bytes: Uint8Array } | string {
  // The first address at which no nop5 lies in two lines; where there are several, at which none lies in two pages.
  let fallback: Encoded | undefined;
  for (let start = earliest; start < earliest + LINE; start++) {
    const encoded = encodeAt(detour, vaddr(start));
    if (typeof encoded === "string") return encoded;
    if (!encoded.probes.some((p) => crossesLine(p.location))) return finish(proposal, detour, encoded);
    if (fallback === undefined && !encoded.probes.some((p) => crossesPage(p.location))) fallback = encoded;
  }
  return fallback === undefined ? "its nop5 would cross a page boundary" : finish(proposal, detour, fallback);
}

interface Encoded {
  readonly start: Vaddr;
  readonly bytes: Uint8Array;
  readonly probes: { site: Vaddr; location: Vaddr }[];
  /** Where each fragment is now, by where it was. */
  readonly moved: ReadonlyMap<Vaddr, Vaddr>;
}

function encodeAt(detour: Detour, start: Vaddr): Encoded | string {
  const probes: { site: Vaddr; location: Vaddr }[] = [];
  const moved = new Map<Vaddr, Vaddr>();
  const pieces: Uint8Array[] = [];
  let at: number = start;
  for (const fragment of detour.body) {
    let bytes: Uint8Array | undefined = NOP5;
    if (fragment.kind === "probe") {
      probes.push({ site: fragment.site, location: vaddr(at) });
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
  const window = detour.via === "jump" ? jumpWindow(proposal, start) : callWindow(proposal, start);
  return { chunk: { proposal, start, end: vaddr(start + bytes.length), probes, window, retargets }, bytes };
}

function jumpWindow({ window }: Proposal, to: Vaddr): Uint8Array {
  const bytes = new Uint8Array(window.end - window.start).fill(INT3);
  bytes.set(jump(window.start, to));
  return bytes;
}

/** The call at the window's end stays where it is; what stood before it becomes nops. */
function callWindow({ window }: Proposal, to: Vaddr): Uint8Array {
  const length = window.end - window.start;
  const bytes = new Uint8Array(length);
  bytes.set(nopFill(length - CALL_SIZE));
  bytes.set(jump(window.end - CALL_SIZE, to), length - CALL_SIZE);
  bytes[length - CALL_SIZE] = 0xe8;
  return bytes;
}

/** Where chunks may begin in a segment: behind what is there already. */
export const codeStart = (end: number): Vaddr => vaddr(alignUp(end, LINE));
