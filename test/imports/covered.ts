/**
 * Installs all that covers a file's forks, with a guard that shows that it ran: it writes one G to standard error by a system
 * call, and keeps all registers and flags as the real one does. What comes out is reverted at once, and must be the input.
 */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { gatherFacts } from "../../src/facts/program.js";
import {
  type ForkCover,
  type ForkCoverPlan,
  forkCover,
  searchForks,
} from "../../src/rewrite/fork-guard/install/fork-cover.js";
import type { ChildCode } from "../../src/rewrite/fork-guard/install/fork-handlers.js";
import { type Installed, installForkCover } from "../../src/rewrite/fork-guard/install/install.js";
import { revert } from "../../src/rewrite/revert.js";
import { childOf, flat } from "./handled.js";

// endbr64; pushfq; push rax, rcx, rdx, rsi, rdi, r11; push 'G'; mov eax, 1; mov edi, 2; mov rsi, rsp; mov edx, 1; syscall;
// pop rax; pop r11, rdi, rsi, rdx, rcx, rax; popfq; ret
export const WRITES_G = "f30f1efa9c505152565741536a47b801000000bf020000004889e6ba010000000f0558415b5f5e5a59589dc3";

export const coverOf = (file: string): ForkCover => coverIn(parseElf(readFileSync(file)));

function coverIn(image: ElfImage): ForkCover {
  const file = new FileFacts(image);
  const search = searchForks(file);
  return forkCover(search, search.places.length === 0 ? undefined : gatherFacts(file, search.places));
}

/** Writes `output`; what it throws is the reason why not. `change` is where a test plants a fault. */
export function cover(
  input: string,
  output: string,
  guard: (plan: ForkCoverPlan) => ChildCode = () => childOf(WRITES_G),
  change: (plan: ForkCoverPlan) => ForkCoverPlan = (plan) => plan,
  tableAtEnd = false,
): ForkCover & Installed {
  const image = parseElf(readFileSync(input));
  const found = coverIn(image);
  if (found.plan === undefined) throw new Error(found.obstacle ?? "nothing forks");
  const installed = installForkCover(image, change(found.plan), guard(found.plan), tableAtEnd);
  if (typeof installed === "string") throw new Error(installed);
  const bytes = flat(installed.content);
  writeFileSync(output, bytes);
  chmodSync(output, 0o755);
  expect(flat(revert(parseElf(bytes))).equals(image.bytes), `${input} is reverted`).toBe(true);
  return { ...found, ...installed };
}
