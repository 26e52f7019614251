/** A probe that became a jump over the bytes behind it, traced: the kernel makes a call of its nop5, and the program goes on. */
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { must } from "../run.js";
import { cannotOptimize } from "./kernel.js";
import { build, rewriteWith } from "./rewriting.js";

const source = (name: string): string => fileURLToPath(new URL(`../rewrite/${name}`, import.meta.url));

it.skipIf(cannotOptimize("a punned probe")).each(["-pie", "-no-pie"])("%s", async (how) => {
  const program = await build("gcc", source("punned-main.c"), source("punned.S"), "-O2", how);
  const { path, sites } = await rewriteWith(program, "--layout", "nop5");
  expect(sites.map((s) => s.tactic)).toEqual(["punned"]);
  const { stdout, stderr, status } = await usdtNop5("live", "--json", "--", path);
  expect(status).toBe(0);
  expect((JSON.parse(stdout) as { sites: unknown }).sites).toMatchObject([{ hits: 1000, optimized: true }]);
  expect(stderr).toContain(await must(program, []));
});
