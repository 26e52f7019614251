/**
 * Stacks as tracers show them, on the live kernel: `perf record --call-graph dwarf` copies the stack at each hit and unwinds
 * it by the file's unwind information; bpftrace's ustack goes by frame pointers. The functions' names are the same, in the same
 * order, as before rewriting: at every hit of every probe, guarded ones too, and through calls that moved (programs/leaving.cc,
 * steps.c). And python3.11's, which is stripped: perf names what .dynsym does, and nothing in new code.
 */
import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { fileOffset, readSegments } from "../judges/headers.js";
import { readNotes } from "../judges/notes.js";
import { bpftraceMissing } from "../live/bpftrace.js";
import { cannotTrace } from "../live/kernel.js";
import { eventsOf, perfMissing, removeEvents } from "../live/perf.js";
import { corpus, FETCH_TIMEOUT, fetchPackages, libraryPath, packagesRoot } from "../packages/corpus.js";
import { skipBecause } from "../packages/skips.js";
import { makeTwins } from "../packages/twins.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, type Outcome } from "../run.js";
import { uprobeLines } from "../uprobe-lines.js";
import { newRecords } from "./faults.js";
import { build, DENSE, type Pair } from "./pairs.js";
import { plainName } from "./stacks.js";

const noUprobes = cannotTrace("stacks of tracers") || !canCompile;
const noPerf = noUprobes || skipBecause("stacks of perf", perfMissing());
const noBpftrace = noUprobes || skipBecause("stacks of bpftrace", bpftraceMissing());

const LONG = process.env.LONG === "1";

/** `name: function < its caller < ...` for each hit. */
type Stacks = readonly string[];

/** perf prints an event's line, a line for each frame, and an empty one. Of several sites of a name it makes name_1, name_2. */
function stacksIn(script: string, group: string): Stacks {
  return script
    .trim()
    .split(/\n\n+/)
    .map((hit) => {
      const [event, ...frames] = hit.split("\n");
      const name = new RegExp(`${group}:(\\w+?)(?:_\\d+)?:`).exec(event!)?.[1];
      if (name === undefined) throw new Error(`perf script: ${event}`);
      return `${name}: ${frames.map((f) => plainName(/^\s*[0-9a-f]+ (.*)$/.exec(f)![1]!)).join(" < ")}`;
    });
}

/** A record of something else, as it says itself and however it is found. */
function misplace(bytes: Buffer, record: number): void {
  bytes.writeInt32LE(bytes.readInt32LE(record + 8) + 0x4000_0000, record + 8);
  bytes.writeInt32LE(1, record + 12);
}

const STACK_BYTES = 8192;

let providers = 0;
const nextProvider = (): string => `stacks${++providers}_${process.pid}`;

