/** `rewrite --explain` and `--plan-json`: what was tried for a probe, on a program whose outcome is known from its source. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { build } from "../fixtures/build.js";
import { canCompile } from "../rewrite/compile.js";
import { must } from "../run.js";
import { usdtNop5 } from "./in-process.js";

const folder = mkdtempSync(join(tmpdir(), "usdt-explain-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Site {
  readonly name: string;
  readonly status: string;
  readonly reasonCode: string | null;
  readonly tried: readonly { readonly tactic: string; readonly outcome: string; readonly code: string | null }[];
  readonly change: {
    readonly tactic: string;
    readonly window: { readonly start: string; readonly end: string };
  } | null;
}

describe.skipIf(!canCompile)("a probe's way", () => {
  let file = "";
  beforeAll(async () => {
    const source = fileURLToPath(new URL("./explain.S", import.meta.url));
    const built = await build({
      output: "explain.so",
      compiler: "gcc",
      sources: [source],
      flags: ["-shared", "-fPIC"],
    });
    if (!built.ok) throw new Error(built.because);
    file = built.path;
  });
  const rewrite = (...options: string[]): ReturnType<typeof usdtNop5> => usdtNop5("rewrite", ...options, file);

  it("is told with each tactic's answer, after the report", async () => {
    const { status, stdout } = await rewrite("--dry-run", "--explain", "explain:moves", "--explain", "explain:stays");
    expect(status).toBe(0);
    const [report, ...explained] = stdout.split(/^(?=explain:)/m);
    expect(report).toMatch(/dry run: nothing written/);
    expect(explained).toHaveLength(2);
    const [moves, stays] = explained;
    expect(moves).toMatch(/: rewritten\n/);
    expect(moves).toMatch(/^ {4}displace +yes +chosen$/m);
    expect(moves).toMatch(/^ {4}mov rdi,rbx \(from 0x[0-9a-f]+\)$/m);
    expect(stays).toMatch(/: skipped\n/);
    expect(stays).toMatch(/^ {4}displace +no +endbr64 at 0x[0-9a-f]+ has to stay where it is \(fixed-instruction\)$/m);
    expect(stays).toMatch(/^ {2}stays as it is \(fixed-instruction\): endbr64/m);
    expect(stays).not.toMatch(/chosen/);
  });

  it("is a key of the JSON document, for the probes that were named", async () => {
    const plain = JSON.parse((await rewrite("--dry-run", "--json")).stdout) as object;
    const { stdout } = await rewrite("--dry-run", "--json", "--explain", "explain:s*");
    const { explain, ...rest } = JSON.parse(stdout) as { explain: readonly Site[] };
    expect(rest).toEqual(plain);
    expect(explain.map((s) => [s.name, s.status, s.reasonCode])).toEqual([["stays", "skipped", "fixed-instruction"]]);
  });

  it("is part of the whole plan, which has standard output for itself", async () => {
    const { status, stdout, stderr } = await rewrite("--dry-run", "--plan-json", "--layout", "nop5");
    expect(status).toBe(0);
    expect(stderr).toMatch(/dry run: nothing written/);
    const plan = JSON.parse(stdout) as {
      schemaVersion: number;
      layout: string;
      sites: readonly Site[];
      edits: object[];
    };
    expect([plan.schemaVersion, plan.layout]).toEqual([1, "nop5"]);
    const [moves, stays] = plan.sites;
    expect(moves!.tried.at(-1)).toMatchObject({ tactic: "displace", outcome: "chosen", code: null });
    // The judge of where the nop stands is nm.
    const symbol = (await must("nm", [file])).match(/^([0-9a-f]+) . nop_that_moves$/m)![1]!;
    expect(Number(moves!.change!.window.start)).toBe(Number.parseInt(symbol, 16));
    expect(stays!.change).toBeNull();
    expect(stays!.tried.every((t) => t.outcome === "refused")).toBe(true);
    expect(plan.edits.length).toBeGreaterThan(0);
  });

  it("is told of a file that is rewritten already, too", async () => {
    const output = join(folder, "rewritten.so");
    expect((await rewrite("-o", output)).status).toBe(0);
    const again = await usdtNop5("rewrite", "--dry-run", "--explain", "explain:moves", output);
    expect(again.stdout).toMatch(/1 already done/);
    expect(again.stdout).toMatch(/^ {4}displace +yes +chosen$/m);
  });

  it("says so where no probe has the name, and refuses both documents at once", async () => {
    const none = await rewrite("--dry-run", "--explain", "explain:other");
    expect([none.status, none.stderr]).toEqual([0, `usdt-nop5: ${file}: --explain explain:other matches no probe\n`]);
    expect((await rewrite("--dry-run", "--json", "--plan-json")).status).toBe(2);
  });
});
