/**
 * The model tells the truth: programs of the model run on the live kernel and in the model, and whoever looks at them from
 * outside sees the same. What is compared: bytes at each site, trampolines and their addresses, hits, results, deaths.
 *
 * Orders that need luck cannot be forced on a live kernel and are not here: only what happens one step after the other.
 */
import { release } from "node:os";
import { describe, expect, it } from "vitest";
import { type KernelName, parseVersion } from "../../../src/kernel/kernels.js";
import { runningKernel } from "../../../src/live/running-kernel.js";
import { type Fault, faultNamed } from "../../../src/patching/faults.js";
import { type Protocol, probeOf, protocolOf } from "../../../src/patching/protocol.js";
import { PLAIN_CONSUMER, Setup } from "../../../src/patching/setup.js";
import { NOP5 } from "../../../src/x86/bytes.js";
import { skipBecause } from "../../packages/skips.js";
import { type Case, casesWith } from "./cases.js";
import { LiveRun } from "./live.js";
import { liveProgram, withDriver } from "./live-program.js";
import { cannotCompare, cannotOverwrite, isTestKernel, write } from "./machine.js";
import { meddling } from "./meddling.js";
import { differences, type Observation, record, table } from "./observation.js";
import { RehearsedRun, TORN } from "./rehearsed.js";

const { name } = runningKernel();
const protocol = protocolOf(name, parseVersion(release())!);
const probe = probeOf(name);
const skips = skipBecause("conformance of the model with the kernel", await cannotCompare());
const isThrownAway = !skipBecause(
  "conformance: what makes kernels warn",
  isTestKernel() ? null : "this kernel is not one of test/kernels",
);
const overwrites = !skips && !skipBecause("conformance: code that is overwritten", await cannotOverwrite());
const allCases = (nop: Uint8Array): readonly Case[] =>
  [...casesWith(nop), ...meddling(nop)].filter(
    ({ warns, program }) => (isThrownAway || !warns) && (overwrites || !program.acts.own.includes("overwrite")),
  );
const cases = allCases(probe);

/** In ms; an emulated CPU takes its time. */
const TIMEOUT = 60_000;

async function runLive(of: Case): Promise<readonly Observation[]> {
  const live = liveProgram(of.program, of.threads);
  const run = await LiveRun.start(write(of.title, live), live, { ...of, returns: of.consumer === "return" });
  try {
    const seen = await record(run, of.steps);
    const end = await run.finish();
    const isAlive = seen.at(-1)!.spaces[0] !== null;
    if (isAlive) expect(end).toBe("exit status 0");
    return seen;
  } finally {
    await run.stop();
  }
}

/** What was seen as far as the model foretells it: not what an instruction does that is torn and none that is invalid. */
const foretold = (seen: readonly Observation[], modelled: readonly Observation[]): (readonly Observation[])[] => {
  const [end, told] = [modelled.at(-1)!, modelled.slice(0, -1)];
  return end.outcome === TORN ? [seen.slice(0, told.length), told] : [seen, modelled];
};

function runModel(of: Case, change: Partial<Protocol> = {}): Promise<readonly Observation[]> {
  const slots = of.threads + (of.program.forks === null ? 0 : 1);
  const program = withDriver(of.program, slots);
  const setup = new Setup(program, { ...protocol, ...change }, { ...PLAIN_CONSUMER, kind: of.consumer });
  return record(new RehearsedRun(setup, of.threads, of.steps), of.steps);
}

const ownFaults: Readonly<Record<string, Fault["change"]>> = {
  "a failure is its process's own": () => ({ failsForAll: false }),
  "unmapped trampolines are looked for": (p) => ({ listsTrampolines: !p.listsTrampolines }),
  "the other order of trampolines": (p) => ({ newestTrampolineFirst: !p.newestTrampolineFirst }),
  "trampolines are kept": () => ({ keepsTrampoline: true }),
  "fork copies the trampoline": () => ({ forkCopiesTrampoline: true }),
  "nothing is patched": () => ({ patched: 0 }),
};

