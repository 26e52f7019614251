/** A probe that is not rewritten is what it was, whatever becomes of those beside it. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { codeFrom, probeInstruction } from "../../src/usdt/sites.js";
import { sample } from "../sample/sample.js";
import { complaints, held, rewriteFile } from "../verify/held.js";

/** What stands at each probe, by name. */
function instructions(bytes: Buffer): Record<string, string | null> {
  const image = parseElf(bytes);
  return Object.fromEntries(
    readUsdtNotes(image).map(({ name, location }) => [name, probeInstruction(codeFrom(image, location)!)]),
  );
}

describe("a probe that stays", () => {
  // The program and the library have their functions at other addresses, and so other tactics.
  const ways = [[], ["-no-pie"], ["-shared", "-fPIC", "-Dmain=fixture_main"]];

  it.each(ways)("is a nop, not nop,nop5, where the one after it becomes a nop5 %s", async (...flags) => {
    const path = await sample(...flags);
    const before = instructions(readFileSync(path));
    for (const only of ["second", "guarded", "add"]) {
      const made = rewriteFile(path, { only: [`sample:${only}`] });
      if (made === null) continue;
      const now = instructions(made.bytes);
      expect({ ...now, [only]: null }).toEqual({ ...before, [only]: null });
      expect(complaints(held(made.bytes))).toEqual([]);
    }
  });

  it.each(ways)("is nop,nop5 where that was asked for and stood there %s", async (...flags) => {
    const path = await sample(...flags);
    for (const layout of ["nop,nop5", "nop,nop10"] as const)
      for (const forkGuard of [false, true]) {
        const made = rewriteFile(path, { layout, forkGuard })!;
        expect(instructions(made.bytes)[layout === "nop,nop5" ? "nop_nop5" : "nop_nop10"]).toBe(layout);
        expect(complaints(held(made.bytes))).toEqual([]);
      }
  });
});
