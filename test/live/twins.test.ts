/**
 * Universal probes under the real tracers: the program of twins.S has pairs that are written by hand, and is told by its
 * arguments how often to pass each probe and what the selector holds. Whatever it holds, every tracer counts each pass
 * once, and reads the argument, which counts the passes.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { build } from "../fixtures/build.js";
import { readNotes } from "../judges/notes.js";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { bpftraceMissing, withBpftrace } from "./bpftrace.js";
import { gdbMissing } from "./gdb.js";
import { cannotOptimize, cannotTrace } from "./kernel.js";
import { libbpfMissing, withLibbpf } from "./libbpf.js";
import { eventsOf, perfMissing, removeEvents, seenByPerf } from "./perf.js";
import { scratch } from "./rewriting.js";
import { runTool } from "./tool.js";

const noUprobes = cannotTrace("twins");
const without = (tool: string, missing: () => string | null): boolean =>
  noUprobes || skipBecause(`twins: ${tool}`, missing());
const noPerf = without("perf", perfMissing);
const noGdb = without("gdb", gdbMissing);
const noBpftrace = without("bpftrace", bpftraceMissing);
const noLibbpf = without("libbpf", libbpfMissing);
const optimizing = !noUprobes && !cannotOptimize("twins: what is optimized");

const PROVIDER = "twins";
const NAMES = ["plain", "guarded", "kept"];
const PASSES = 20;

const source = fileURLToPath(new URL("../usdt/twins.S", import.meta.url));

interface Site {
  readonly name: string;
  readonly location: string;
  readonly twin: string | null;
  readonly hits: number;
  readonly probeHits: number;
  readonly ran: string | null;
  readonly optimized: boolean;
}

describe.skipIf(noUprobes).each([
  [0, "nop,nop10"],
  [1, "nop5"],
] as const)("selector %i", (selector, ran) => {
  let file: string;
  const args = [String(PASSES), String(selector)];
  const pass = (): Promise<string> => must(file, args);
  beforeAll(async () => {
    const built = await build({ output: "twins", compiler: "gcc", sources: [source], flags: ["-pie"] });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    file = built.path;
  });

  it("live counts each pass once, and says which place ran", async () => {
    const { status, stdout, stderr } = await runTool(["live", "--json", "--", file, ...args]);
    expect(status, stderr).toBe(0);
    const { sites } = JSON.parse(stdout) as { sites: readonly Site[] };
    for (const name of NAMES) {
      const [first, second, ...more] = sites.filter((site) => site.name === name);
      expect(more).toEqual([]);
      expect([first!.twin, second!.twin]).toEqual([second!.location, first!.location]);
      expect([first!.hits, second!.hits]).toEqual(selector === 0 ? [PASSES, 0] : [0, PASSES]);
      for (const site of [first!, second!]) expect(site).toMatchObject({ probeHits: PASSES, ran });
      if (optimizing) expect([first!.optimized, second!.optimized]).toEqual([false, selector === 1]);
    }
    const others = sites.filter((site) => !NAMES.includes(site.name));
    expect(others.every((site) => site.twin === null && site.ran === null && site.probeHits === 0)).toBe(true);
  });

  it("its table has a line a probe", async () => {
    const out = scratch("twins-live");
    await runTool(["live", "--", file, ...args]).then(({ stderr, stdout }) => writeFileSync(out, stderr + stdout));
    const lines = readFileSync(out, "latin1").split("\n");
    const how = optimizing && selector === 1 ? "call" : "trap";
    for (const name of NAMES) {
      const found = lines.filter((line) => line.includes(`${PROVIDER}:${name} `));
      expect(found.map((line) => line.trim().split(/ {2,}/).slice(2, 4))).toEqual([[`${PASSES}`, `${how} (${ran})`]]);
    }
    expect(lines[0]).toContain("3 of 13 probes hit");
  });

  it.skipIf(noBpftrace)("bpftrace counts each pass once, and reads its argument", async () => {
    const probes = NAMES.map((name) => ({ provider: PROVIDER, name, action: `printf("${name} %d\\n", arg0);` }));
    const printed = await withBpftrace(file, probes, pass);
    const expected = NAMES.flatMap((name) => Array.from({ length: PASSES }, (_, i) => `${name} ${i}`));
    const hits = printed.split("\n").filter((line) => /^\w+ \d+$/.test(line));
    expect(hits.sort()).toEqual(expected.sort());
  });

  it.skipIf(noLibbpf)("libbpf counts each pass once", async () => {
    const seen = await withLibbpf(
      file,
      NAMES.map((name) => `${PROVIDER}:${name}`),
      pass,
    );
    expect([...seen.values()].map((probe) => probe?.hits)).toEqual(NAMES.map(() => PASSES));
  });

  it.skipIf(noPerf)("perf stat -e sdt_p:n counts each pass once", async () => {
    const command = scratch("twins-command");
    writeFileSync(command, `#!/bin/sh\nexec ${file} ${args.join(" ")}\n`, { mode: 0o755 });
    const { counts } = await seenByPerf({ file, provider: PROVIDER, command, environment: {} }, false);
    expect(counts.filter((line) => !line.endsWith(" 0"))).toEqual(NAMES.map((name) => `${name} ${PASSES}`).sort());
  });

  it.skipIf(noPerf)("perf makes one event of both places, or events that count each pass once together", async () => {
    const folder = scratch("twins-perf");
    mkdirSync(folder);
    const perf = (...rest: readonly string[]): Promise<string> => must("perf", ["--buildid-dir", folder, ...rest]);
    try {
      await perf("buildid-cache", "--add", file);
      for (const name of NAMES) await perf("probe", "--quiet", "--force", `sdt_${PROVIDER}:${name}`);
      const events = [...new Set(eventsOf(PROVIDER).map((line) => /\/(\S+)/.exec(line)![1]!))];
      const csv = join(folder, "counts");
      const asked = events.flatMap((event) => ["-e", `sdt_${PROVIDER}:${event}`]);
      await perf("stat", "-x", ",", "-o", csv, ...asked, file, ...args);
      const counts = new Map<string, number>();
      for (const [, hits, event] of readFileSync(csv, "latin1").matchAll(/^(\d+),[^,]*,sdt_\w+:(\w+),/gm)) {
        const name = event!.replace(/_\d+$/, "");
        counts.set(name, (counts.get(name) ?? 0) + Number(hits));
      }
      expect(Object.fromEntries(counts)).toEqual(Object.fromEntries(NAMES.map((name) => [name, PASSES])));
    } finally {
      removeEvents(PROVIDER);
    }
  });

  it.skipIf(noGdb)("gdb lists both places, and stops once a pass", async () => {
    const script = join(scratch("twins-gdb"));
    const stop = (name: string): string =>
      `break -probe-stap ${PROVIDER}:${name}\ncommands\nsilent\nprintf "hit ${name} %lld\\n", (long long)$_probe_arg0\ncontinue\nend`;
    const lines = ["set pagination off", "set width 0", "set startup-with-shell off", "break main", "run"];
    lines.push(`info probes stap ^${PROVIDER}$`, ...NAMES.map(stop), "continue");
    writeFileSync(script, `${lines.join("\n")}\n`);
    const said = await must("gdb", ["-nx", "-batch", "-x", script, "--args", file, ...args]);
    expect(said).toContain("exited normally");
    const notes = await readNotes(file);
    for (const name of NAMES) {
      const listed = said.match(new RegExp(`^stap +${PROVIDER} +${name} `, "gm")) ?? [];
      expect(listed.length).toBe(notes.filter((note) => note.name === name).length);
      const hits = [...said.matchAll(new RegExp(`^hit ${name} (\\d+)$`, "gm"))].map(([, value]) => Number(value));
      expect(hits).toEqual(Array.from({ length: PASSES }, (_, i) => i));
    }
  });
});