describe.skipIf(noPerf)("perf record --call-graph dwarf", () => {
  /** Makes events of a file's probes as its users do, and records a run. */
  async function recorded(file: string, provider: string, ...args: readonly string[]): Promise<Stacks> {
    const folder = scratch("perf");
    mkdirSync(folder);
    const group = `sdt_${provider}`;
    const perf = (...words: readonly string[]) => must("perf", ["--buildid-dir", join(folder, "cache"), ...words]);
    const data = join(folder, "perf.data");
    const remove = (): void => removeEvents(provider);
    process.on("exit", remove);
    try {
      await perf("buildid-cache", "--add", file);
      await perf("probe", "--quiet", "--force", `${group}:*`);
      const graph = ["--call-graph", `dwarf,${STACK_BYTES}`, "--no-buildid", "--quiet"];
      await perf("record", ...graph, "-o", data, "-e", `${group}:*`, "--", file, ...args);
      return stacksIn(await perf("script", "-i", data, "-F", "event,ip,sym"), group);
    } finally {
      remove();
      process.off("exit", remove);
      expect(eventsOf(provider)).toEqual([]);
    }
  }

  const programs: readonly (readonly [string, string, readonly string[], readonly string[]])[] = [
    ["steps.c", "gcc", ["-O2"], ["quiet"]],
    ["leaving.cc", "g++", ["-O2", ...DENSE], ["stay"]],
    ...(LONG
      ? ([
          ["steps.c", "clang", ["-O1", "-fomit-frame-pointer"], ["quiet"]],
          ["steps.c", "gcc", ["-O0", "-no-pie", "-fno-PIC"], ["quiet"]],
          ["leaving.cc", "clang++", ["-O2"], ["stay"]],
        ] as const)
      : []),
  ];
  for (const [source, compiler, flags, args] of programs)
    it.skipIf(
      skipBecause(`stacks of perf, ${compiler}`, spawnSync(compiler, ["--version"]).status === 0 ? null : "none"),
    )(`${source} ${compiler} ${flags.join(" ")}`, async () => {
      const provider = nextProvider();
      // The provider's name is a word of the program that stands alone, too.
      const name = source.replace(/\..*/, "");
      const { before, after, report } = await build(source, compiler, [`-D${name}=${provider}`, ...flags]);
      const was = await recorded(before, provider, ...args);
      const is = await recorded(after, provider, ...args);
      expect(was.length).toBeGreaterThan(5);
      expect(is).toEqual(was);
      for (const stack of is) expect(stack).toMatch(/ < main < /);
      expect(report.sites.some((s) => s.guard && is.some((stack) => stack.startsWith(`${s.name}:`)))).toBe(true);
      console.log(`perf, ${source} ${compiler}: ${is.length} hits, ${is.join(" < ").split(" < ").length} frames`);

      // Perf has its stacks from these records; where it finds none it goes by frame pointers, which only -O0 has everywhere.
      if (flags.includes("-O0")) return;
      const bytes = readFileSync(after);
      for (const at of await newRecords(after)) bytes.writeInt32LE(1, at + 12);
      const planted = scratch("planted");
      mkdirSync(planted);
      writeFileSync(join(planted, basename(after)), bytes, { mode: 0o755 });
      expect(await recorded(join(planted, basename(after)), provider, ...args)).not.toEqual(was);
    });

  const events = "/sys/kernel/tracing/uprobe_events";

  it.skipIf(skipBecause("stacks of perf in python3.11", existsSync(events) ? null : "no uprobe_events"))(
    "python3.11",
    async () => {
      fetchPackages();
      const twins = await makeTwins(corpus.python);
      const script = twins.scratch.file("script.py");
      writeFileSync(
        script,
        "def f(n):\n    if n: return f(n - 1)\n    raise ValueError\ntry:\n    f(3)\nexcept ValueError:\n    pass\nimport gc\ngc.collect()\n",
      );
      const environment = { ...libraryPath(), PYTHONHOME: join(packagesRoot(), "usr"), PYTHONHASHSEED: "0" };
      /** With semaphores, as `perf probe` would; under a name of this process, so that no other's is taken away. */
      const stacks = async (file: string): Promise<Stacks> => {
        const group = `nop5_stacks_${process.pid}_python`;
        const segments = await readSegments(file);
        // Each hit takes 16 KB: those of every line would not go into a buffer, and what does not is lost.
        const notes = (await readNotes(file)).filter(({ name }) => name !== "line");
        const data = `${file}.data`;
        const remove = (): void => {
          for (const line of uprobeLines(new RegExp(`^p:${group}/`)))
            appendFileSync(events, `-:${/:(\S+)/.exec(line)![1]}\n`);
        };
        process.on("exit", remove);
        try {
          notes.forEach((note, i) => {
            const [at, counter] = [
              fileOffset(segments, note.location, "E")!,
              fileOffset(segments, note.semaphore, "W")!,
            ];
            const place = `${file}:0x${at.toString(16)}(0x${counter.toString(16)})`;
            appendFileSync(events, `p:${group}/site${String.fromCharCode(97 + i)} ${place}\n`);
          });
          const words = ["--call-graph", "dwarf,16384", "--no-buildid", "--quiet", "-m", "64M", "-o", data];
          const python = [file, "-I", "-S", "-B", script];
          await must("perf", ["record", ...words, "-e", `${group}:*`, "--", ...python], { environment });
          return stacksIn(await must("perf", ["script", "-i", data, "-F", "event,ip,sym"]), group);
        } finally {
          remove();
          process.off("exit", remove);
        }
      };
      try {
        /** Frame 0 is in new code, which has no name. */
        const above = (all: Stacks): Stacks => all.map((stack) => stack.replace(/: .*? < /, ": "));
        const [was, is] = [await stacks(twins.original), await stacks(twins.rewritten)];
        expect(new Set(was.map((stack) => stack.split(":")[0])).size).toBeGreaterThan(5);
        console.log(`perf, python3.11: ${is.length} hits, ${is.join(" < ").split(" < ").length} frames`);
        expect(above(is)).toEqual(above(was));
        // Damaged, the stacks end in new code.
        const bytes = readFileSync(twins.rewritten);
        for (const at of await newRecords(twins.rewritten)) misplace(bytes, at);
        writeFileSync(twins.rewritten, bytes);
        expect(above(await stacks(twins.rewritten))).not.toEqual(above(was));
      } finally {
        twins.scratch.remove();
      }
    },
    FETCH_TIMEOUT + 60_000,
  );
});

