/**
 * Files with a selector and nothing else, and what it must be in a process of this machine. What comes out is reverted at
 * once, and must be the input again.
 */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import { chooseCourse } from "../../src/rewrite/course.js";
import type { ForkGuardPlan } from "../../src/rewrite/fork-guard/fork-guard.js";
import { readProgram } from "../../src/rewrite/program.js";
import { revert } from "../../src/rewrite/revert.js";
import { type Installed as InstalledSelector, installSelector } from "../../src/rewrite/selector/install.js";
import { build } from "../fixtures/build.js";
import { flat } from "../imports/handled.js";

export const programs = fileURLToPath(new URL("./programs", import.meta.url));

/** What the issue says: 1 from 6.18 on, 0 again from 7.2 on. */
export const selectorOf = (kernel: string): number => {
  const [major, minor] = kernel.split(".").map((part) => Number.parseInt(part, 10));
  const version = major! * 1000 + minor!;
  return version >= 6018 && version < 7002 ? 1 : 0;
};
export const HERE = selectorOf(release());

export async function compiled(
  compiler: string,
  files: readonly string[],
  ...flags: readonly string[]
): Promise<string> {
  const built = await build({
    output: "program",
    compiler,
    sources: files.map((file) => join(programs, file)),
    flags: ["-O2", "-w", ...flags],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

/** What selector.h holds before it is told. */
const MAGIC = Buffer.from("0fc71e5e05c71e5e", "hex");

/** Tells selector.h where the selector is. */
function tell(image: ElfImage, bytes: Buffer, selector: number): void {
  const { p_offset, p_vaddr } = image.programHeaders.find((p) => {
    const at = bytes.indexOf(MAGIC, p.p_offset);
    return p.p_type === 1 && (p.p_flags & 2) !== 0 && at >= 0 && at < p.p_offset + p.p_filesz;
  })!;
  const at = bytes.indexOf(MAGIC, p_offset);
  bytes.writeBigInt64LE(BigInt(selector - (at - p_offset + p_vaddr)), at);
}

const options = {
  kernel: "6.18",
  layout: "nop5",
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: true,
  forkGuard: true,
} as const;

/** A guard for the nop5 that the file has. */
export function guardOf(image: ElfImage): ForkGuardPlan {
  const { guard, noGuard } = chooseCourse(readProgram(image, options));
  if (guard === undefined) throw new Error(`no guard: ${noGuard}`);
  return guard;
}

export interface Installed extends InstalledSelector {
  /** The file as it was made: with nothing told to selector.h. */
  readonly bytes: Buffer;
}

/** Writes `output`; what it throws is the reason why not. */
export function select(input: string, output: string, guard?: (image: ElfImage) => ForkGuardPlan): Installed {
  const image = parseElf(readFileSync(input));
  const installed = installSelector(image, guard?.(image));
  if (typeof installed === "string") throw new Error(installed);
  const bytes = flat(installed.content);
  expect(flat(revert(parseElf(bytes))).equals(image.bytes), `${input} is reverted`).toBe(true);
  const told = Buffer.from(bytes);
  tell(image, told, installed.plan.selector);
  writeFileSync(output, told);
  chmodSync(output, 0o755);
  return { ...installed, bytes };
}
