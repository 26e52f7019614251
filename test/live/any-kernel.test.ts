/**
 * The Debian packages rewritten for any kernel: no probe may have become slower or a danger anywhere, so no note may name a
 * bare nop5; and tracers that know nothing of all this must find the probes where the notes say, and have them fire here.
 *
 * Postgres is traced from its start on, which no nop5 would survive: its server forks.
 */
import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { instructionsAt, nop5 } from "../judges/code.js";
import { readNotes } from "../judges/notes.js";
import { type CorpusFile, corpus, corpusPath, FETCH_TIMEOUT, libraryPath, packagesRoot } from "../packages/corpus.js";
import { javaImage } from "../packages/java.js";
import { install, Server } from "../packages/postgres.js";
import { rewriteOnce } from "../packages/rewritten-once.js";
import { mustRun, run, type Scratch, scratchDirectory } from "../packages/scratch.js";
import { skipBecause } from "../packages/skips.js";
import { counted } from "../packages/twins.js";
import { bpftraceMissing, withBpftrace } from "./bpftrace.js";
import { cannotTrace } from "./kernel.js";
import { libbpfMissing, withLibbpf } from "./libbpf.js";
import type { Rewritten } from "./rewriting.js";

const noUprobes = cannotTrace("packages for any kernel");
const noLibbpf = noUprobes || skipBecause("packages for any kernel, by libbpf", libbpfMissing());
const noBpftrace = noUprobes || skipBecause("packages for any kernel, by bpftrace", bpftraceMissing());

const program = (name: string): string => fileURLToPath(new URL(`../packages/programs/${name}`, import.meta.url));

interface Setup {
  /** The file that is run and traced. */
  readonly traced: string;
  run(): Promise<unknown>;
}

interface Case {
  readonly title: string;
  readonly file: CorpusFile;
  /** How many sites the run passes at least, counted on the unrewritten file. */
  readonly passes: number;
  /** The probes that the BPF tracers attach to; they take their time for each. */
  readonly chosen?: RegExp;
  /** Makes a file ready to run. */
  prepare(scratch: Scratch, file: string): Promise<Setup>;
}

/** The file itself is the program. */
const interpreter = (args: readonly string[], env: () => Record<string, string>): Case["prepare"] => {
  return async (_scratch, file) => ({
    traced: file,
    run: () => run(file, args, { env: { ...libraryPath(), ...env() } }),
  });
};

const cases: readonly Case[] = [
  {
    title: "python3.11",
    file: corpus.python,
    passes: 8,
    prepare: interpreter(["-S", "-s", "-B", program("sites.py")], () => ({
      PYTHONHOME: path.join(packagesRoot(), "usr"),
    })),
  },
  {
    title: "php8.2",
    file: corpus.php,
    passes: 12,
    prepare: interpreter(["-n", program("sites.php")], () => ({ USE_ZEND_DTRACE: "1" })),
  },
  {
    title: "libstdc++",
    file: corpus.libstdcxx,
    passes: 3,
    prepare: async (scratch, file) => {
      const [folder, throws] = [scratch.file("lib"), scratch.file("throws")];
      mkdirSync(folder);
      // bpftrace takes no + in a path.
      const traced = path.join(folder, "libstdcxx.so");
      copyFileSync(file, traced);
      symlinkSync(traced, path.join(folder, "libstdc++.so.6"));
      await mustRun("g++", ["-O2", "-pthread", program("throws.cc"), "-o", throws]);
      return { traced, run: () => mustRun(throws, [], { env: libraryPath(folder) }) };
    },
  },
  {
    title: "libjvm",
    file: corpus.libjvm,
    passes: 60,
    chosen:
      process.env.LONG === "1" ? /^hotspot:(?:vm|thread|class|safepoint|method__compile)__/ : /^hotspot:(?:vm|class)__/,
    prepare: async (scratch, file) => {
      const image = javaImage(scratch.file("image"), file);
      const args = ["-XX:+ExtendedDTraceProbes", "-Xmx48m", "-version"];
      return { traced: image.libjvm, run: () => mustRun(image.java, args, { env: libraryPath() }) };
    },
  },
  {
    title: "postgres",
    file: corpus.postgres,
    passes: 50,
    prepare: async (scratch, file) => {
      const installed = install(scratch, "server", file);
      const script = readFileSync(program("sites.sql"), "utf8");
      return {
        traced: path.join(installed.bin, "postgres"),
        run: async () => {
          const server = await Server.start(installed);
          await server.psql(script);
          expect(await server.stop(), server.log).toBe(0);
          expect(server.log).not.toContain("was terminated by signal");
        },
      };
    },
  },
];

