/**
 * The guard's code on the real CPU and kernel, without a tracer: dead calls are written over the sites as a traced parent
 * leaves them behind. What the uprobes themselves do is in traced.test.ts.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { rowAt } from "../../src/elf/cfa-rows.js";
import { cannotCompile } from "../live/kernel.js";
import { skipBecause } from "../packages/skips.js";
import { run } from "../run.js";
import { drive } from "./drive.js";
import { type GuardedProgram, guardedProgram, linkedGuard } from "./guarded-program.js";

const mapping = (...sites: readonly number[]) => ({ sites: sites.map(vaddr), privatePages: new Set<never>() });
const guardOf = (...mappings: readonly ReturnType<typeof mapping>[]) => linkedGuard([...mappings], 0x20000);

describe("what a guard is made from", () => {
  it.each([
    ["no site", [mapping()]],
    ["a site twice", [mapping(0x1000, 0x1000)]],
    ["a site in two pages", [mapping(0x1ffc)]],
    ["a page of two mappings", [mapping(0x1000), mapping(0x1800)]],
    ["sites out of reach", [mapping(0x1000), mapping(0x180001000)]],
    ["too many sites", [mapping(...Array.from({ length: 32000 }, (_, i) => 0x100000 + 16 * i))]],
  ])("is refused: %s", (_, mappings) => {
    expect(() => guardOf(...mappings)).toThrow(RangeError);
  });

  it("does not depend on the order of the sites", () => {
    const [a, b] = [guardOf(mapping(0x1000, 0x5000, 0x5040)), guardOf(mapping(0x5040, 0x1000, 0x5000))];
    expect(Buffer.from(a.bytes).equals(b.bytes)).toBe(true);
    expect(a.pageCount).toBe(2);
  });

  it("begins with an endbr64 and holds four bytes a site, eight a page", () => {
    const { bytes } = guardOf(mapping(0x1000));
    expect(Buffer.from(bytes.subarray(0, 4)).toString("hex")).toBe("f30f1efa");
    expect(guardOf(mapping(0x1000, 0x1010, 0x1020)).bytes.length - bytes.length).toBe(8);
    expect(guardOf(mapping(0x1000, 0x2000, 0x3000)).bytes.length - bytes.length).toBe(24);
  });
});

describe.skipIf(cannotCompile("the guard on the real CPU"))("the guard on the real CPU", () => {
  const UNTOUCHED = "nop5 5 int3 0 call 0 torn 0 mark c3 maps 1";
  const DEAD = "nop5 0 int3 0 call 5 torn 0 mark c3 maps 1";
  const KEPT = "registers kept, signals kept, descriptors kept";
  let program: GuardedProgram;
  let ofPrivatePages: GuardedProgram;
  beforeAll(async () => {
    // Two sites in each of two pages, one in the third.
    program = await guardedProgram({ sites: 5, stride: 2500 });
    ofPrivatePages = await guardedProgram({ sites: 5, stride: 2500, isPrivate: true });
  });

  const lines = async (of: GuardedProgram, script: string) => (await drive(of.path, "manual", script)).lines;

  it("is what objdump takes for code: one way in, one way out, no calls", async () => {
    const { stdout } = await run("objdump", ["-d", "-j", ".nop5guard", program.path]);
    const code = [...stdout.matchAll(/^ *([0-9a-f]+):\t(?:[0-9a-f]{2} )+ *(?:\t(\S+))?/gm)]
      .filter(([, address, name]) => name !== undefined && Number.parseInt(address!, 16) < program.guard.codeEnd)
      .map(([, , name]) => name!);
    expect(code.length).toBeGreaterThan(200);
    expect(code[0]).toBe("endbr64");
    expect(code.filter((name) => name === "endbr64" || name.startsWith("ret"))).toEqual(["endbr64", "ret"]);
    expect(code.filter((name) => name === "(bad)" || name.startsWith("call") || name === "int3")).toEqual([]);
  });

  it("changes nothing where nothing is traced, and keeps registers, flags and all else", async () => {
    expect(await lines(program, "rp")).toEqual([KEPT, UNTOUCHED]);
  });

  it("puts the file's bytes back and keeps registers, flags and all else", async () => {
    expect(await lines(program, "pbprph")).toEqual([UNTOUCHED, DEAD, KEPT, UNTOUCHED]);
    expect(program.guard.pageCount).toBe(3);
  });

  it("writes only the sites where a page has other bytes than the file", async () => {
    expect(await lines(ofPrivatePages, "Mbprph")).toEqual([
      DEAD.replace("c3", "c2"),
      KEPT,
      UNTOUCHED.replace("c3", "c2"),
    ]);
    // The byte that the guard was not told of is lost: this is what the set of private pages is for.
    expect(await lines(program, "Mbgp")).toEqual([UNTOUCHED]);
  });

  it("does not leave zeros where the code has moved to anonymous memory", async () => {
    expect(await lines(program, "AbgpMbgph")).toEqual([UNTOUCHED, UNTOUCHED.replace("c3", "c2")]);
  });

  it("mends locked and sealed pages", async () => {
    expect(await lines(program, "lbgph")).toEqual([UNTOUCHED]);
    expect(await lines(program, "Sbgph")).toEqual([UNTOUCHED]);
  });

  it("goes by way of /proc where madvise is refused, and needs no /proc where it is not", async () => {
    expect(await lines(program, "bqgph")).toEqual([UNTOUCHED]);
    if (process.getuid?.() !== 0) return void skipBecause("a guard without /proc", "needs root");
    expect(await lines(program, "bngph")).toEqual([UNTOUCHED.replace("maps 1", "maps -1")]);
    // Where neither way is open the bytes stay as they are.
    expect(await lines(ofPrivatePages, "bngp")).toEqual([DEAD.replace("maps 1", "maps -1")]);
    expect(await lines(ofPrivatePages, "bugp")).toEqual([DEAD]);
    expect(await lines(program, "bugph")).toEqual([UNTOUCHED]);
  });

  it("makes no system call where nothing is traced", async () => {
    if (skipBecause("system calls of the guard", (await run("strace", ["-V"])).status === 0 ? null : "no strace"))
      return;
    const calls = async (script: string): Promise<readonly string[]> => {
      const { stderr, status } = await run("strace", ["-f", "-qq", program.path, "manual", script]);
      expect(status).toBe(0);
      // From the fork on; what came before reads names, which differ.
      const all = [...stderr.matchAll(/(?:^|\] )(\w+)\(/gm)].map(([, name]) => name!);
      return all.slice(all.indexOf("clone")).sort();
    };
    const without = await calls("fh");
    expect(without).toContain("exit_group");
    expect(await calls("fgh")).toEqual(without);
    const mended = await calls("bfgh");
    expect(mended.filter((name) => name === "madvise").length).toBeGreaterThanOrEqual(3 * 2 + 2);
  });

  it("under a filter that kills for madvise, open and sigprocmask an untraced child is unaffected", async () => {
    expect(await lines(program, "fkgh")).toEqual(["exit 0"]);
    // The same child with dead calls to mend is killed at its first madvise or sigprocmask: the filter is at work.
    expect(await lines(program, "bfkgh")).toEqual(["killed by 31"]);
  });

  it("lets signals wait until the sites are sound", async () => {
    // The handler passes the sites. Before the guard keeps signals out that is the end; from then on it never is.
    expect(await drive(program.path, "manual", "bI5cp")).toEqual({ lines: [], status: null });
    for (const steps of [60, 120, 200, 280])
      expect(await lines(program, `bI${steps}cp`)).toEqual(["interrupted 1", UNTOUCHED]);
  });

  it("says at every instruction where the caller's frame is", async () => {
    for (const script of ["c", "bc"]) {
      const steps = (await lines(program, script)).map((line) =>
        line.split(" ").map((word) => Number.parseInt(word, 16)),
      );
      expect(steps.length).toBeGreaterThan(script === "c" ? 50 : 300);
      const { unwind } = program.guard;
      const frames = new Set(
        steps.map(([, address, rsp]) => {
          const row = rowAt(unwind, address!);
          expect(unwind.registers[row]).toBe(7);
          return rsp! + unwind.offsets[row]!;
        }),
      );
      expect(frames.size).toBe(1);
    }
  });
});
