/** What a report warns of, in files that are dangerous each in one way; and what it keeps quiet about in one that is not. */
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { cannotCompile } from "./kernel.js";
import { build, programSource, type Rewritten, rewriteWith, scratch } from "./rewriting.js";

const source = programSource("hazards.c");
const codes = (r: Rewritten): string[] => r.hazards.map((hazard) => hazard.code);
const message = (r: Rewritten, code: string): string | undefined => r.hazards.find((h) => h.code === code)?.message;

function capabilitiesMissing(): string | null {
  if (process.getuid?.() !== 0) return "setting them needs root";
  const file = scratch("capable");
  writeFileSync(file, "");
  return spawnSync("setcap", ["cap_net_raw+ep", file]).status === 0 ? null : "setcap does not work here";
}

describe.skipIf(cannotCompile("hazards"))("hazards", () => {
  let plain: string;
  beforeAll(async () => {
    plain = await build("gcc", source, "-O2");
  });

  function copy(): string {
    const path = scratch("copy");
    copyFileSync(plain, path);
    return path;
  }

  it("of a plain program: none of nop,nop10, and what nop5 costs and may meet where it is chosen", async () => {
    expect(codes(await rewriteWith(plain, "--kernel", "7.2"))).toEqual([]);
    expect(codes(await rewriteWith(plain))).toEqual(["detach"]);
    expect(codes(await rewriteWith(plain, "--kernel", "6.18"))).toEqual(["old-kernel", "detach"]);
    expect(codes(await rewriteWith(plain, "--layout", "nop,nop5"))).toEqual(["detach"]);
    const bare = await rewriteWith(plain, "--kernel", "6.18", "--no-fork-guard");
    // Two ways to be damaged, one line: what all of these kernels do, and how not to meet it.
    const torn = message(await rewriteWith(plain), "detach");
    expect(torn).toMatch(/CVE-2026-72357.*6\.18 to 7\.1 when two have traced it/);
    expect(torn).toContain("one tracer at a time is safe");
    expect(codes(bare).sort()).toEqual(["detach", "fork-in-library", "old-kernel"]);
    expect(message(bare, "fork-in-library")).toContain("--no-fork-guard");
    expect(codes(await rewriteWith(plain, "--no-fork-guard", "--layout", "nop,nop5"))).toEqual([
      "fork-in-library",
      "detach",
    ]);
  });

  it.each([
    ["setuid", 0o4755],
    ["setgid", 0o2755],
  ])("of a %s program", async (name, mode) => {
    const file = copy();
    chmodSync(file, mode);
    expect(message(await rewriteWith(file), "privileged")).toContain(name);
    expect(message(await rewriteWith(file, "--kernel", "any"), "privileged")).toContain(name);
  });

  it.skipIf(skipBecause("hazards of capabilities", capabilitiesMissing()))(
    "of a program with capabilities",
    async () => {
      const file = copy();
      await must("setcap", ["cap_net_raw+ep", file]);
      expect(message(await rewriteWith(file), "privileged")).toContain("capabilities");
    },
  );

  it("of a program with a section for its own signature", async () => {
    const [file, signature] = [scratch("signed"), scratch("signature")];
    writeFileSync(signature, "a signature of the rest");
    await must("objcopy", ["--add-section", `.signature=${signature}`, plain, file]);
    expect(message(await rewriteWith(file), "self-check")).toContain(".signature");
  });

  it.each([
    ["a library, for it cannot know who forks", ["-shared", "-fPIC"], /shared library/],
    ["a static program, by its system calls", ["-static"], /static/],
    ["a static PIE, too", ["-static-pie"], /static/],
  ])("of %s", async (_what, flags, because) => {
    const file = await build("gcc", source, "-O2", ...flags);
    const rewriteBare = (...options: string[]) => rewriteWith(file, "--no-fork-guard", ...options);
    expect((await rewriteBare()).layout).toBe("nop,nop10");
    expect(message(await rewriteBare("--layout", "nop5"), "fork")).toMatch(because);
    expect(message(await rewriteBare("--layout", "nop,nop5"), "fork")).toMatch(because);
  });

  it("of a program whose probes are bare nop5 already: judged like any other, in every layout", async () => {
    const file = await build("gcc", source, "-O2", "-DHAZARD_NOP5");
    for (const options of [[], ["--layout", "nop5"], ["--kernel", "any"]]) {
      const report = await rewriteWith(file, ...options);
      const sites = report.sites.map((s) => [s.name, s.status, s.redZone]);
      expect(sites.sort()).toEqual([
        ["calls", "already", "unused"],
        ["leaf", "already", "live"],
      ]);
      expect(message(report, "red-zone")).toMatch(/^1 probe had a bare nop5 already/);
      expect(codes(report)).toContain("old-kernel");
    }
  });

  it("of our own output: a guarded nop5 is no bare one", async () => {
    const once = await rewriteWith(plain, "--layout", "nop5");
    expect(once.sites.find((s) => s.name === "leaf")).toMatchObject({ status: "rewritten", guard: true });
    const twice = await rewriteWith(once.path, "--layout", "nop5");
    expect(twice.sites.map((s) => s.status)).toEqual(["already", "already"]);
    expect(codes(twice)).toEqual(codes(once));
  });

  it("names the kernels of each, and what decides it", async () => {
    const file = await build("gcc", source, "-O2", "-DHAZARD_NOP5", "-static");
    chmodSync(file, 0o4755);
    const reports = [
      await rewriteWith(file),
      await rewriteWith(plain),
      await rewriteWith(plain, "--layout", "nop,nop5"),
    ];
    // What an output's attributes are is no matter of kernels.
    for (const { code, message: text } of reports.flatMap((r) => r.hazards).filter((h) => h.code !== "attributes")) {
      expect(text, code).toMatch(/kernel|Linux/);
      expect(text, code).toMatch(/--[a-z]+|no option/);
    }
  });
});