/** What auto gives, and what it falls back to; the second for one of them alone, LONG=1 for all. */
const layouts = ["universal", "nop,nop10"] as const;
const tried = layouts.flatMap((layout) =>
  cases
    .filter(({ title }) => process.env.LONG === "1" || layout === "universal" || title === "libstdc++")
    .map((one) => ({ ...one, layout })),
);

describe.each(tried)("$title, rewritten for any kernel: $layout", (one) => {
  const { title, file, passes, prepare, chosen = /^/, layout } = one;
  let scratch: Scratch;
  let rewritten: string;
  let setup: Setup;
  beforeAll(async () => {
    scratch = scratchDirectory("any");
    rewritten = scratch.file("rewritten");
    const options = layout === "universal" ? [] : ["--layout", layout];
    const result = await rewriteOnce<Omit<Rewritten, "path">>(corpusPath(file), rewritten, ...options);
    expect(result.layout).toBe(layout);
    expect(result.summary.rewritten).toBeGreaterThan(0);
    setup = await prepare(scratch, rewritten);
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => scratch?.remove());

  it("has a one-byte nop at every note, and nop5 at every second one where there are two", async () => {
    const notes = await readNotes(rewritten);
    expect(notes.length).toBe(layout === "universal" ? 2 * file.sites : file.sites);
    const code = await instructionsAt(
      rewritten,
      notes.map((note) => note.location),
    );
    const wanted = (i: number): string => (layout === "universal" && i % 2 === 1 ? nop5 : "90");
    expect(notes.filter((note, i) => code.get(note.location)?.bytes !== wanted(i))).toEqual([]);
  });

  // A program, a library and a server that forks; LONG=1 tries the others.
  const isTraced = process.env.LONG === "1" || ["python3.11", "libstdc++", "postgres"].includes(title);
  it.skipIf(noUprobes || !isTraced)("fires for tracers that go by the notes", async () => {
    const notes = (await readNotes(rewritten)).map((note) => ({ ...note, probe: `${note.provider}:${note.name}` }));
    const names = [...new Set(notes.map((note) => note.probe))].filter((name) => chosen.test(name));
    let byLibbpf: Awaited<ReturnType<typeof withLibbpf>> = new Map();
    let byBpftrace = "";
    const body = async (): Promise<void> => {
      if (noLibbpf) await setup.run();
      else byLibbpf = await withLibbpf(setup.traced, names, () => setup.run());
    };
    const { hits } = await counted(setup.traced, async () => {
      if (noBpftrace) return body();
      const probes = names.map((name) => {
        const [provider, probe] = name.split(":") as [string, string];
        return { provider, name: probe, action: `@["${name}"] = count();` };
      });
      byBpftrace = await withBpftrace(setup.traced, probes, body);
    });

    const passed = hits.filter((site) => site.hits > 0);
    expect(passed.length).toBeGreaterThanOrEqual(passes);
    // What the kernel counted at a probe's sites is what each tracer must have seen.
    const expected = new Map(names.map((name) => [name, 0]));
    for (const { probe, hits: n } of passed) if (expected.has(probe)) expected.set(probe, expected.get(probe)! + n);
    const refused = [...byLibbpf].filter(([, seen]) => seen === null).map(([name]) => name);
    if (!noLibbpf) {
      // libbpf knows no symbols; nor did it before.
      for (const name of refused)
        expect(
          notes.find((n) => n.probe === name && n.arguments.some((a) => a.includes("(%rip)"))),
          name,
        ).toBeDefined();
      const taken = names.filter((name) => !refused.includes(name));
      expect(taken.map((name) => [name, byLibbpf.get(name)?.hits])).toEqual(taken.map((n) => [n, expected.get(n)]));
    }
    if (!noBpftrace) {
      const counts = new Map(
        [...byBpftrace.matchAll(/^@\[(\S+)\]: (\d+)$/gm)].map(([, name, n]) => [name!, Number(n)]),
      );
      expect(names.map((name) => [name, counts.get(name) ?? 0])).toEqual([...expected]);
    }
    const fired = [...expected.values()].filter((n) => n > 0).length;
    console.log(
      `${title}: ${passed.length} of ${hits.length} sites passed; of ${names.length} probes that bpftrace and libbpf attached to ${fired} fired, libbpf refused ${refused.length}`,
    );
  });
});
