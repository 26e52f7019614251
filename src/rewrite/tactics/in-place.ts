/**
 * in-place: other nops around the probe's nop give the room.
 *
 *     before   90              nop         <- probe
 *              0f 1f 40 00     nop         alignment of a loop, or nops that the source asked for
 *     after    0f 1f 44 00 00  nop5        <- probe
 *
 * The cheapest tactic: no instruction is added or moved. Nops after the probe may be used where nothing enters them;
 * nops before it where nothing enters the probe itself. Among the possible places the probe takes one in a single
 * 16-byte line if there is one.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { nopFill } from "../../x86/bytes.js";
import { addressOf, Flow, lengthOf } from "../../x86/decode.js";
import type { Proposal, SiteContext } from "../proposal.js";
import { type Refusal, refuse } from "../refusal.js";
import { isUniversal } from "../written-form.js";
import { crossesLine, crossesPage, guardObstacle, UNIVERSAL_IN_PLACE, windowObstacle } from "./safety.js";

/** How far a run of nops is followed: enough to choose a place in a 16-byte line. */
const LONGEST_RUN = 24;

export function inPlace(context: SiteContext): Proposal | Refusal {
  const { code, index, site, facts } = context;
  const { form } = context.probe(site)!;
  if (isUniversal(form)) return UNIVERSAL_IN_PLACE;
  const unguardable = form.guard ? guardObstacle(context) : undefined;
  if (unguardable !== undefined) return unguardable;
  const isRoom = (i: number): boolean =>
    i >= 0 && i < code.count && (code.flow[i]! & Flow.Nop) !== 0 && !context.isSite(addressOf(code, i));
  // A nop of another length is a nop5 with unusual bytes: see select.ts.
  let end = vaddr(site + lengthOf(code, index));
  for (let i = index + 1; isRoom(i) && end - site < LONGEST_RUN; i++) {
    if (facts.entries.has(end)) break;
    end = vaddr(end + lengthOf(code, i));
  }
  let start = site;
  for (let i = index - 1; isRoom(i) && end - start < LONGEST_RUN; i--) {
    if (facts.entries.has(start)) break;
    start = addressOf(code, i);
  }
  if (end - start < form.bytes.length) return refuse("no-room", `there are only ${end - start} bytes of nops`, start);
  const places: Vaddr[] = [];
  for (let at = site; at + form.bytes.length <= end; at++) places.push(vaddr(at));
  for (let at = Math.min(site - 1, end - form.bytes.length); at >= start; at--) places.push(vaddr(at));
  const located = (p: Vaddr): Vaddr => vaddr(p + form.location);
  const place =
    places.find((p) => !crossesLine(located(p), form)) ?? places.find((p) => !crossesPage(located(p), form));
  if (place === undefined)
    return refuse("page-border", "the probe would cross a page boundary, where the kernel does not optimize it", start);
  // No more of the run is touched than the probe needs, from and to the borders of whole instructions.
  const window = {
    start: vaddr(Math.min(site, place)),
    end: vaddr(Math.max(site + lengthOf(code, index), place + form.bytes.length)),
  };
  for (let i = index; i >= 0 && addressOf(code, i) >= start; i--)
    if (addressOf(code, i) <= place) {
      window.start = vaddr(Math.min(site, addressOf(code, i)));
      break;
    }
  for (let i = index; i < code.count; i++) {
    const border = vaddr(addressOf(code, i) + lengthOf(code, i));
    if (border >= window.end) {
      window.end = border;
      break;
    }
  }
  const obstacle = windowObstacle(context, window.start, window.end);
  if (obstacle !== undefined) return obstacle;
  const bytes = new Uint8Array(window.end - window.start);
  bytes.set(nopFill(place - window.start), 0);
  bytes.set(form.bytes, place - window.start);
  bytes.set(nopFill(window.end - place - form.bytes.length), place - window.start + form.bytes.length);
  return {
    tactic: "in-place",
    site,
    window,
    change: {
      kind: "in-place",
      bytes,
      probes: [{ site, location: located(place), form, stackShift: form.stackShift }],
      growth: undefined,
    },
    displaced: [],
    helpers: [],
  };
}
