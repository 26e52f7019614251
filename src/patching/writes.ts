/**
 * What the kernel writes at a probe, and what it looks at before: every write asks what is there, and is refused
 * where that is something else. By source, of 6.18 and 7.2:
 *
 * - the phases of patching ask for what the phase before has left (arch/x86/kernel/uprobes.c, verify_insn);
 * - int3 is written unless it is there, byte 0 of the nop only where it is (kernel/events/uprobes.c, verify_opcode):
 *   what else is found is left alone, and that is no error;
 * - a semaphore goes up and down with the byte that it belongs to, and with nothing else (uprobe_write); one that
 *   would go below zero makes the write an error (__update_ref_ctr).
 */
import { PAGE_SIZE } from "../address.js";
import { withCode } from "./change.js";
import { CALL_OPCODE, type Expected, INT3, type Phase } from "./protocol.js";
import { equal, type PatchedSite, type Setup } from "./setup.js";
import type { Registry, Space } from "./state.js";

/** Groups of phases that are one step each: IPIs, and the write after them. */
export function groupsOf(phases: readonly Phase[], stepsApart: boolean): Phase[][] {
  if (stepsApart) return phases.map((phase) => [phase]);
  const groups: Phase[][] = [];
  let open = false;
  for (const phase of phases) {
    if (!open) groups.push([]);
    groups.at(-1)!.push(phase);
    open = phase.kind === "sync";
  }
  return groups;
}

export interface Written {
  readonly label: string;
  readonly space: Space;
  readonly syncs: boolean;
  readonly bytes?: Uint8Array;
  /** Something else was there than the protocol has: nothing was written, and nothing more will be. */
  readonly isRefused: boolean;
}

type Write = Phase & { readonly kind: "write" };

/** Carries a group of phases out. */
export function carryOut(
  setup: Setup,
  space: Space,
  site: PatchedSite,
  group: readonly Phase[],
  trampoline: number,
): Written {
  const labels: string[] = [];
  let next = space;
  let bytes: Uint8Array | undefined;
  const syncs = group.some(({ kind }) => kind === "sync");
  for (const phase of group) {
    if (phase.kind === "sync") {
      labels.push("all CPUs serialize");
      continue;
    }
    if (!finds(setup, space, site, phase)) {
      labels.push("finds other bytes, and stops");
      return { label: labels.join(", "), space, syncs, isRefused: true };
    }
    bytes = bytesFor(setup, site, phase, trampoline);
    next = withCode(space, site, phase.from, bytes);
    const range = phase.to - phase.from === 1 ? `byte ${phase.from}` : `bytes ${phase.from} to ${phase.to - 1}`;
    labels.push(`writes ${range} of the ${phase.what}`);
  }
  return { label: labels.join(", "), space: next, syncs, isRefused: false, ...(bytes === undefined ? {} : { bytes }) };
}

/** Whether the memory has what a write expects. */
function finds(setup: Setup, space: Space, site: PatchedSite, { expects }: Write): boolean {
  if (!setup.protocol.checksBytes || expects === null) return true;
  const code = setup.codeAt(space, site);
  const { lead } = setup.protocol;
  const begins: Readonly<Record<Expected, boolean>> = {
    int3: code[0] === INT3,
    call: equal(code.subarray(0, lead.length), lead) && code[lead.length] === CALL_OPCODE,
    "int3 over call":
      code[0] === INT3 && equal(code.subarray(1, lead.length), lead.subarray(1)) && code[lead.length] === CALL_OPCODE,
  };
  return begins[expects];
}

/** What a phase writes: at a page's end it ends, for the page after is another. */
function bytesFor(setup: Setup, site: PatchedSite, { from, to, what }: Write, trampoline: number): Uint8Array {
  const room = PAGE_SIZE - (site.address % PAGE_SIZE);
  const end = from < room ? Math.min(to, room) : to;
  if (what === "int3") return Uint8Array.of(INT3).slice(0, end - from);
  if (what === "call") return setup.callTo(site, trampoline).slice(from, end);
  return site.original.slice(from, end);
}

/** Installs int3, for a tracer that comes or for a mapping that does. */
export function install(
  setup: Setup,
  registry: Registry,
  space: Space,
  site: PatchedSite,
): Pick<Written, "label" | "space" | "bytes"> {
  if (looksForCalls(setup, registry, site) && setup.isOptimized(space, site))
    return { label: "finds the call patched in", space };
  if (setup.codeAt(space, site)[0] === INT3) return { label: "finds int3", space };
  const counts = setup.program.semaphore === null ? 0 : 1;
  const bytes = Uint8Array.of(INT3);
  const written = withCode({ ...space, semaphore: space.semaphore + counts }, site, 0, bytes);
  return { label: "writes int3", bytes, space: written };
}

/**
 * Where no call can be had any more nobody looks for one: one that is there all the same gets int3 over its first
 * byte.
 */
const looksForCalls = ({ protocol }: Setup, registry: Registry, site: PatchedSite): boolean =>
  protocol.looksInTheOther && !(registry.sites[site.index]!.hasFailed && protocol.failsForAll);

/** Byte 0 of the nop, where int3 is. Anything else there is nothing that the kernel knows, and stays. */
export function removeInt3(setup: Setup, space: Space, site: PatchedSite): Written {
  const nothing = { syncs: false, isRefused: false };
  if (setup.codeAt(space, site)[0] !== INT3) return { ...nothing, label: "finds no int3", space };
  const lowered = lowerSemaphore(setup, space);
  if (lowered === null) return { ...nothing, label: BELOW_ZERO, space, isRefused: true };
  const bytes = site.original.slice(0, 1);
  return { ...nothing, label: "writes byte 0 of the nop", bytes, space: withCode(lowered, site, 0, bytes) };
}

export const BELOW_ZERO = "the semaphore would go below zero: an error";

/** The semaphore is one less; null where it cannot be. */
export function lowerSemaphore(setup: Setup, space: Space): Space | null {
  if (setup.program.semaphore === null || !setup.protocol.lowersSemaphore) return space;
  return space.semaphore === 0 ? null : { ...space, semaphore: space.semaphore - 1 };
}
