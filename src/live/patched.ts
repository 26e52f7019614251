/**
 * What a probe is at a moment in a process, by the bytes in its memory and those of the file.
 *
 *     untouched   the nop as the file has it. After a nop10 that was a call the call stays, as operand of the nop
 *     trap        an int3 over the nop's first byte, and the rest as it was
 *     call        a whole call, and a trampoline of the kernel where it leads to
 *     torn        anything else: the kernel is at work there this moment, or left it so (docs/kernel-reports.md)
 *
 * Where a one-byte nop has a longer one after it, tools attach to either: both are looked at.
 */

import type { LongNop } from "../kernel/kernels.js";
import { probeInstruction } from "../usdt/sites.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { CALL, LOWER_AND_CALL } from "./memory.js";

type PatchState = "untouched" | "trap" | "call" | "torn" | "unknown";

export interface Patched {
  readonly state: PatchState;
  /** Why it is torn or unknown, for a person to read; else null. */
  readonly reason: string | null;
}

const INT3 = 0xcc;
const sizes = { nop: 1, nop5: NOP5.length, nop10: NOP10.length } as const;
/** So much of a nop10 is given back when the last tracer goes. */
const GIVEN_BACK = 5;
const DISTANCE = 4;

const clean = (state: PatchState): Patched => ({ state, reason: null });
const torn = (reason: string): Patched => ({ state: "torn", reason });
const unknown = (reason: string): Patched => ({ state: "unknown", reason });

/** The states, what matters most first. */
const ORDER: readonly PatchState[] = ["torn", "unknown", "call", "trap", "untouched"];

/** Of several views of one probe the one that matters most. */
export const worst = (views: readonly Patched[]): Patched =>
  [...views].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state))[0]!;

/**
 * Judges a place.
 * @param file the file's bytes from it on, as many as the longest form has where the segment has them
 * @param memory as many of the process's
 * @param address where it is in the process
 * @param isTrampoline whether a runtime address is one of the kernel's trampolines
 */
export function judge(
  file: Uint8Array,
  memory: Uint8Array,
  address: number,
  isTrampoline: (address: number) => boolean,
): Patched {
  const instruction = probeInstruction(file);
  if (instruction === null) return judgeOther(file, memory);
  const [first, second] = instruction.split(",") as ["nop" | LongNop, LongNop | undefined];
  const size = sizes[first] + (second === undefined ? 0 : sizes[second]);
  if (memory.length < size) return unknown("its memory cannot be read there");
  const at = (offset: number, nop: "nop" | LongNop): Patched => {
    const [was, is] = [file, memory].map((bytes) => bytes.subarray(offset, offset + sizes[nop])) as [
      Uint8Array,
      Uint8Array,
    ];
    return judgeNop(nop, was, is, address + offset, isTrampoline);
  };
  return second === undefined ? at(0, first) : worst([at(0, first), at(1, second)]);
}

function judgeNop(
  nop: "nop" | LongNop,
  was: Uint8Array,
  is: Uint8Array,
  address: number,
  isTrampoline: (address: number) => boolean,
): Patched {
  // What is compared of the nop after its first byte: its last five are an operand, or what is left of a call.
  const own = nop === "nop10" && is[GIVEN_BACK] === CALL ? GIVEN_BACK : was.length;
  const isRestThere = was.subarray(1, own).every((byte, i) => is[i + 1] === byte);
  if (isRestThere && is[0] === was[0]) return clean("untouched");
  if (isRestThere && is[0] === INT3) return clean("trap");
  const call = callIn(nop, is);
  const shown = Buffer.from(is).toString("hex");
  if (call === null) return torn(`${shown} stands there: no whole nop, trap or call`);
  const target = address + call.end + call.distance;
  return isTrampoline(target) ? clean("call") : torn(`${shown} stands there: a call to where no trampoline is`);
}

/** The call that a kernel makes of such a nop, if it stands there. */
function callIn(nop: "nop" | LongNop, is: Uint8Array): { readonly end: number; readonly distance: number } | null {
  const start = nop === "nop10" ? LOWER_AND_CALL : [CALL];
  if (nop === "nop" || !start.every((byte, i) => is[i] === byte)) return null;
  const view = new DataView(is.buffer, is.byteOffset, is.length);
  return { end: start.length + DISTANCE, distance: view.getInt32(start.length, true) };
}

/** An instruction that is no nop: the kernel puts an int3 there and nothing else. */
function judgeOther(file: Uint8Array, memory: Uint8Array): Patched {
  if (file.length === 0 || memory.length === 0) return unknown("its memory cannot be read there");
  if (memory[0] === file[0]) return clean("untouched");
  return memory[0] === INT3 ? clean("trap") : unknown("neither the file's instruction nor a trap stands there");
}
