/**
 * Faults, planted by hand into rewritten code: each is found, by the proof without any run, and by runs without the proof
 * where a run can see it. The same faults by the hundred are planted elsewhere; these are one of each kind, to read.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { readEhFrame } from "../../src/elf/eh-frame.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import type { SiteVerdict } from "../../src/verify/contract.js";
import type { Evidence } from "../../src/verify/evidence.js";
import { gatherEvidence } from "../../src/verify/sites.js";
import { judge } from "../../src/verify/verdicts.js";
import { canCompile } from "../rewrite/compile.js";
import { Faulty, type Rewritten, rewriteFile, tacticsLibrary } from "./planting.js";

let rewritten: Rewritten;
let layout5: Rewritten;
let layout10: Rewritten;
beforeAll(async () => {
  if (!canCompile) return;
  rewritten = rewriteFile(await tacticsLibrary(), "nop5");
  layout5 = rewriteFile(await tacticsLibrary(), "nop,nop5");
  layout10 = rewriteFile(await tacticsLibrary(), "nop,nop10");
});

const NOP5 = "0f1f440000";
const LOWER = "488d642480";
const RAISE = "488da42480000000";
const NOP8 = "0f1f840000000000";

interface Fault {
  readonly site: string;
  readonly plant: (faulty: Faulty) => Faulty;
  /** A run shows it as well; otherwise only the proof or the notes can. */
  readonly inRuns: boolean;
  readonly reason: RegExp;
}

