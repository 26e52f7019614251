/**
 * shift: the rest of the block moves up, by as much as the probe grows, into the padding after it.
 *
 *     before   90              nop         <- probe
 *              c3              ret
 *              66 0f 1f 44 ..  padding
 *     after    0f 1f 44 00 00  nop5        <- probe
 *              c3              ret
 *
 * The block must end in a ret or jmp, and nothing may enter it, or the padding, after the probe. It stays under the
 * unwind information of its function, which goes by address: so it has no call, nothing in it changes the CFA, and it
 * lies in no landing-pad range. Where the block is the last one, the function's FDE and symbols grow with it.
 */
import { hex, type Vaddr, vaddr } from "../../address.js";
import { nopFill } from "../../x86/bytes.js";
import { addressOf, Flow, instructionBytes } from "../../x86/decode.js";
import { relocate } from "../../x86/relocate.js";
import type { PlacedProbe, Proposal, SiteContext, WantedProbe } from "../proposal.js";
import { Refusal, refuse } from "../refusal.js";
import { isUniversal } from "../written-form.js";
import {
  callSites,
  crossesPage,
  guardObstacle,
  movable,
  paddingRoom,
  UNIVERSAL_IN_PLACE,
  windowObstacle,
} from "./safety.js";

const LONGEST_BLOCK = 64;

export function shift(context: SiteContext): Proposal | Refusal {
  const { code, index, site, facts } = context;
  if (isUniversal(context.probe(site)!.form)) return UNIVERSAL_IN_PLACE;
  const last = endOfBlock(context);
  if (last instanceof Refusal) return last;
  const blockEnd = vaddr(code.start + code.offsets[last + 1]!);
  // The commonest obstacle first: it is known without looking at the instructions.
  const need = growthOf(context, last);
  const room = paddingRoom(context, last + 1, need);
  if (room < need)
    return refuse("no-room", `the block at ${hex(site)} has ${room} bytes of padding after it, not ${need}`, blockEnd);
  const pieces: Piece[] = [];
  let newEnd: Vaddr = site;
  for (let i = index; i <= last; i++) {
    const at = addressOf(code, i);
    const probe = context.probe(at);
    const piece = probe === undefined ? movedTo(newEnd, context, i, last) : probeAt(newEnd, context, at, probe);
    if (piece instanceof Refusal) return piece;
    pieces.push(piece);
    newEnd = vaddr(newEnd + piece.bytes.length);
  }
  const end = vaddr(blockEnd + room);
  const obstacle = windowObstacle(context, site, end) ?? unwindObstacle(context, newEnd);
  if (obstacle !== undefined) return obstacle;
  const growth = newEnd > code.end ? { range: context.range, end: newEnd } : undefined;
  const fde = facts.functions.fde(context.range);
  if (growth !== undefined && fde !== undefined && fde.rangeOffset === undefined)
    return refuse("unwind-rule", "the function's end is written in a form that cannot be changed");
  const bytes = Uint8Array.from([...pieces.flatMap((piece) => [...piece.bytes]), ...nopFill(end - newEnd)]);
  const probes = pieces.flatMap(({ probe }) => probe ?? []);
  return {
    tactic: "shift",
    site,
    window: { start: site, end },
    change: { kind: "in-place", bytes, probes, growth },
    displaced: pieces.flatMap(({ displaced }) => displaced ?? []),
    helpers: [],
  };
}

/** What stands in the block for one instruction: a probe, or the same one at another address. */
interface Piece {
  readonly bytes: Uint8Array;
  readonly probe?: PlacedProbe;
  readonly displaced?: string;
}

function probeAt(to: Vaddr, context: SiteContext, site: Vaddr, { form }: WantedProbe): Piece | Refusal {
  if (isUniversal(form)) return UNIVERSAL_IN_PLACE;
  const unguardable = form.guard ? guardObstacle(context) : undefined;
  if (unguardable !== undefined) return unguardable;
  const location = vaddr(to + form.location);
  const border = "the probe would cross a page boundary, where the kernel does not optimize it";
  if (crossesPage(location, form)) return refuse("page-border", border, location);
  return { bytes: form.bytes, probe: { site, location, form, stackShift: form.stackShift } };
}

function movedTo(to: Vaddr, context: SiteContext, index: number, last: number): Piece | Refusal {
  const { code } = context;
  const from = addressOf(code, index);
  const traits = movable(context, index);
  if (traits instanceof Refusal) return traits;
  if (traits.changesFrame && index !== last)
    return refuse("changes-frame", `${traits.text} at ${hex(from)} changes the stack frame`, from);
  const original = instructionBytes(code, index);
  const bytes = relocate(original, from, to);
  if (bytes === undefined || bytes.length !== original.length)
    return refuse("out-of-reach", `${traits.text} at ${hex(from)} would no longer reach its target`, from);
  return { bytes, displaced: traits.text };
}

/** By how many bytes the block grows: a one-byte nop becomes a probe's form, for each probe in it. */
function growthOf({ code, index, probe }: SiteContext, last: number): number {
  let growth = 0;
  for (let i = index; i <= last; i++) {
    const form = probe(addressOf(code, i))?.form;
    if (form !== undefined && !isUniversal(form)) growth += form.bytes.length - 1;
  }
  return growth;
}

/** The index of the ret or jmp that ends the site's block, or why there is none. */
function endOfBlock({ code, index, site, probe, isSite }: SiteContext): number | Refusal {
  for (let i = index; i < code.count; i++) {
    const at = addressOf(code, i);
    if (at - site > LONGEST_BLOCK)
      return refuse("no-room", `the block after the probe is longer than ${LONGEST_BLOCK} bytes`);
    if (isSite(at) && probe(at) === undefined)
      return refuse("other-probe", `another probe at ${hex(at)} would have to move`, at);
    if (code.flow[i]! & (Flow.Return | Flow.Jump | Flow.IndirectJump)) return i;
  }
  return refuse("no-room", "the block after the probe has no end");
}

/** Unwind rules and landing pads go by address; those of the moved bytes must be the same before and after it. */
function unwindObstacle(context: SiteContext, newEnd: Vaddr): Refusal | undefined {
  const { site, facts, range } = context;
  const change = facts.functions.fde(range)?.ruleChanges.find((a) => a > site && a < newEnd);
  if (change !== undefined)
    return refuse(
      "unwind-rule",
      `the unwind rule changes at ${hex(change)}, inside the block that would move`,
      vaddr(change),
    );
  if (callSites(context).some((s) => s.landingPad !== undefined && s.start < newEnd && s.end > site))
    return refuse("landing-pad", "the block after the probe is covered by a landing pad");
  return undefined;
}
