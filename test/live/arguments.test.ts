/**
 * Arguments that tracers read: every form that a note can give them, before rewriting and after it, in every layout and at
 * every hit. A guard lowers rsp by 128 at the probe and a call-through by 8, which notes must make up for; and at a bare nop5
 * the kernel's own call would overwrite what a note reads below rsp.
 */
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotTrace, hasClang } from "./kernel.js";
import { type Reading, readArguments } from "./read.js";
import { build, programSource, type Rewritten, rewriteWith, sameLength } from "./rewriting.js";

/** How a probe is rewritten, and where a tracer attaches: `nop,nop5` as one that goes by the note, and as libbpf 1.7. */
const ways = [
  { layout: "nop5", step: 0n },
  { layout: "nop,nop5", step: 0n },
  { layout: "nop,nop5", step: 1n },
  { layout: "nop,nop10", step: 0n },
] as const;

const forms = [programSource("arguments.S"), programSource("arguments.c")] as const;
const fixture = fileURLToPath(new URL("../fixtures/programs/arguments.c", import.meta.url));

describe.skipIf(cannotTrace("arguments, read by tracefs"))("arguments, read by tracefs", () => {
  describe("of every form", () => {
    let program: string;
    let before: Reading;
    beforeAll(async () => {
      program = await build("gcc", forms[0], forms[1], "-O2", "-no-pie");
      before = await readArguments(program);
    });

    it("are what the program says", () => {
      expect(before.hits.length).toBe(16 * 6);
      const last = before.hits.slice(-16);
      // In the last round rdi is 5: some by hand, lest a reader that reads nothing agrees with itself.
      expect(last).toContain("constants: -5 1234605616436508552 255 -1 -77 0");
      expect(last).toContain("kept: 18 19 20");
      expect(last[8]).toMatch(/^below: 26 -45 90 \d+$/);
      expect(last).toContain("indexed: 6 6 0 1");
      expect(last).toContain(`bare: ${0x1020304050607080n} 14`);
      expect(last).toContain("symbols: 5 -12345 1234605616436508552 287454020");
    });

    it.each(ways)("are the same with $layout, attached at +$step", async ({ layout, step }) => {
      const rewritten = await rewriteWith(program, "--layout", layout);
      expect(rewritten.summary.rewritten).toBe(16);
      expectShifts(rewritten);
      const after = await readArguments(sameLength(rewritten.path, program), step);
      expect(after).toEqual(before);
    });
  });

  describe.each(["gcc", "clang"])("of a program compiled by %s", (compiler) => {
    it.skipIf(compiler === "clang" && !hasClang).each(["-O0", "-O2"])("%s", async (optimization) => {
      const program = await build(compiler, fixture, optimization);
      const before = await readArguments(program);
      expect(before.hits.length).toBeGreaterThan(100);
      for (const { layout, step } of ways.filter((way) => way.layout !== "nop,nop10")) {
        const { path } = await rewriteWith(program, "--layout", layout);
        expect(await readArguments(sameLength(path, program), step), `${layout} +${step}`).toEqual(before);
      }
    });
  });
});

/** The program was made to have both: where rsp is 128 lower, and where it is 8 lower. */
function expectShifts({ layout, sites }: Rewritten): void {
  if (layout !== "nop,nop10") expect(sites.filter((s) => s.guard).length).toBeGreaterThanOrEqual(6);
  expect(sites.find((s) => s.name === "before_call")?.tactic).toBe("call-through");
}
