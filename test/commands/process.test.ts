/**
 * The command as a process of its own does and says what it does in the tests' process, where most tests run it: the same exit
 * status, the same words, the same file.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { offsetOf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { startNop5, usdtNop5 } from "../command.js";
import { sampleCopy } from "../sample/sample.js";
import { changed } from "../verify/held.js";

describe("the command is the same as a process of its own", () => {
  it.each([
    ["list", 0, ["list", "--json", "INPUT"]],
    ["rewrite", 0, ["rewrite", "--json", "INPUT", "-o", "OUTPUT"]],
    ["verify", 0, ["verify", "--json", "REWRITTEN"]],
    ["verify a file with a fault", 3, ["verify", "--json", "--original", "INPUT", "FAULTY"]],
    ["revert", 0, ["revert", "REWRITTEN", "-o", "OUTPUT"]],
    ["revert what was never rewritten", 1, ["revert", "INPUT", "-o", "OUTPUT"]],
    ["a wrong option", 2, ["rewrite", "--layout", "nop6", "INPUT"]],
  ])("%s", async (_what, status, words) => {
    const input = await sampleCopy();
    const beside = (name: string): string => join(dirname(input), name);
    const [output, rewritten] = [beside("output"), beside("rewritten")];
    expect((await startNop5("rewrite", "--layout", "nop5", input, "-o", rewritten)).status).toBe(0);
    const faulty = changed(readFileSync(rewritten), (copy, image) => {
      copy[offsetOf(image, readUsdtNotes(image)[0]!.location)!] = 0xcc;
    });
    writeFileSync(beside("faulty"), faulty);
    const places = new Map([
      ["INPUT", input],
      ["OUTPUT", output],
      ["REWRITTEN", rewritten],
      ["FAULTY", beside("faulty")],
    ]);
    const outcome = async (run: typeof usdtNop5): Promise<unknown> => {
      rmSync(output, { force: true });
      const said = await run(...words.map((word) => places.get(word) ?? word));
      return { ...said, file: existsSync(output) ? readFileSync(output) : null };
    };
    const as = await outcome(startNop5);
    expect(as).toMatchObject({ status });
    expect(await outcome(usdtNop5)).toEqual(as);
  });
});
