/**
 * Tracers that come and go, and tracers of one process alone, while rewritten programs fork: with the fork guard no child
 * dies. Without it, or with one that writes int3, children die.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { perfMissing } from "../guard/perf.js";
import { Tracer } from "../guard/tracer.js";
import { bpftraceMissing } from "../live/bpftrace.js";
import { cannotOptimize } from "../live/kernel.js";
import { places } from "../live/places.js";
import { build } from "../live/rewriting.js";
import { skipBecause } from "../packages/skips.js";
import { type AttachedProbes, attach } from "../packages/uprobes.js";
import { type Forms, flawless, forms, type Played, play, program } from "./family.js";

const LONG = process.env.LONG === "1";
const SITES = 5;
const SIGSEGV = 11;
const INT3 = 0xcc;

/** A tracer of a process alone, as its users start it. */
interface OfProcess {
  readonly name: string;
  /** Why it is of no use here. */
  missing(): string | null;
  /** Its command for a file's sites, and what of it is to be taken away afterwards. */
  command(path: string, pid: number): Promise<{ readonly words: readonly string[]; remove(): void }>;
  /** How often each site was hit, by what the tracer printed. */
  hits(output: string): readonly number[];
}

const bpftrace: OfProcess = {
  name: "bpftrace -p PARENT",
  missing: bpftraceMissing,
  command: async (path, pid) => ({
    words: ["bpftrace", "-p", `${pid}`, "-e", `usdt:${path}:family:* { @[probe] = count(); }`],
    remove: () => {},
  }),
  hits: (output) => [...output.matchAll(/^@\[.*\]: (\d+)$/gm)].map(([, hits]) => Number(hits)),
};

const perf = (name: string, ...options: readonly string[]): OfProcess => ({
  name,
  missing: perfMissing,
  command: async (path, pid) => {
    // An event of the kernel's for each site, which perf counts.
    const tracers = (await places(path)).map((place) => new Tracer(path, [place.point.offset]));
    const events = tracers.map((tracer) => tracer.event.replace("/", ":"));
    return {
      words: ["perf", "stat", "-x", ",", ...options, "-e", events.join(","), "-p", `${pid}`],
      remove: () => {
        for (const tracer of tracers) tracer.remove();
      },
    };
  },
  hits: (output) => [...output.matchAll(/^(\d+),,nop5_guard/gm)].map(([, hits]) => Number(hits)),
});

/** Whether a breakpoint stands at each of the program's sites. */
async function traced(pid: number, path: string): Promise<boolean> {
  const bias = Number.parseInt(readFileSync(`/proc/${pid}/maps`, "latin1"), 16);
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    const byte = new Uint8Array(1);
    return (await places(path)).every((place) => {
      readSync(memory, byte, 0, 1, bias + Number(place.address));
      return byte[0] === INT3;
    });
  } finally {
    closeSync(memory);
  }
}

type Environment = Readonly<Record<string, string>>;