/** By the kernel: a fault that outsiders can see in a run without races, a case, and where it shows. */
const shows: Readonly<Record<KernelName, readonly (readonly [string, string, string])[]>> = {
  legacy: [],
  "6.18": [
    ["displacement-off", "plain", "spaces.0.sites.0"],
    ["trampoline-unmapped", "plain", "spaces.0.trampolines.0"],
    ["trampoline-out-of-reach", "sites 3 GiB apart", "spaces.0.trampolines.1"],
    ["call-not-recognized", "plain", "spaces.0.sites.0"],
    ["wrong-save-order", "plain", "outcome"],
    ["rcx-lost", "plain", "outcome"],
    ["r11-lost", "plain", "outcome"],
    ["rax-lost", "plain", "outcome"],
    ["flags-lost", "plain", "outcome"],
    ["crosses-page", "a probe over a page's end", "spaces.0.sites.0"],
    ["two-nops", "several nops", "spaces.0.sites.8"],
    ["no-seccomp-exception", "seccomp", "outcome"],
    ["fork copies the trampoline", "fork of a patched program", "spaces.1.trampolines.0"],
    ["fork copies the trampoline", "fork, and the tracer goes", "outcome"],
    ["nothing is patched", "plain", "spaces.0.sites.0"],
    ["a failure is its process's own", "no room in the child, so nobody gets a call", "spaces.0.sites.0"],
    ["a failure is its process's own", "no room in the child, and another tracer comes", "spaces.0.sites.0"],
    ["unmapped trampolines are looked for", "the trampoline is unmapped, and the tracer goes", "outcome"],
    ["trampoline-unmapped", "another tracer comes", "spaces.0.trampolines.0"],
    ["the other order of trampolines", "a site in reach of two trampolines", "spaces.0.sites.2"],
  ],
  "7.2": [
    ["displacement-off", "plain", "spaces.0.sites.0"],
    ["trampoline-unmapped", "plain", "spaces.0.trampolines.0"],
    ["red-zone-kept", "plain", "outcome"],
    ["call-taken-back", "plain", "spaces.0.sites.0"],
    ["fork-without-trampoline", "fork of a patched program", "outcome"],
    ["nothing is patched", "plain", "spaces.0.sites.0"],
    ["a failure is its process's own", "no room in the child, so nobody gets a call", "spaces.0.sites.0"],
    ["unmapped trampolines are looked for", "the trampoline is unmapped, and the tracer goes", "outcome"],
    ["the other order of trampolines", "a site in reach of two trampolines", "spaces.0.sites.2"],
    ["trampolines are kept", "two sites 2 GiB apart", "spaces.0.sites.0"],
  ],
};

/** Where the calls that are patched in go, by the bytes alone. */
function calls(of: Case, { spaces }: Observation): { site: number; target: number; trampolines: readonly string[] }[] {
  return spaces.flatMap((space) =>
    (space?.sites ?? []).flatMap((hex, i) => {
      const bytes = Buffer.from(hex, "hex");
      const { lead } = protocol;
      if (bytes.indexOf(lead) !== 0 || bytes[lead.length] !== 0xe8) return [];
      const site = of.program.sites[i]!.address;
      const end = lead.length + 5;
      return [{ site, target: site + end + bytes.readInt32LE(end - 4), trampolines: space!.trampolines }];
    }),
  );
}

describe.skipIf(skips)("the model and the live kernel", () => {
  const live = new Map<string, readonly Observation[]>();

  it.each(cases)("agree: $title", { timeout: TIMEOUT }, async (of) => {
    const [seen, modelled] = [await runLive(of), await runModel(of)];
    live.set(of.title, seen);
    const [is, told] = foretold(seen, modelled) as [typeof seen, typeof seen];
    const found = differences(is, told);
    expect(found, `\n${table(found)}\n`).toEqual([]);
    expect(told).toEqual(is);
    for (const observation of seen)
      for (const { site, target, trampolines } of calls(of, observation))
        if (observation.spaces.length === 1 && !of.program.acts.own.includes("unmap")) {
          expect(trampolines).toContain(`0x${target.toString(16)}`);
          expect(Math.abs(target - site)).toBeLessThan(2 ** 31);
        }
  });

  // A kernel that makes calls of another nop has the nop5 as one of those that trap.
  if (probe.length !== NOP5.length)
    it.each(allCases(NOP5))("agree, with nop5 at the probes: $title", { timeout: TIMEOUT }, async (of) => {
      const [seen, modelled] = [await runLive(of), await runModel(of)];
      expect(modelled, `\n${table(differences(seen, modelled))}\n`).toEqual(seen);
    });

  // The model must be able to fail.
  it.each(shows[name])(
    "do not agree where the model has a fault: %s, %s",
    { timeout: TIMEOUT },
    async (name, title, field) => {
      const change = faultNamed(name)?.change ?? ownFaults[name];
      const of = cases.find((c) => c.title === title)!;
      const seen = live.get(title);
      if (change === undefined || seen === undefined) throw new Error(`${name}, ${title}: not there, or not run`);
      const found = differences(seen, await runModel(of, change(protocol)));
      expect(found.map((difference) => difference.field)).toContain(field);
      expect(table(found).split("\n").length).toBe(found.length + 1);
    },
  );
});
