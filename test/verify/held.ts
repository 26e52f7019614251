/** Files to verify, made in this process: rewritten ones, and ones in which somebody changed something since. */
import { readFileSync } from "node:fs";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import type { FileFacts } from "../../src/facts/file-facts.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteOptions, RewriteReport } from "../../src/rewritten/contract.js";
import { compareCode } from "../../src/verify/changed-code.js";
import type { VerifyReport } from "../../src/verify/contract.js";
import { examineGuard } from "../../src/verify/guard/guard.js";
import { carriedOriginal, givenOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";

export interface RewrittenFile {
  readonly original: Buffer;
  readonly bytes: Buffer;
  readonly report: RewriteReport;
}

/** Options as the command has them, without a fork guard. */
export const plain: RewriteOptions = {
  kernel: "6.18",
  layout: "nop5",
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: false,
  forkGuard: false,
};

/** A rewritten file, or null where there was nothing to do. */
export function rewriteFile(path: string, options: Partial<RewriteOptions> = {}): RewrittenFile | null {
  const original = readFileSync(path);
  const { content, report } = rewrite(parseElf(original), { ...plain, ...options });
  if (content === null) return null;
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  return { original, bytes, report };
}

/** A rewritten file of which something has to be rewritten. */
export function rewritten(path: string, options: Partial<RewriteOptions> = {}): RewrittenFile {
  const made = rewriteFile(path, options);
  if (made === null) throw new Error(`${path}: nothing was rewritten`);
  return made;
}

/** Holds a file against the original that it carries, or against the one given. */
export function held(bytes: Buffer, original?: Buffer): VerifyReport {
  const image = parseElf(bytes);
  return verify(
    image,
    original === undefined ? carriedOriginal(image) : givenOriginal(image, { bytes: original, holes: [], zeroTail: 0 }),
  );
}

/**
 * What is wrong with the guard of a file, as verify asks about it and with nothing asked besides: where it has none, nothing is.
 * Its probes are no universal ones.
 * @param facts about the original, for as many files as were made from it
 */
export function guardProblems(bytes: Buffer, facts: FileFacts): readonly string[] {
  const image = parseElf(bytes);
  const code = compareCode(facts.image, image);
  const guard = examineGuard(image, facts, code, undefined, new Set());
  return (guard?.findings ?? []).map(({ what }) => what);
}

/** A copy in which `change` changed something; it gets the parsed file to find its way. */
export function changed(bytes: Buffer, change: (copy: Buffer, image: ElfImage) => void): Buffer {
  const copy = Buffer.from(bytes);
  change(copy, parseElf(bytes));
  return copy;
}

/** Everything that is said against a file, one line each. */
export const complaints = ({ sites, findings }: VerifyReport): string[] => [
  ...sites.filter((s) => s.verdict !== "equivalent").map((s) => `${s.verdict} ${s.provider}:${s.name}: ${s.reason}`),
  ...findings.map(({ where, what }) => `${where}: ${what}`),
];
