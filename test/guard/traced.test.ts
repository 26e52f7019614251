/**
 * The guard under real uprobes: families of processes that fork while they are traced, each without a guard as well, or with
 * one that is wrong, so that it is seen what would have become of them.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { skipBecause } from "../packages/skips.js";
import { drive, type Mode } from "./drive.js";
import { type GuardedProgram, guardedProgram } from "./guarded-program.js";
import { perfMissing, perfOnProcess } from "./perf.js";
import { Tracer } from "./tracer.js";

const SITES = 5;
const state = (what: { nop5?: number; int3?: number; call?: number; torn?: number; mark?: string; maps?: number }) => {
  const { nop5 = 0, int3 = 0, call = 0, torn = 0, mark = "c3", maps = 1 } = what;
  return `nop5 ${nop5} int3 ${int3} call ${call} torn ${torn} mark ${mark} maps ${maps}`;
};
const CALLS = state({ call: SITES });
const INT3S = state({ int3: SITES });
const TORN = state({ torn: SITES });
const NOPS = state({ nop5: SITES });
const LONG = process.env.LONG !== undefined;

describe.skipIf(cannotOptimize("the fork guard under uprobes"))("the fork guard under uprobes", () => {
  /**
   * Pages with two, two and one site. Trampolines begin at a page, so where a site stands decides on the lowest byte of its
   * call's distance: 0b here, and `0f 0b` is ud2. Torn, these sites kill every time by SIGILL.
   */
  let program: GuardedProgram;
  let tracer: Tracer | undefined;
  beforeAll(async () => {
    program = await guardedProgram({ sites: SITES, stride: 2560, first: 0xf0 });
  });
  afterEach(() => tracer?.remove());

  const trace = (of: GuardedProgram): Tracer => {
    tracer = new Tracer(of.path, of.offsets);
    return tracer;
  };
  /** Attached from the start; how often each site was hit on average, and what the family said. */
  const traced = async (script: string, mode: Mode = "guard", of = program) => {
    const uprobes = trace(of);
    uprobes.on();
    try {
      const { lines } = await drive(of.path, mode, script);
      return { lines, hits: uprobes.hits() / of.offsets.length };
    } finally {
      uprobes.remove();
    }
  };

  it("keeps a child alive, counted and optimized; without it the child dies", async () => {
    expect(await traced("hhpfphphhp")).toEqual({ lines: [CALLS, INT3S, CALLS, CALLS, "exit 0"], hits: 5 });
    expect(await traced("hhpfphphhp", "none")).toEqual({ lines: [CALLS, CALLS, "killed by 11"], hits: 2 });
  });

  it("leaves breakpoints alone that nobody has hit yet", async () => {
    expect(await traced("pfphp")).toEqual({ lines: [INT3S, INT3S, CALLS, "exit 0"], hits: 1 });
  });

  it("keeps grandchildren", async () => {
    expect(await traced("hfhpfphpfhhp")).toEqual({
      lines: [CALLS, INT3S, CALLS, CALLS, "exit 0", "exit 0", "exit 0"],
      hits: 5,
    });
  });

  it.each([
    ["under MDWE", "mhfphp"],
    ["of a process that has changed its user", "uhfphp"],
    ["of a locked process", "lhfphp"],
    ["that forks from one of eight threads", "thfphp"],
    ["whose code is sealed", "Shfphp"],
    ["under a filter that refuses madvise to its own children", "hfqphp"],
  ])("keeps a child %s", async (_, script) => {
    expect(await traced(script)).toEqual({
      lines: [INT3S, CALLS, "exit 0"],
      hits: 2,
    });
  });

  it("keeps a child whose code is kept out of core dumps: one page becomes a mapping of its own", async () => {
    const { lines, hits } = await traced("Dhfphp");
    expect(lines).toEqual([state({ int3: SITES, maps: 2 }), state({ call: SITES, maps: 2 }), "exit 0"]);
    expect(hits).toBe(2);
  });

  it("splits each of the mappings that the sites' segment has become", async () => {
    const maps = 2;
    expect(await traced("vhfphp")).toEqual({
      lines: [state({ int3: SITES, maps }), state({ call: SITES, maps }), "exit 0"],
      hits: 2,
    });
  });

  it("splits at a mapping's last page", async () => {
    const tight = await guardedProgram({ sites: SITES, stride: 2560, morePages: 0 });
    const alone = await guardedProgram({ sites: 1, stride: 40, first: 4096 + 4091, morePages: 0 });
    expect(await traced("hfphp", "guard", tight)).toEqual({ lines: [INT3S, CALLS, "exit 0"], hits: 2 });
    expect(await traced("hfphp", "guard", alone)).toEqual({
      lines: [state({ int3: 1 }), state({ call: 1 }), "exit 0"],
      hits: 2,
    });
  });

  it("keeps a child that can have no more mappings, uncounted", async () => {
    const { lines, hits } = await traced("hxfphp");
    expect(lines).toEqual([NOPS, NOPS, "exit 0"]);
    expect(hits).toBe(1);
  });

  it("leaves a child's semaphore one too high for each site, as the kernel leaves that of a PIE", async () => {
    tracer = new Tracer(program.path, program.offsets, program.semaphore);
    const semaphores = async (mode: Mode, script: string) => {
      tracer!.on();
      const { lines } = await drive(program.path, mode, script, [() => tracer!.off()]);
      return lines.filter((line) => line.startsWith("semaphore")).map((line) => Number(line.split(" ")[1]));
    };
    // The kernel's own: a PIE that is started while it is traced has its sites counted twice, and taken back once.
    expect(await semaphores("none", "hsws")).toEqual([2 * SITES, SITES]);
    // Not as it should be (10, 10, 5): see child-guard.ts.
    expect(await semaphores("guard", "hsfsws")).toEqual([2 * SITES, 3 * SITES, 2 * SITES]);
  });

  it("keeps a child that may not call madvise, uncounted", async () => {
    expect(await traced("hqfphp")).toEqual({ lines: [NOPS, NOPS, "exit 0"], hits: 1 });
  });

  it("keeps a child whose code has moved to anonymous memory, uncounted", async () => {
    expect(await traced("hAfphp")).toEqual({ lines: [NOPS, NOPS, "exit 0"], hits: 1 });
  });

  it("keeps what a page has besides its sites", async () => {
    const ofPrivatePages = await guardedProgram({ sites: SITES, stride: 2500, isPrivate: true });
    const mark = "c2";
    expect(await traced("Mhfphp", "guard", ofPrivatePages)).toEqual({
      lines: [state({ int3: SITES, mark }), state({ call: SITES, mark }), "exit 0"],
      hits: 2,
    });
    // Here /proc/self/mem is the only way, and it is closed: the child is no better off than without a guard, and no worse.
    expect(await traced("hufp", "guard", ofPrivatePages)).toEqual({
      lines: [CALLS, "exit 0"],
      hits: 1,
    });
  });

  it("cannot split a mapping of one page: its child lives and is not counted", async () => {
    const small = await guardedProgram({ sites: 2, stride: 40, morePages: 0 });
    expect(await traced("hfphp", "guard", small)).toEqual({
      lines: [state({ nop5: 2 }), state({ nop5: 2 }), "exit 0"],
      hits: 1,
    });
  });

  it("keeps a child whose tracer goes between the fork and the first hit", async () => {
    const uprobes = trace(program);
    uprobes.on();
    const detach = [() => uprobes.off()];
    expect((await drive(program.path, "guard", "hfwphp", detach)).lines).toEqual([NOPS, NOPS, "exit 0"]);
    uprobes.on();
    expect((await drive(program.path, "int3", "hfwph", detach)).lines).toEqual([TORN, "killed by 4"]);
    uprobes.on();
    // Before the guard has run as well.
    expect((await drive(program.path, "manual", "hfwpgphp", detach)).lines).toEqual([CALLS, NOPS, NOPS, "exit 0"]);
  });

  it("sees by all five bytes that a site is not sound", async () => {
    const uprobes = trace(program);
    // The tracer goes and comes back before the guard runs: int3 in front of a distance, and that once more taken away.
    const [off, on] = [() => uprobes.off(), () => uprobes.on()];
    on();
    const script = "hfwwpgphp";
    expect((await drive(program.path, "manual", script, [off, on])).lines).toEqual([TORN, INT3S, CALLS, "exit 0"]);
    expect((await drive(program.path, "manual", `hfwwwpgphp`, [off, on, off])).lines).toEqual([
      TORN,
      NOPS,
      NOPS,
      "exit 0",
    ]);
    on();
    expect((await drive(program.path, "none", "hfwwwph", [off, on, off])).lines).toEqual([TORN, "killed by 4"]);
  });

  it("mends all pages before the kernel looks at any", async () => {
    // A guard that goes page by page has the kernel write int3 over the calls of pages that come later, and passes them by.
    const uprobes = trace(program);
    const lines = async (mode: Mode) => {
      uprobes.on();
      return (await drive(program.path, mode, "hfpwph", [() => uprobes.off()])).lines;
    };
    expect(await lines("first")).toEqual([state({ int3: 2, torn: 3 }), state({ nop5: 2, torn: 3 }), "killed by 4"]);
    expect(await lines("guard")).toEqual([INT3S, NOPS, "exit 0"]);
  });

  it("keeps children from a tracer of their parent alone", async () => {
    if (skipBecause("a tracer with a process filter", perfMissing())) return;
    const uprobes = trace(program);
    const of = async (mode: Mode, ...options: readonly string[]) => {
      const perf = perfOnProcess(uprobes.event.replace("/", ":"), options);
      const attach = async (pid: number): Promise<void> => perf.start(pid, program.addresses);
      try {
        return (await drive(program.path, mode, "whpfhph", [attach])).lines;
      } finally {
        await perf.stop();
      }
    };
    // Not for the children: their guard splits, and the kernel does not want a breakpoint there.
    expect(await of("guard", "--no-inherit")).toEqual([CALLS, NOPS, "exit 0"]);
    // For the children as well.
    expect(await of("guard")).toEqual([CALLS, CALLS, "exit 0"]);
    // int3 that nobody has asked for is taken away at the first hit, and leaves a torn instruction for the second.
    expect(await of("int3", "--no-inherit")).toEqual([CALLS, TORN, "killed by 4"]);
  });

  it("loses no child while two tracers come and go", { timeout: 180_000 }, async () => {
    const uprobes = trace(program);
    const second = new Tracer(program.path, program.offsets);
    const forks = LONG ? 20_000 : 2_000;
    const run = async (mode: Mode, count: number): Promise<string> => {
      let running = true;
      let times = 0;
      const comeAndGo = async (which: Tracer, stay: number, away: number): Promise<void> => {
        while (running) {
          which.on();
          await sleep(stay);
          which.off();
          await sleep(away);
          times++;
        }
      };
      const both = Promise.all([comeAndGo(uprobes, 15, 5), comeAndGo(second, 2, 3)]);
      const { lines } = await drive(program.path, mode, `N${count}`);
      running = false;
      await both;
      console.log(`${mode}: ${lines.join(" ")}; attached and detached ${times} times`);
      return lines[0]!;
    };
    try {
      expect(await run("guard", forks)).toBe(`forks ${forks} dead 0 wrong 0`);
      expect(uprobes.hits()).toBeGreaterThan(forks);
      const dead = Number(/dead (\d+)/.exec(await run("none", 500))![1]);
      expect(dead).toBeGreaterThan(20);
    } finally {
      second.remove();
    }
  });
});
