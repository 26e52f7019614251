/**
 * A built-in program's probe with two places, as rewriting for every kernel makes it: nop,nop10 and nop5, of which the
 * selector says which a pass runs.
 */
import { NOP5, NOP10 } from "../x86/bytes.js";
import { branch, line, type Source } from "./assemble.js";

export interface Site {
  /** Runtime address of the instruction that is patched. */
  readonly address: number;
  /** What the program has there. */
  readonly original: Uint8Array;
}

export interface UniversalShape {
  readonly selector: 0 | 1;
  /** Both places, or neither, where something is wrong with the code. */
  readonly runs: "one" | "both" | "neither";
}

/** @param selector runtime address of the byte */
export const universalLeaf = (address: number, selector: number, { selector: value, runs }: UniversalShape): Source => [
  address,
  "leaf:",
  line("mov rax,rdi", "48 89 f8"),
  "question:",
  { text: "cmp BYTE PTR [rip+selector],0x0", bytes: "80 3d", relative: { to: "selector", rest: "00" } },
  branch("jne five", "0f 85", runs === "neither" ? "join" : "five"),
  ...(runs === "neither" ? [branch("jmp join", "e9", "join")] : []),
  "nop:",
  line("nop", "90"),
  "nop10:",
  line("cs nop WORD PTR [rax+rax*1+0x0]", "66 2e 0f 1f 84 00 00 00 00 00"),
  ...(runs === "both" ? [] : [branch("jmp join", "e9", "join")]),
  "five:",
  line("nop DWORD PTR [rax+rax*1+0x0]", "0f 1f 44 00 00"),
  "join:",
  line("lea rax,[rax+rax*2]", "48 8d 04 40"),
  line("ret", "c3"),
  selector,
  "selector:",
  line("", value === 0 ? "00" : "01"),
];

/** Where a tracer attaches. @param longNop what the kernel patches: after a nop it is attached to the nop10 where it does */
export function universalSites(labels: ReadonlyMap<string, number>, longNop: Uint8Array): readonly Site[] {
  const isBehind = longNop.length === NOP10.length;
  return [
    { address: labels.get(isBehind ? "nop10" : "nop")!, original: isBehind ? NOP10 : Uint8Array.of(0x90) },
    { address: labels.get("five")!, original: NOP5 },
  ];
}
