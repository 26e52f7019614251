/**
 * Tracers as users have them, on each kernel: bpftrace and libbpf of this machine, libbpf of sid and of a kernel tree.
 * Which of a combination's nops they attach to, and that each pass is counted once.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { attachedTo, type KernelFacts, type KernelName, type ProbeInstruction } from "../../src/kernel/kernels.js";
import { behindFile } from "../behind.js";
import { list } from "../command.js";
import { bpftraceMissing } from "../live/bpftrace.js";
import { cannotCompile } from "../live/kernel.js";
import { cannotMakeTracer } from "../live/libbpf.js";
import { build, programSource, rewriteWith } from "../live/rewriting.js";
import { skipBecause } from "../packages/skips.js";
import { type LibbpfTracer, libbpfTracers } from "./libbpfs.js";
import { guestScript, guestTimeout, inGuest, isShort, testKernels } from "./machine.js";
import { notTried, said, seen } from "./seen.js";
import type { Attached, Traceable, TracersAnswer, TracersTask } from "./tracers-guest.js";

const { kernels, missing } = testKernels();
const skips =
  skipBecause("tracers on test kernels", (kernels.length === 0 ? missing.join("; ") : null) ?? cannotMakeTracer()) ||
  cannotCompile("tracers on test kernels");
/** The source of a kernel is a large download. */
const NEWER = isShort ? ["sid"] : ["sid", "tree"];
const PASSES = 40;
/** A universal probe is attached to at both places; at the first one as any nop,nop10. */
const layouts = [...(isShort ? [] : (["nop", "nop5"] as const)), "nop,nop5", "nop,nop10", "universal"] as const;
type Layout = (typeof layouts)[number];
const formOf = (layout: Layout): ProbeInstruction => (layout === "universal" ? "nop,nop10" : layout);

const nops = { nop: "90", nop5: "0f1f440000", nop10: "662e0f1f840000000000" } as const;
const originalOf = (form: ProbeInstruction): string =>
  form.split(",").reduce((hex, nop) => hex + nops[nop as keyof typeof nops], "");

/** Which byte of a probe is another than it was: how far behind the note's location somebody attached. */
const placeOf = ({ bytes }: Attached, form: ProbeInstruction): number =>
  (originalOf(form).match(/../g) ?? []).findIndex((byte, i) => bytes.slice(2 * i, 2 * i + 2) !== byte);

function expected(kernel: KernelFacts, knows: KernelName | null, form: ProbeInstruction): string {
  return `${PASSES} hits, at +${kernel.name === knows ? attachedTo(kernel, form).offset : 0}`;
}

describe.skipIf(skips)("tracers on test kernels", guestTimeout, () => {
  let script: string;
  let task: string;
  let tracers: readonly LibbpfTracer[];
  beforeAll(async () => {
    script = await guestScript("tracers-guest.ts");
    const libbpf = libbpfTracers(NEWER);
    tracers = libbpf.tracers;
    for (const line of libbpf.missing) notTried(line);
    if (isShort) notTried("short form: bpftrace, and libbpf of a kernel tree, which the long form fetches");
    const programs: Traceable[] = [];
    const compiled = await build("gcc", programSource("fork.c"), "-O2");
    for (const layout of layouts) {
      const file = layout === "nop" ? compiled : (await rewriteWith(compiled, "--layout", layout)).path;
      const [site] = await list(file);
      expect(site!.instruction).toBe(formOf(layout));
      programs.push({ file, location: site!.location });
    }
    const folder = mkdtempSync(path.join(tmpdir(), "usdt-task-"));
    behindFile(() => rmSync(folder, { recursive: true, force: true }));
    task = path.join(folder, "task.json");
    const bpftrace = !isShort && bpftraceMissing() === null;
    const commands = tracers.map(({ command }) => command);
    writeFileSync(task, JSON.stringify({ libbpf: commands, bpftrace, programs } satisfies TracersTask));
  });

  it.each(kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))(
    "%s",
    async (_, { series, version, facts, ...others }) => {
      const run = await inGuest({ series, version, facts, ...others }, process.execPath, script, task);
      expect(run.status, run.stderr + run.stdout).toBe(0);
      const { kernel: name, attached, noBpftrace } = JSON.parse(run.stdout) as TracersAnswer;
      expect(name).toBe(facts.name);
      const all = noBpftrace === null ? [...tracers, { name: "bpftrace of this machine", knows: null }] : tracers;
      const row = (tracer: string, what: (form: ProbeInstruction, i: number) => string) =>
        layouts.map((layout, i) => `${tracer}, ${layout}: ${what(formOf(layout), i)}`);
      const shown = attached.flatMap((some, n) =>
        row(all[n]!.name, (form, i) => `${some[i]!.hits} hits, at +${placeOf(some[i]!, form)}`),
      );
      expect(shown).toEqual(all.flatMap((one) => row(one.name, (form) => expected(facts, one.knows, form))));
      const kernel = { series, version, facts, ...others };
      if (all.some(({ knows }) => knows === "6.18")) seen(kernel, "libbpf17");
      if (all.some(({ knows }) => knows === "7.2")) seen(kernel, "libbpf18");
      if (noBpftrace === null) seen(kernel, "oldTracers", ...(isShort ? [] : (["tracers"] as const)));
      for (const { name: tracer, knows } of all)
        said(kernel, `${tracer} ${knows === facts.name ? `goes on to ${facts.optimizes}` : "stays on the nop"}`);
      if (noBpftrace !== null) said(kernel, `not tried: bpftrace: ${noBpftrace}`);
    },
  );
});
