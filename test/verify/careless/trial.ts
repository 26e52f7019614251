/**
 * One program, rewritten without one kind of knowledge, or without any: is what comes out broken, and does verify see it?
 *
 * verify is asked twice: with all knowledge, and with facts that lack the same kind, where only what shares nothing with the
 * facts can see it.
 */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { parseElf } from "../../../src/elf/image.js";
import { KINDS_OF_KNOWLEDGE, type KnowledgeKind, without } from "../../../src/facts/knowledge.js";
import { rewrite } from "../../../src/rewrite/rewrite.js";
import type { RewriteOptions } from "../../../src/rewritten/contract.js";
import { carriedOriginal } from "../../../src/verify/original.js";
import { verify } from "../../../src/verify/verify.js";
import { scratch } from "../../rewrite/compile.js";
import { type Outcome, run } from "../../run.js";
import { plain } from "../held.js";

/** What a careless rewriter does not know. */
export type Lack = KnowledgeKind | "anything";

export const LACKS: readonly Lack[] = [...KINDS_OF_KNOWLEDGE, "anything"];

const kindsOf = (lack: Lack): readonly KnowledgeKind[] => (lack === "anything" ? KINDS_OF_KNOWLEDGE : [lack]);

export interface Trial {
  readonly program: string;
  readonly lack: Lack;
  readonly broken: boolean;
  /** What verify says against the file; empty where it says that it is the same program. */
  readonly objections: readonly string[];
  /** The same, by facts that lack what the rewriter lacked. */
  readonly blind: readonly string[];
}

/** Flags matter where a selector is asked, which is in files for every kernel. */
const optionsFor = (lack: Lack): RewriteOptions => ({
  ...plain,
  layout: "auto",
  forkGuard: true,
  ...(lack === "status flags" ? { kernel: "any" } : {}),
});

/** One trial for each lack that makes a difference to what is written. */
export async function tryWithout(program: string, path: string, lacks: readonly Lack[]): Promise<readonly Trial[]> {
  const input = readFileSync(path);
  const known = new Map<string, Buffer | null>();
  const outputs = lacks.flatMap((lack) => {
    const options = optionsFor(lack);
    const sound = known.get(options.kernel) ?? rewritten(input, [], options);
    known.set(options.kernel, sound);
    const bytes = rewritten(input, kindsOf(lack), options);
    return bytes === null || sound?.equals(bytes) ? [] : [{ lack, bytes }];
  });
  if (outputs.length === 0) return [];
  const before = await seen(path);
  const trials: Trial[] = [];
  for (const { lack, bytes } of outputs) {
    const output = scratch("careless");
    writeFileSync(output, bytes);
    chmodSync(output, 0o755);
    const broken = (await seen(output)) !== before;
    const blind = without(kindsOf(lack), () => objections(bytes));
    trials.push({ program, lack, broken, objections: objections(bytes), blind });
  }
  return trials;
}

function rewritten(input: Buffer, lacking: readonly KnowledgeKind[], options: RewriteOptions): Buffer | null {
  // Facts are kept by the image that they are of: each run parses its own.
  const { content } = without(lacking, () => rewrite(parseElf(Buffer.from(input)), options));
  if (content === null) return null;
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
}

function objections(bytes: Buffer): string[] {
  const image = parseElf(Buffer.from(bytes));
  const { sites, findings } = verify(image, carriedOriginal(image));
  return [
    ...sites.filter((s) => s.verdict !== "equivalent").map((s) => `${s.name} ${s.verdict}: ${s.reason}`),
    ...findings.map(({ where, what }) => `${where}: ${what}`),
  ];
}

/** What a user of the program sees. A broken one may never end. */
async function seen(path: string): Promise<string> {
  const { stdout, status, signal }: Outcome = await run(path, [], { timeout: 5_000 });
  return JSON.stringify([stdout, status, signal]);
}