const faults: Readonly<Record<string, Fault>> = {
  "a displacement off by one": {
    site: "straddle",
    plant: (f) => f.replace("straddle", "48897218", "48897219"),
    inRuns: true,
    reason: /0x18\],rsi.*0x19\],rsi/,
  },
  "a %rip-relative operand off by one": {
    site: "displace",
    plant: (f) => f.lead("displace", "480305", 1),
    inRuns: true,
    reason: /add rax/,
  },
  "an instruction dropped": {
    site: "pairs",
    plant: (f) => f.replace("pairs", "4801f3", "0f1f00"),
    inRuns: true,
    reason: /a nop at .* that the original does not have|goes on at/,
  },
  "an instruction in the place of another, and so twice": {
    site: "pairs",
    plant: (f) => f.replace("pairs", "4889fb", "4801f3"),
    inRuns: true,
    reason: /mov rbx,rdi.*add rbx,rsi/,
  },
  "another register written": {
    site: "pairs",
    plant: (f) => f.replace("pairs", "4889fb", "4889f9"),
    inRuns: true,
    reason: /mov rbx,rdi.*mov rcx,rdi/,
  },
  "the opposite condition": {
    site: "branches",
    plant: (f) => f.replace("branches", "0f84", "0f85"),
    inRuns: true,
    reason: /je .*jne /,
  },
  "a branch one byte too far": {
    site: "branches",
    plant: (f) => f.lead("branches", "0f84", 1),
    inRuns: true,
    reason: /goes on at/,
  },
  "a jump back one byte too far": {
    site: "pairs",
    plant: (f) => f.lead("pairs", "4801f3e9", 1),
    inRuns: true,
    reason: /goes on at/,
  },
  "a jump back to the probe": {
    site: "pairs",
    plant: (f) => f.lead("pairs", "4801f3e9", -5),
    inRuns: true,
    reason: /goes on at/,
  },
  "a jump to the middle of the new code": {
    site: "pairs",
    plant: (f) => {
      const { from, to } = f.probe("pairs");
      return f.put(from, `e9${f.distance(from + 5, to + 8)}`);
    },
    inRuns: true,
    reason: /passes its probe at .* does not/,
  },
  "a branch led to another instruction": {
    site: "retarget",
    plant: (f) => {
      const branch = f.probe("retarget").from - 208;
      return f.put(branch, "0f85").put(branch + 2, f.distance(branch + 6, f.probe("retarget").to + 5));
    },
    inRuns: true,
    reason: /probe|rsp|goes on/,
  },
  "the block that moved up, a byte of it": {
    site: "shift",
    plant: (f) => f.put(f.probe("shift").to + 5, "c2"),
    inRuns: true,
    reason: /ret/,
  },
  "a guard without its second half": {
    site: "guarded",
    plant: (f) => f.replace("guarded", RAISE, NOP8),
    inRuns: true,
    reason: /between a red-zone guard's halves|a nop at/,
  },
  "a guard without its first half": {
    site: "guarded",
    plant: (f) => f.replace("guarded", LOWER, NOP5),
    inRuns: true,
    reason: /lea rsp|nop at|argument/,
  },
  "no guard where bytes below rsp are needed": {
    site: "guarded",
    plant: (f) =>
      f
        .replace("guarded", LOWER, "e900000000")
        .replace("guarded", RAISE, "e90300000000cccccc".slice(0, 16))
        .note("guarded", "8@120(%rsp)", "8@-08(%rsp)"),
    inRuns: true,
    reason: /overwrites bytes below rsp|argument/,
  },
  "an argument not rebased": {
    site: "guarded",
    plant: (f) => f.note("guarded", "8@120(%rsp)", "8@121(%rsp)"),
    inRuns: false,
    reason: /the argument 8@-8\(%rsp\) has to be 8@120\(%rsp\)/,
  },
  "an argument in another register": {
    site: "displace",
    plant: (f) => f.note("displace", "8@%rdi", "8@%rsi"),
    inRuns: false,
    reason: /the argument 8@%rdi/,
  },
  "an argument of the call that is made early": {
    site: "call_through",
    plant: (f) => f.note("call_through", "8@32(%rsp)", "8@24(%rsp)"),
    inRuns: false,
    reason: /has to be 8@32\(%rsp\)/,
  },
  "rsp used where the call has been made already": {
    site: "call_through",
    plant: (f) => f.replace("call_through", "4889df", "4889e7"),
    inRuns: true,
    reason: /mov rdi,rbx.*mov rdi,rsp/,
  },
  "another function called": {
    site: "call_through",
    plant: (f) => f.lead("call_through", "4889dfe9", 16),
    inRuns: true,
    reason: /as if called/,
  },
  "the probe dropped": {
    site: "pairs",
    plant: (f) => f.replace("pairs", NOP5, "0f1f440008"),
    inRuns: false,
    reason: /no probe that a kernel optimizes/,
  },
  "the note left where the probe was": {
    site: "pairs",
    plant: (f) => f.locate("pairs", f.probe("pairs").from),
    inRuns: false,
    reason: /no probe that a kernel optimizes/,
  },
  "the note at another probe": {
    site: "pairs",
    plant: (f) => f.locate("pairs", f.probe("branches").to),
    inRuns: true,
    reason: /probe/,
  },
  "a probe in two pages": {
    site: "edge",
    plant: (f) => {
      const { from } = f.probe("edge");
      return f.put(from, `${NOP5}660f1f440000`).locate("edge", from);
    },
    inRuns: false,
    reason: /crosses a page boundary/,
  },
  "another provider": {
    site: "hop",
    plant: (f) => f.note("hop", "tactics\0hop", "tactucs\0hop"),
    inRuns: true,
    reason: /has no note/,
  },
};

/** The verdict on one site. @param evidence what it is to follow from */
const verdictOf = (evidence: Evidence, name: string): SiteVerdict =>
  judge(evidence).sites.find((s) => s.name === name)!;

