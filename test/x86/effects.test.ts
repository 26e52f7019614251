/** The common instructions, whose effects are read from their bytes, have the effects that iced-x86 tells of. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { hex } from "../../src/address.js";
import { parseElf } from "../../src/elf/image.js";
import { FunctionIndex } from "../../src/facts/functions.js";
import { addressOf, lengthOf } from "../../src/x86/decode.js";
import { type Effects, effectsOf } from "../../src/x86/effects.js";
import { disassemble } from "../../src/x86/relocate.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";

const perInstruction = ["kind", "target", "source", "constant", "writes", "keeps", "values", "traits"] as const;
const perAccess = ["base", "index", "displacement", "size", "mode"] as const;

function effectAt(effects: Effects, i: number): string {
  const own = perInstruction.map((name) => `${name} ${effects[name][i]}`);
  for (let a = effects.firstAccess[i]!; a < effects.firstAccess[i + 1]!; a++)
    own.push(perAccess.map((name) => `${name} ${effects[name][a]}`).join(" "));
  return own.join(", ");
}

describe("common instructions", () => {
  it.each(Object.values(corpus))("$path", { timeout: FETCH_TIMEOUT }, (file) => {
    fetchPackages();
    const functions = FunctionIndex.of(parseElf(readFileSync(corpusPath(file))));
    // Every twentieth function, and in each instruction by instruction, so that a failure names it.
    let compared = 0;
    for (let f = 0; f < functions.count; f += 20) {
      const code = functions.code(functions.range(f));
      if (code.unclean !== undefined) continue;
      const fast = effectsOf(code);
      const slow = effectsOf(code, false);
      for (let i = 0; i < code.count; i++, compared++) {
        const [ours, theirs] = [effectAt(fast, i), effectAt(slow, i)];
        if (ours === theirs) continue;
        const at = addressOf(code, i);
        const from = at - code.start;
        const text = disassemble(code.bytes.subarray(from, from + lengthOf(code, i)), at);
        expect(ours, `${hex(at)} ${text}`).toBe(theirs);
      }
    }
    expect(compared).toBeGreaterThan(10_000);
  });
});