describe.skipIf(noBpftrace)("bpftrace's ustack", () => {
  const ways: readonly (readonly [string, ...string[]])[] = [
    ["g++", "-O2", "-fno-omit-frame-pointer", ...DENSE],
    ...(LONG ? ([["clang++", "-O2", "-fno-omit-frame-pointer"]] as const) : []),
  ];
  /**
   * The program lives until bpftrace, which looks up its names, has been quiet for as long as this. Sometimes bpftrace 0.17 hears
   * nothing more of the kernel, of unrewritten files as well, and waits for ever: then it is asked again.
   */
  const QUIET = 2000;

  function ask(file: string, probes: readonly string[]): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const words = ["-s", "KILL", "40", "bpftrace", "-e", probes.join(" "), "-c", `${file} stay`];
      const child = spawn("timeout", words, { env: { ...process.env, LC_ALL: "C", NO_COLOR: "1" } });
      let [stdout, stderr] = ["", ""];
      let quiet: NodeJS.Timeout | undefined;
      child.stdout.on("data", (chunk: Buffer) => {
        stdout += chunk.toString("latin1");
        clearTimeout(quiet);
        if (/^ready$/m.test(stdout)) quiet = setTimeout(() => child.stdin.end(), QUIET);
      });
      child.stderr.on("data", (chunk: Buffer) => {
        stderr += chunk.toString("latin1");
      });
      child.on("error", reject);
      child.on("close", (status, signal) => {
        clearTimeout(quiet);
        resolve({ status, signal, stdout, stderr });
      });
    });
  }

  async function stacks(file: string): Promise<Stacks> {
    const notes = await readNotes(file);
    const names = new Map(notes.map((note) => [note.name, note.provider]));
    const probes = [...names].map(
      ([name, provider]) => `usdt:${file}:${provider}:${name} { printf("hit ${name}%s\\n", ustack(perf)); }`,
    );
    let printed = "";
    for (let tries = 0; tries < 3; tries++) {
      const outcome = await ask(file, probes);
      if (outcome.status === 0) {
        printed = outcome.stdout;
        break;
      }
      console.warn(`bpftrace on ${file}: exit ${outcome.status}\n${outcome.stderr}`);
    }
    expect(printed, "what bpftrace printed").not.toBe("");
    printed = printed.replace(/^(?:sum .*|ready)\n/gm, "");
    return printed
      .split("hit ")
      .slice(1)
      .map((hit) => {
        const [name, ...frames] = hit.trim().split("\n");
        const functions = frames
          .filter((f) => f.trim() !== "")
          .map((f) => {
            const found = /^\s*[0-9a-f]+ (.*?)(?:\+(?:0x)?[0-9a-f]+)? \([^()]*\)$/.exec(f);
            return found === null ? f.trim() : plainName(found[1]!);
          });
        return `${name}: ${functions.join(" < ")}`;
      });
  }

  for (const [compiler, ...flags] of ways)
    describe.skipIf(
      skipBecause(`stacks of bpftrace, ${compiler}`, spawnSync(compiler, ["--version"]).status === 0 ? null : "none"),
    )(`${compiler} ${flags.join(" ")}`, () => {
      let pair: Pair;
      beforeAll(async () => {
        pair = await build("leaving.cc", compiler, [`-Dleaving=${nextProvider()}`, ...flags]);
      }, 300_000);
      it("names the same functions", async () => {
        const { before, after, report } = pair;
        const [was, is] = [await stacks(before), await stacks(after)];
        expect(was.length).toBeGreaterThan(8);
        expect(is).toEqual(was);
        for (const stack of is) expect(stack).toMatch(/ < main < /);
        expect(report.sites.some((s) => s.guard && is.some((stack) => stack.startsWith(`${s.name}:`)))).toBe(true);
        console.log(`bpftrace, ${compiler}: ${is.length} hits, ${is.join(" < ").split(" < ").length} frames`);
        // Names of new code come from its symbols: without them it is another stack.
        const stripped = scratch("stripped");
        mkdirSync(stripped);
        await must("strip", ["-o", join(stripped, basename(after)), after]);
        expect(await stacks(join(stripped, basename(after)))).not.toEqual(was);
      });
    });
});
