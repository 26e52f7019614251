/**
 * Installs a child handler that shows that it ran: it writes one G to standard error by a system call. What comes out is
 * reverted at once, and must be the input again.
 */

import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import type { ChildHandlerPlan } from "../../src/rewrite/fork-guard/install/child-handler.js";
import { type ChildCode, FORK_GUARD } from "../../src/rewrite/fork-guard/install/fork-handlers.js";
import { type Installed, installChildHandler } from "../../src/rewrite/fork-guard/install/install.js";
import { revert } from "../../src/rewrite/revert.js";
import type { SparseContent } from "../../src/sparse-content.js";
import { Assembler } from "../../src/x86/assembler.js";

/** What runs in a child, from its bytes. */
export const childOf = (hex: string): ChildCode => ({
  code: new Assembler({ name: FORK_GUARD, align: 16 }).raw(Buffer.from(hex, "hex")),
});

// endbr64; push 'G'; mov eax, 1; mov edi, 2; mov rsi, rsp; mov edx, 1; syscall; pop rax; ret
const WRITES_G = "f30f1efa6a47b801000000bf020000004889e6ba010000000f0558c3";

export const flat = ({ size, pieces }: SparseContent): Buffer => {
  const bytes = Buffer.alloc(size);
  for (const piece of pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
};

/** How it came about, in one line. */
export interface Handled extends Installed {
  readonly plan: ChildHandlerPlan;
  readonly ways: string;
  /** How many bytes the file grew. */
  readonly growth: number;
}

/** Writes `output`; what it throws is the reason why not. */
export function handle(input: string, output: string): Handled {
  const image = parseElf(readFileSync(input));
  const installed = installChildHandler(image, childOf(WRITES_G));
  if (typeof installed === "string") throw new Error(installed);
  const bytes = flat(installed.content);
  writeFileSync(output, bytes);
  chmodSync(output, 0o755);
  expect(flat(revert(parseElf(bytes))).equals(image.bytes), `${input} is reverted`).toBe(true);
  const { register, finalize, start, end } = installed.plan;
  const last = end === undefined ? "" : `, ${finalize?.name} ${finalize?.source}, ${end.kind}`;
  const ways = `${register.name} ${register.source}, ${start.kind}${last}, ${installed.place.kind}`;
  return { ...installed, ways, growth: bytes.length - image.bytes.length };
}
