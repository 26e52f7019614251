/**
 * Each layout on each kernel: programs that are rewritten here run there, under uprobes that are attached as `live`
 * does. What they compute, what is counted and whether their children live is held against src/kernel, also where it
 * says that they break.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { KernelFacts } from "../../src/kernel/kernels.js";
import { behindFile } from "../behind.js";
import { cannotCompile } from "../live/kernel.js";
import { skipBecause } from "../packages/skips.js";
import type { ClaimName } from "./claims.js";
import type { Answer, Task } from "./layouts.js";
import { expected, expectedToggled, type LayoutCase, layoutCases, shown, shownToggled } from "./layouts-table.js";
import { guestScript, guestTimeout, inGuest, isShort, testKernels } from "./machine.js";
import { notTried, said, seen } from "./seen.js";

const { kernels, missing } = testKernels();
const skips =
  skipBecause("layouts on test kernels", kernels.length === 0 ? missing.join("; ") : null) ||
  cannotCompile("layouts on test kernels");

beforeAll(() => {
  if (isShort && !skips) notTried("short form: threads and semaphores, and tracers that come and go at combinations");
});

/** The claims that these cases show, if they went as expected. */
function shownBy(run: readonly LayoutCase[], toggle: readonly LayoutCase[], facts: KernelFacts): ClaimName[] {
  const of = (name: string): readonly LayoutCase[] => run.filter((one) => one.program.name === name);
  const whole = ["red zone", "threads", "semaphores"].every((name) => of(name).length > 0);
  const found: [ClaimName, boolean][] = [
    ["layouts", whole],
    ["layoutsRefused", whole && run.some(({ place }) => facts.treats[place] === "refused")],
    ["nop5InSource", run.some(({ form }) => form.isCareless === true)],
    ["forkGuarded", of("fork").some(({ form }) => form.isGuarded)],
    ["forkUnguarded", of("fork").some(({ form }) => !form.isGuarded && form.options !== null)],
    ["fork", of("fork").some(({ form }) => !form.isGuarded && form.options !== null)],
    ["toggledGuarded", toggle.some(({ form }) => form.isGuarded)],
    ["toggledUnguarded", toggle.some(({ form }) => !form.isGuarded)],
  ];
  return found.flatMap(([claim, holds]) => (holds ? [claim] : []));
}

describe.skipIf(skips)("layouts on test kernels", guestTimeout, () => {
  let script: string;
  let task: string;
  let run: readonly LayoutCase[];
  let toggle: readonly LayoutCase[];
  beforeAll(async () => {
    script = await guestScript("layouts-guest.ts");
    ({ run, toggle } = await layoutCases(isShort));
    const folder = mkdtempSync(path.join(tmpdir(), "usdt-task-"));
    behindFile(() => rmSync(folder, { recursive: true, force: true }));
    task = path.join(folder, "task.json");
    const plain = ({ file, behind }: LayoutCase) => ({ file, behind });
    writeFileSync(task, JSON.stringify({ run: run.map(plain), toggle: toggle.map(plain) } satisfies Task));
  });

  it.each(kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))(
    "%s",
    async (_, kernel) => {
      const { facts } = kernel;
      const { status, stdout, stderr, seconds } = await inGuest(kernel, process.execPath, script, task);
      expect(status, stderr + stdout).toBe(0);
      const { kernel: name, ran, toggled } = JSON.parse(stdout) as Answer;
      expect(name).toBe(facts.name);
      expect(ran.map((one, i) => [run[i]!.title, ...shown(one)])).toEqual(
        run.map((one) => [one.title, ...expected(one, facts)]),
      );
      expect(toggled.map((one, i) => [toggle[i]!.title, ...shownToggled(toggle[i]!, one, facts)])).toEqual(
        toggle.map((one) => [one.title, ...expectedToggled(one, facts)]),
      );
      const children = toggled.reduce((sum, one) => sum + one.children, 0);
      seen(kernel, ...shownBy(run, toggle, facts));
      said(kernel, `${run.length} programs in their layouts, ${children} children (guest: ${seconds.toFixed(0)} s)`);
    },
  );
});