describe.skipIf(!canCompile)("a planted fault is found", () => {
  it.each(Object.entries(faults))("%s", (_what, { site, plant, inRuns, reason }) => {
    const evidence = gatherEvidence(plant(new Faulty(rewritten)).image, rewritten.facts);
    const verdict = verdictOf(evidence, site);
    expect([verdict.verdict, verdict.reason]).toEqual(["different", expect.stringMatching(reason)]);

    const withoutRuns = { ...evidence, found: evidence.found.map((f) => ({ ...f, runs: [] })) };
    expect(verdictOf(withoutRuns, site).verdict, "by the proof alone").toBe("different");

    const differing = evidence.found.flatMap((f) =>
      f.runs.flatMap((r) => r.runs.filter((run) => run.both.difference !== undefined)),
    );
    expect(differing.length > 0, "by runs alone").toBe(inRuns);
    if (inRuns) expect(verdict.difference?.rows.length ?? 0).toBeGreaterThan(0);
  });

  it("in a probe of two nops: the second one", () => {
    const faulty = new Faulty(layout5).replace("pairs", `90${NOP5}`, "900f1f440008");
    const { sites } = judge(gatherEvidence(faulty.image, layout5.facts));
    expect(sites.filter((s) => s.verdict !== "equivalent").map((s) => s.name)).toEqual(["pairs"]);
  });

  it("and no other site is blamed", () => {
    const faulty = new Faulty(rewritten).replace("pairs", "4889fb", "4889f9");
    const { sites, unexplained } = judge(gatherEvidence(faulty.image, rewritten.facts));
    expect(sites.filter((s) => s.verdict !== "equivalent").map((s) => s.name)).toEqual(["pairs"]);
    expect(unexplained).toEqual([]);
  });

  it("in code that no site accounts for", () => {
    const at = new Faulty(rewritten).symbol("untouched");
    const faulty = new Faulty(rewritten).put(at + 1, "07");
    const { sites, unexplained } = judge(gatherEvidence(faulty.image, rewritten.facts));
    expect(sites.every((s) => s.verdict === "equivalent")).toBe(true);
    expect(unexplained).toEqual([{ start: at + 1, end: at + 2 }]);
  });

  it("in code that no site accounts for, and that does the same", () => {
    // nopl (%rax) and mov %rdi,%rax, in the other order.
    const at = new Faulty(rewritten).symbol("idle");
    const faulty = new Faulty(rewritten).put(at, "4889f80f1f00");
    const { sites, unexplained } = judge(gatherEvidence(faulty.image, rewritten.facts));
    expect(sites.every((s) => s.verdict === "equivalent")).toBe(true);
    expect(unexplained).toEqual([{ start: at, end: at + 6 }]);
  });

  it("where the block moved up, and the probe is a one-byte nop as before", () => {
    const nops = "90".repeat(11);
    const faulty = new Faulty(layout10).replace("shift", "90662e0f1f840000000000", nops);
    const { sites, unexplained } = judge(gatherEvidence(faulty.image, layout10.facts));
    // The probe is as good as it was: it is the code behind it that nobody accounts for.
    expect(sites.every((s) => s.verdict === "equivalent")).toBe(true);
    const { to } = faulty.probe("shift");
    expect(unexplained.map(({ start }) => start)).toEqual([to + 1]);
  });

  it("in unwind information: a function that ends later does not say so", () => {
    const { bytes } = new Faulty(rewritten);
    const { original } = rewritten;
    const [before, now] = [original, parseElf(bytes)].map((image) => sectionNamed(image, ".eh_frame")!);
    const frames = readEhFrame(original);
    const { location } = readUsdtNotes(original).find((n) => n.name === "shift")!;
    const at = frames.fde(frames.indexAt(location)).rangeOffset!;
    const moved = at - before!.sh_offset + now!.sh_offset;
    expect(bytes.readUInt32LE(moved)).toBeGreaterThan(original.bytes.readUInt32LE(at));
    original.bytes.copy(bytes, moved, at, at + 4);
    const { sites } = judge(gatherEvidence(parseElf(bytes), rewritten.facts));
    expect(sites.filter((s) => s.verdict !== "equivalent").map((s) => [s.name, s.reason])).toEqual([
      ["shift", expect.stringMatching(/runs past the end of its function, as unwind information or a symbol has it/)],
    ]);
  });

  it("in bytes that nothing runs", () => {
    const { from } = new Faulty(rewritten).probe("displace");
    // The window is 8 bytes long; the jump takes 5 of them.
    const faulty = new Faulty(rewritten).put(from + 6, "cd");
    const { unexplained } = judge(gatherEvidence(faulty.image, rewritten.facts));
    expect(unexplained).toEqual([{ start: from + 5, end: from + 8 }]);
  });
});
