/**
 * What becomes of a mutant: it is refused in our words, or rewritten, and then it reverts byte for byte and `verify`
 * finds nothing. Everything else is a fault of this program.
 */
import { parseElf } from "../../src/elf/image.js";
import { InputError } from "../../src/errors.js";
import { NotAsPlanned } from "../../src/rewrite/placed.js";
import { revert } from "../../src/rewrite/revert.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteOptions } from "../../src/rewritten/contract.js";
import type { SparseContent } from "../../src/sparse-content.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";

export type Outcome =
  /** Not written; in whose words. */
  | { readonly kind: "refused"; readonly words: string }
  /** Not written since the last look found it not to be what was planned: no harm, but it should be said by who plans. */
  | { readonly kind: "withheld"; readonly words: string }
  /** There was nothing to do. */
  | { readonly kind: "as it was" }
  | { readonly kind: "rewritten"; readonly unproved: number }
  | { readonly kind: "fault"; readonly what: string };

const fault = (what: string): Outcome => ({ kind: "fault", what });
const words = (error: unknown): string => (error instanceof Error ? `${error.name}: ${error.message}` : String(error));

const contentOf = ({ size, pieces }: SparseContent): Buffer => {
  const bytes = Buffer.alloc(size);
  for (const piece of pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
};

/** Tries a mutant with all commands that read and write files. */
export function tried(mutant: Buffer, options: RewriteOptions): Outcome {
  const before = Buffer.from(mutant);
  let output: Buffer;
  try {
    const { content } = rewrite(parseElf(mutant), options);
    if (content === null) return { kind: "as it was" };
    output = contentOf(content);
  } catch (error) {
    if (error instanceof InputError) return { kind: "refused", words: error.message };
    if (error instanceof NotAsPlanned) return { kind: "withheld", words: error.message };
    return fault(`rewrite: ${words(error)}${error instanceof Error ? error.stack?.split("\n")[1] : ""}`);
  }
  if (!mutant.equals(before)) return fault("rewrite changed its input");
  return step("revert", () => {
    if (!contentOf(revert(parseElf(output))).equals(mutant)) return fault("it does not revert to the mutant");
    return step("verify", () => {
      const image = parseElf(output);
      const { sites, findings } = verify(image, carriedOriginal(image));
      const different = sites.filter((site) => site.verdict === "different").map((s) => `${s.name}: ${s.reason}`);
      const said = [...different, ...findings.map(({ where, what }) => `${where}: ${what}`)];
      if (said.length > 0) return fault(`verify finds ${said.length}: ${said[0]}`);
      return { kind: "rewritten", unproved: sites.filter((site) => site.verdict === "unproved").length };
    });
  });
}

function step(name: string, run: () => Outcome): Outcome {
  try {
    return run();
  } catch (error) {
    return fault(`${name}: ${words(error)}${error instanceof Error ? error.stack?.split("\n")[1] : ""}`);
  }
}
