/**
 * Stacks at probes as others see them: gdb's `bt` at every site and at every new instruction around it, and
 * `perf record --call-graph dwarf` on a uprobe, name the same functions in the same order as before.
 */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { gdbMissing } from "../live/gdb.js";
import { perfMissing } from "../live/perf.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { build, type Pair } from "./pairs.js";

/** Names that gdb or perf print, innermost first; new code is named after its function. */
const functions = (names: readonly string[]): string =>
  names
    .map((name) => name.replace(/\.(nop5|constprop\.\d+|isra\.\d+|cold)/g, ""))
    .join(" ")
    // How programs are started is not ours.
    .replace(/ main .*/, " main");

/** For each address the stacks that gdb sees there, in the order in which a program comes by. */
async function stacksOfGdb(file: string, addresses: readonly bigint[]): Promise<readonly string[]> {
  const script = scratch("gdb-script");
  const stop = (address: bigint): string =>
    `break *0x${address.toString(16)}\ncommands\nsilent\necho STACK\\n\nbt 20\ncontinue\nend`;
  const lines = ["set pagination off", "set width 0", ...addresses.map(stop), "run still", ""];
  writeFileSync(script, lines.join("\n"));
  const said = await must("gdb", ["-nx", "-batch", "-x", script, file]);
  return said
    .split("STACK\n")
    .slice(1)
    .map((text) => functions([...text.matchAll(/^#\d+ +(?:0x[0-9a-f]+ in )?([^\s(]+)/gm)].map(([, name]) => name!)));
}

describe.skipIf(!canCompile)("stacks at probes", () => {
  let pair: Pair;
  beforeAll(async () => {
    pair = await build("steps.c", "gcc", ["-O2", "-no-pie", "-fno-PIC"]);
  }, 60_000);

  it.skipIf(gdbMissing() !== null)("gdb: at every site", async () => {
    const { before, after, report } = pair;
    const was = await stacksOfGdb(
      before,
      report.sites.map((s) => BigInt(s.location)),
    );
    const is = await stacksOfGdb(
      after,
      report.sites.map((s) => BigInt(s.newLocation)),
    );
    expect(was.length).toBeGreaterThan(30);
    expect(is).toEqual(was);
    for (const stack of is) expect(stack).toMatch(/ main$/);
  });

  it.skipIf(gdbMissing() !== null)("gdb: at every instruction of new code", async () => {
    const { before, after, report } = pair;
    const code = await must("objdump", ["-d", "--no-show-raw-insn", "-j", ".text.nop5", after]);
    const chunks = [...code.matchAll(/^[0-9a-f]+ <(\w+)\.nop5>:\n((?: +[0-9a-f]+:.*\n)+)/gm)];
    expect(chunks.length).toBe(report.sites.filter((s) => s.tactic !== "in-place" && s.tactic !== "shift").length);
    const possible = new Set(
      await stacksOfGdb(
        before,
        report.sites.map((s) => BigInt(s.location)),
      ),
    );
    const addresses = chunks.flatMap(([, , lines]) =>
      [...lines!.matchAll(/^ +([0-9a-f]+):/gm)].map(([, at]) => BigInt(`0x${at}`)),
    );
    expect(addresses.length).toBeGreaterThan(30);
    const seen = await stacksOfGdb(after, addresses);
    expect(seen.length).toBeGreaterThan(addresses.length / 2);
    for (const stack of seen) expect(possible).toContain(stack);
  });

  const events = "/sys/kernel/tracing/uprobe_events";
  const canTrace = perfMissing() === null && existsSync(events) && process.getuid?.() === 0;
  it.skipIf(!canTrace)(
    "perf record --call-graph dwarf",
    async () => {
      const { before, after, report } = pair;
      const stacks = async (file: string, location: string, name: string): Promise<readonly string[]> => {
        const group = `unwind${process.pid}`;
        appendFileSync(
          events,
          `p:${group}/${name} ${file}:0x${(Number(location) - (await shiftOf(file, location))).toString(16)}\n`,
        );
        const data = scratch("perf.data");
        try {
          await must("perf", [
            "record",
            "-q",
            "--no-buildid",
            "--no-buildid-cache",
            "--call-graph",
            "dwarf,16384",
            "-o",
            data,
            "-e",
            `${group}:${name}`,
            "--",
            file,
            "still",
          ]);
          const text = await must("perf", ["script", "-i", data, "-F", "ip,sym"]);
          return text
            .trim()
            .split(/\n\n+/)
            .map((stack) => functions(stack.split("\n").map((line) => line.trim().split(/\s+/)[1] ?? "?")));
        } finally {
          appendFileSync(events, `-:${group}/${name}\n`);
        }
      };
      for (const [i, site] of report.sites.entries()) {
        const was = await stacks(before, site.location, `a${i}`);
        const is = await stacks(after, site.newLocation, `b${i}`);
        expect(was.length, site.name).toBeGreaterThan(0);
        expect(is, site.name).toEqual(was);
        expect(is[0]).toMatch(/main/);
      }
      expect(readFileSync(events, "latin1")).not.toContain(`unwind${process.pid}`);
    },
    180_000,
  );
});

/** p_vaddr - p_offset of the segment that holds an address. */
async function shiftOf(file: string, location: string): Promise<number> {
  const text = await must("readelf", ["-lW", file]);
  for (const [, offset, vaddr, size] of text.matchAll(
    /^ +LOAD +0x([0-9a-f]+) 0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+)/gm,
  )) {
    const [o, v, n] = [offset, vaddr, size].map((h) => Number.parseInt(h!, 16)) as [number, number, number];
    if (Number(location) >= v && Number(location) < v + n) return v - o;
  }
  throw new Error(`${location} is in no segment of ${file}`);
}