/** The program waits until it is traced, plays, and waits at the end, or in its child, until the tracer has ended. */
async function playTraced(tracer: OfProcess, path: string, scene: string, environment: Environment = {}) {
  let output = "";
  let end = async (): Promise<void> => {};
  const begin = async (pid: number): Promise<void> => {
    const { words, remove } = await tracer.command(path, pid);
    const started = spawn(words[0]!, words.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
    const ended = once(started, "close");
    end = async () => {
      started.kill("SIGINT");
      await ended;
      remove();
      end = async () => {};
    };
    for (const stream of [started.stdout, started.stderr])
      stream.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
    for (let tries = 0; !(await traced(pid, path)); tries++) {
      if (tries > 1000 || started.exitCode !== null) throw new Error(`${words.join(" ")} does not attach:\n${output}`);
      await sleep(20);
    }
  };
  try {
    const played = await play(path, scene, { steps: [begin, () => end()], environment });
    return { played, hits: tracer.hits(output) };
  } finally {
    await end();
  }
}

/**
 * Whether a process dies of its own guard's int3. The kernel takes it away, and leaves the first byte of a nop in front of a
 * distance: five bytes that depend on where the program and the trampoline are, and are a harmless instruction at times.
 */
async function diesOfInt3(again: () => Promise<Played>): Promise<boolean> {
  for (let tries = 0; tries < 5; tries++) if ((await again()).killed.length > 0) return true;
  return false;
}

describe.skipIf(cannotOptimize("tracers of programs that fork"))("tracers of programs that fork", () => {
  let family: Forms;
  let int3: { readonly INT3: string };
  beforeAll(async () => {
    family = await forms("family.c");
    int3 = { INT3: (await places(family.bare)).map((place) => place.address.toString(16)).join(",") };
  });

  describe.each([
    { tracer: bpftrace, followsChildren: false },
    { tracer: perf("perf stat -p PARENT", "--no-inherit"), followsChildren: false },
    { tracer: perf("perf stat -p PARENT and its children"), followsChildren: true },
  ])("$tracer.name", ({ tracer, followsChildren }) => {
    it.skipIf(skipBecause(tracer.name, tracer.missing()))("loses no child", async () => {
      const { played, hits } = await playTraced(tracer, family.guarded, "traced");
      expect(played).toEqual(flawless(played, 0));
      expect([played.begun, played.passes]).toEqual([3, 6 + 6 + 3]);
      expect(hits).toEqual(Array(SITES).fill(followsChildren ? played.passes : 6));

      expect((await playTraced(tracer, family.bare, "traced")).played.killed).toEqual([SIGSEGV]);
      // Where the kernel wants the children as well, int3 is what it would write itself.
      const dies = diesOfInt3(async () => (await playTraced(tracer, family.bare, "traced", int3)).played);
      expect(await dies).toBe(!followsChildren);
    });

    it.skipIf(skipBecause(tracer.name, tracer.missing()))(
      "goes between the fork and the child's first hit",
      async () => {
        const { played, hits } = await playTraced(tracer, family.guarded, "untraced-child");
        expect(played).toEqual(flawless(played, 0));
        expect([played.begun, played.passes]).toEqual([3, 6 + 6 + 3]);
        expect(hits).toEqual(Array(SITES).fill(3));

        expect((await playTraced(tracer, family.bare, "untraced-child")).played.killed).toEqual([SIGSEGV]);
        const again = async () => (await playTraced(tracer, family.bare, "untraced-child", int3)).played;
        expect(await diesOfInt3(again)).toBe(true);
      },
    );
  });

  it("a tracer of all processes goes between the fork and the child's first hit", async () => {
    const of = async (path: string, environment: Environment = {}): Promise<Played> => {
      const probes = attach((await places(path)).map((place) => place.point));
      try {
        return await play(path, "untraced-child", { steps: [() => {}, () => probes.detach()], environment });
      } finally {
        probes.detach();
      }
    };
    const guarded = await of(family.guarded);
    expect(guarded).toEqual(flawless(guarded, 0));
    expect(guarded.begun).toBe(3);
    expect((await of(family.bare)).killed).toEqual([SIGSEGV]);
    expect(await diesOfInt3(() => of(family.bare, int3))).toBe(true);
  });

  it("a tracer of the parent alone comes and goes all along", { timeout: 300_000 }, async () => {
    const toggle = await build("gcc", program("toggle.c"), "-O2");
    const of = async (path: string, forks: number, environment: Environment = {}): Promise<Played> => {
      const points = (await places(path)).map((place) => place.point.offset);
      const event = new Tracer(path, points);
      let tracer: ReturnType<typeof spawn> | undefined;
      let times = "";
      const end = async (): Promise<void> => {
        if (tracer === undefined) return;
        const ended = once(tracer, "close");
        tracer.stdin!.end();
        expect(await ended).toEqual([0, null]);
        tracer = undefined;
      };
      const begin = (pid: number): void => {
        tracer = spawn(toggle, [`${pid}`, `${event.id}`], { stdio: ["pipe", "pipe", "inherit"] });
        tracer.stdout!.on("data", (chunk: Buffer) => (times += chunk.toString("latin1")));
      };
      try {
        const played = await play(path, "many-of-one", { steps: [begin, end], arguments: [`${forks}`], environment });
        const signals = [...new Set(played.killed)].join(", ");
        console.log(`${forks} forks, ${played.killed.length} killed (${signals}), came and went ${times.trim()} times`);
        return played;
      } finally {
        await end();
        event.remove();
      }
    };
    const forks = LONG ? 20_000 : 2_000;
    const played = await of(family.guarded, forks);
    expect(played).toEqual(flawless(played, 0));
    expect(played.begun).toBe(forks + 1);
    expect((await of(family.bare, 300)).killed.length).toBeGreaterThan(0);
    expect(await diesOfInt3(() => of(family.bare, 300, int3))).toBe(true);
  });

  describe("two tracers come and go all along", () => {
    const of = async (path: string, scene: string, forks: number, environment: Environment = {}) => {
      const points = (await places(path)).map((place) => place.point);
      const tracers = [attach(points), attach(points)] as const;
      let [running, times] = [true, 0];
      const comeAndGo = async (tracer: AttachedProbes, stay: number, away: number): Promise<void> => {
        for (; running; times++) {
          tracer.enable(true);
          await sleep(stay);
          tracer.enable(false);
          await sleep(away);
        }
      };
      const both = Promise.all([comeAndGo(tracers[0], 15, 5), comeAndGo(tracers[1], 2, 3)]);
      try {
        const played = await play(path, scene, { arguments: [`${forks}`], environment });
        const signals = [...new Set(played.killed)].join(", ");
        console.log(
          `${scene}: ${forks} forks, ${played.killed.length} killed (${signals}), came and went ${times} times`,
        );
        return { played, hits: tracers[0].hits() };
      } finally {
        running = false;
        await both;
        for (const tracer of tracers) tracer.detach();
      }
    };
    const some = LONG ? 20_000 : 2_000;

    it.each([
      ["many", some, "children one after the other"],
      ["threads", some / 10, "children of one of eight threads, while the others pass the sites"],
    ])("%s: %i %s", { timeout: 300_000 }, async (scene, forks) => {
      const { played, hits } = await of(family.guarded, scene, forks);
      expect(played).toEqual(flawless(played, 0));
      expect(played.begun).toBe(forks + 1);
      expect(Math.min(...hits)).toBeGreaterThan(forks);

      expect((await of(family.bare, scene, 300)).played.killed.length).toBeGreaterThan(0);
      const again = async () => (await of(family.bare, scene, 500, int3)).played;
      expect(await diesOfInt3(again)).toBe(true);
    });
  });
});
