/**
 * The selector on kernels: programs of each kind, and libraries after what programs do to their environment, say what it
 * is. It is 1 on 6.18 to 7.1, and 0 before and after.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { compiled, select, selectorOf } from "../selector/selected.js";
import { guestTimeout, inGuest, testKernels } from "./machine.js";
import { seen } from "./seen.js";

const { kernels, missing } = testKernels();
const skips = skipBecause(
  "selectors on test kernels",
  kernels.length === 0 ? missing.join("; ") : canCompile ? null : "no gcc",
);

const hasMusl = spawnSync("musl-gcc", ["--version"]).status === 0;

const programs: readonly (readonly [string, string, readonly string[]])[] = [
  ["PIE", "gcc", ["-pie", "-fPIE"]],
  ["ET_EXEC", "gcc", ["-no-pie", "-fno-pie"]],
  ["static", "gcc", ["-static"]],
  ["static-pie", "gcc", ["-static-pie", "-fPIE"]],
  ...(hasMusl
    ? ([
        ["musl", "musl-gcc", ["-pie", "-fPIE"]],
        ["static, musl", "musl-gcc", ["-static"]],
      ] as const)
    : []),
];
const scenes = ["plain", "setenv", "unsetenv", "clearenv", "null", "moved", "moved-and-cleared", "thread"];

const table: string[] = [];
afterAll(() => {
  if (!skips) console.log([...table, ...missing.map((line) => `not tried: ${line}`)].join("\n"));
});

describe.skipIf(skips)("the selector", guestTimeout, () => {
  let script: string;
  let lines: readonly string[];

  beforeAll(async () => {
    const commands: string[] = [];
    for (const [what, compiler, flags] of programs) {
      const output = scratch("program");
      select(await compiled(compiler, ["program.c"], ...flags), output);
      commands.push(`echo "${what}: $(env -i A=1 B=2 ${output} x | grep -o 'selector=[-0-9]*')"`);
    }
    const library = scratch("libselected.so");
    select(await compiled("gcc", ["library.c"], "-shared", "-fPIC"), library);
    const host = await compiled("gcc", ["host.c"]);
    for (const scene of scenes)
      commands.push(
        `echo "${scene}: $(env -i A=1 B=2 C=3 PATH=/bin ${host} ${library} ${scene} | grep -o 'selector=[-0-9]*')"`,
      );
    lines = [...programs.map(([what]) => what), ...scenes];
    script = scratch("selectors");
    writeFileSync(script, `#!/bin/sh\necho "kernel $(uname -r)"\n${commands.join("\n")}\n`);
    chmodSync(script, 0o755);
  }, 120_000);

  it.each(kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))(
    "on %s",
    async (_, kernel) => {
      const run = await inGuest(kernel, "/bin/sh", script);
      expect(run.status, run.stdout + run.stderr).toBe(0);
      const [first, ...said] = run.stdout.trim().split("\n");
      expect(first).toContain(`kernel ${kernel.series}`);
      const wanted = selectorOf(kernel.series);
      expect(said).toEqual(lines.map((line) => `${line}: selector=${wanted}`));
      seen(kernel, "selector");
      table.push(`${kernel.series} ${kernel.version}: ${said.length} times ${wanted} (${run.seconds.toFixed(0)} s)`);
    },
  );
});
