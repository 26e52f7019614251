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
import { scratch } from "../rewrite/compile.js";

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

/** The file with selector.h told where the selector is, if that is in it: else it says -1. */
export function told(original: Buffer, bytes: Buffer, selector: number): Buffer {
  const segment = parseElf(original).programHeaders.find((p) => {
    const at = bytes.indexOf(MAGIC, p.p_offset);
    return p.p_type === 1 && (p.p_flags & 2) !== 0 && at >= 0 && at < p.p_offset + p.p_filesz;
  });
  const result = Buffer.from(bytes);
  if (segment === undefined) return result;
  const at = bytes.indexOf(MAGIC, segment.p_offset);
  result.writeBigInt64LE(BigInt(selector - (at - segment.p_offset + segment.p_vaddr)), at);
  return result;
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
  readonly original: Buffer;
}

/** Writes `output`; what it throws is the reason why not. */
export function select(input: string, output: string, guard?: (image: ElfImage) => ForkGuardPlan): Installed {
  const image = parseElf(readFileSync(input));
  const installed = installSelector(image, guard?.(image));
  if (typeof installed === "string") throw new Error(installed);
  const bytes = flat(installed.content);
  expect(flat(revert(parseElf(bytes))).equals(image.bytes), `${input} is reverted`).toBe(true);
  writeFileSync(output, told(image.bytes, bytes, installed.plan.selector));
  chmodSync(output, 0o755);
  return { ...installed, bytes, original: image.bytes };
}

/** A file with a selector, as it was made. */
export interface Subject {
  readonly bytes: Buffer;
  readonly made: Installed;
}

export async function subject(
  compiler: string,
  source: string,
  flags: readonly string[],
  guarded = false,
): Promise<Subject> {
  const input = await compiled(compiler, [source], ...flags);
  const made = select(input, scratch("selected"), guarded ? guardOf : undefined);
  return { bytes: made.bytes, made };
}

/**
 * Changes the first of the bytes, all of which are in the selector's code.
 * @param pattern what they are, in hexadecimal, ** where they may be any
 * @param becomes likewise, .. where they stay
 */
export function plant({ bytes, made }: Subject, pattern: string, becomes: string): Buffer {
  const { p_vaddr, p_offset } = parseElf(bytes).programHeaders.find(
    (p) => p.p_type === 1 && p.p_vaddr <= made.code.start && p.p_vaddr + p.p_filesz >= made.code.end,
  )!;
  const from = made.code.start - p_vaddr + p_offset;
  const size = made.code.end - made.code.start;
  const wanted = pattern.match(/../g)!;
  const given = becomes.match(/../g)!;
  const at = Array.from({ length: size }, (_, i) => from + i).find((start) =>
    wanted.every((byte, i) => byte === "**" || Number.parseInt(byte, 16) === bytes[start + i]),
  );
  if (at === undefined || given.length !== wanted.length)
    throw new Error(`${pattern} is not there, or of another length`);
  const faulty = Buffer.from(bytes);
  for (const [i, byte] of given.entries()) if (byte !== "..") faulty[at + i] = Number.parseInt(byte, 16);
  return faulty;
}
