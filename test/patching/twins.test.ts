/**
 * A probe with two places, under threads and a patcher: with both attached each pass reaches the consumer once, whatever
 * the selector holds; while a tool attaches or detaches one place is there without the other, and then a hit may be
 * missing, never doubled. The built-in program, and code as the rewriter makes it.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { search } from "../../src/explore/search.js";
import type { System } from "../../src/explore/system.js";
import type { Model, ModelStep } from "../../src/patching/model.js";
import { makeProgram, type Program } from "../../src/patching/programs.js";
import { probeOf } from "../../src/patching/protocol.js";
import { realSites } from "../../src/patching/real-site.js";
import { explore, prepare } from "../../src/patching/scenario.js";
import { isOff, isOn, type Round } from "../../src/patching/state.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { usdtNop5 } from "../command.js";
import { canCompile, compile, scratch } from "../rewrite/compile.js";

const KERNELS = ["legacy", "6.18", "7.2"] as const;
const SELECTORS = [0, 1] as const;
const ways = KERNELS.flatMap((kernel) => SELECTORS.map((selector) => ({ kernel, selector })));

type Kernel = (typeof KERNELS)[number];

const builtIn = (kernel: Kernel, selector: 0 | 1): Program =>
  makeProgram("universal", { probe: probeOf(kernel), universal: { selector, runs: "one" } });

/** A round at its end, and what was attached then. */
interface Ended {
  readonly round: Round;
  readonly attached: "both" | "neither" | "other";
}

/** All rounds that end anywhere in all that can happen. */
function roundsOf(model: Model): { readonly rounds: readonly Ended[]; readonly violation: string | undefined } {
  const rounds = new Map<string, Ended>();
  const watched: System<ModelStep> = {
    width: model.width,
    actors: model.actors,
    initial: () => model.initial(),
    steps: (state, actor) => model.steps(state, actor),
    isEnd: (state) => model.isEnd(state),
    apply: (state, actor, step, into) => {
      model.apply(state, actor, step, into);
      if (step.label !== "has passed the probe") return;
      const round = model.threadIn(state, actor).round!;
      const { sites } = model.registryIn(state);
      const all = (test: (attachment: number) => boolean): boolean => sites.every((s) => test(s.attachment));
      const attached = all(isOn) ? "both" : all(isOff) ? "neither" : "other";
      rounds.set(JSON.stringify([round, attached]), { round, attached });
    },
  };
  const found = search(watched, { mostStates: 1_000_000 }).found;
  return { rounds: [...rounds.values()], violation: found?.violation.message };
}

describe.each(ways)("Linux $kernel, selector $selector", ({ kernel, selector }) => {
  it.each([1, 2])("each pass reaches the consumer once: attached and detached %i times", (toggles) => {
    const threads = toggles === 1 ? 2 : 1;
    const { found, exhaustive } = explore({ kernel, program: builtIn(kernel, selector), threads, toggles });
    expect(found?.violation).toBeUndefined();
    expect(exhaustive).toBe(true);
  });

  it("while places come and go a hit may be missing, and none is doubled", () => {
    const { model } = prepare({ kernel, program: builtIn(kernel, selector), threads: 2, toggles: 1 });
    const { rounds, violation } = roundsOf(model);
    expect(violation).toBeUndefined();
    const hits = (test: (ended: Ended) => boolean): readonly number[] =>
      [...new Set(rounds.filter(test).map(({ round }) => round.hits))].sort();
    expect(hits(({ round }) => round.isOwed)).toEqual([1]);
    expect(hits(({ attached, round }) => attached === "other" && !round.isOwed)).toEqual([0, 1]);
    expect(Math.max(...rounds.map(({ round }) => round.hits))).toBe(1);
  });
});

describe.each(KERNELS)("what is wrong shows on Linux %s", (kernel) => {
  const wrong = (runs: "both" | "neither", selector: 0 | 1): string | undefined => {
    const program = makeProgram("universal", { probe: probeOf(kernel), universal: { selector, runs } });
    return explore({ kernel, program, threads: 1, toggles: 1 }).found?.violation.message;
  };

  it("both places run", () => expect(wrong("both", 0)).toMatch(/two places called the consumer twice/));

  it.each(SELECTORS)("neither runs, selector %i", (selector) =>
    expect(wrong("neither", selector)).toMatch(/both of whose places are attached, did not reach the consumer/),
  );
});

/** A leaf function with data below rsp, one without, and one in which flags cross the probe. */
const source = `
#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) long leaf(long x, int n) {
  volatile long b[8];
  for (int i = 0; i < 8; i++) b[i] = x + i;
  DTRACE_PROBE1(real, leaf, x);
  long s = 0;
  for (int i = 0; i < 8; i++) s += b[i];
  return s * n;
}
__attribute__((noinline)) long plain(long x) { DTRACE_PROBE1(real, plain, x); return x * 3; }
long compared(long x, long y);
__asm__(".text\\n.globl compared\\n.type compared,@function\\ncompared: .cfi_startproc\\n"
  "mov %rdi,%rax\\ncmp %rsi,%rdi\\n990: nop\\ncmovb %rsi,%rax\\nlea 1(%rax),%rax\\nlea 1(%rax),%rax\\nret\\n"
  ".cfi_endproc\\n.size compared,.-compared\\n"
  ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n.balign 4\\n.4byte 992f-991f,994f-993f,3\\n991: .asciz \\"stapsdt\\"\\n"
  "992: .balign 4\\n993: .8byte 990b,_.stapsdt.base,0\\n.asciz \\"real\\"\\n.asciz \\"compared\\"\\n.asciz \\"8@%rax\\"\\n"
  "994: .balign 4\\n.popsection\\n");
int main(int argc, char **argv) { printf("%ld\\n", leaf(argc, 8) + plain(argc) + compared(argc, 3)); }
`;

describe.skipIf(!canCompile)("rewritten code", async () => {
  const output = scratch("universal");
  const outcome = await usdtNop5("rewrite", await compile(source), "-o", output, "--strict", "--kernel", "any");
  if (outcome.status !== 0) throw new Error(outcome.stderr);
  const image = parseElf(readFileSync(output));
  const original = carriedOriginal(image).image!;

  it.each(KERNELS)("each pass reaches the consumer once on Linux %s", (kernel) => {
    const sites = realSites(image, original, kernel, () => true);
    const names = ["compared", "leaf", "plain"].flatMap((name) => [`${name} 0`, `${name} 1`]);
    expect(sites.map(({ name, selector }) => `${name} ${selector}`).sort()).toEqual(names);
    for (const { name, selector, program, because } of sites) {
      expect(because).toBe(null);
      expect(program!.sites).toHaveLength(2);
      const { model } = prepare({ kernel, program: program!, threads: 2, toggles: 1 });
      const { rounds, violation } = roundsOf(model);
      expect(violation, `${name}, selector ${selector}`).toBeUndefined();
      expect(rounds.some(({ round }) => round.isOwed && round.hits === 1)).toBe(true);
    }
  });

  it("the command says so, for both selectors", async () => {
    const { status, stdout, stderr } = await usdtNop5(
      "emulate",
      output,
      "--site",
      "real:*",
      "--json",
      "--threads",
      "1",
    );
    expect(status, stderr).toBe(0);
    const { sites, violations } = JSON.parse(stdout) as { sites: { selector: number }[]; violations: unknown[] };
    expect(violations).toEqual([]);
    expect(sites.map(({ selector }) => selector)).toEqual([0, 1, 0, 1, 0, 1]);
  });
});
