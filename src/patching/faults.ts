/**
 * Faults that can be built into the protocol, to see that the checks find them: each is another protocol, or another
 * program, and says where it shows best. Some do no harm, which is shown by searching everything (the test does).
 */
import { Gpr } from "../emulate/state.js";
import type { KernelName } from "../kernel/kernels.js";
import { bytesOf } from "./assemble.js";
import type { ProgramName, Shape } from "./programs.js";
import { type Phase, type Protocol, SYNC, write } from "./protocol.js";
import { type Consumer, PLAIN_CONSUMER } from "./setup.js";

export interface Fault {
  readonly name: string;
  readonly what: string;
  readonly change: (protocol: Protocol) => Partial<Protocol>;
  /** What the tracer does, where it shows by that. */
  readonly consumer?: Consumer;
  /** The program's own part in it. */
  readonly shape?: Partial<Shape>;
  /** Where it shows, if nothing else is asked for. */
  readonly kernel: KernelName;
  readonly scenario: ProgramName;
  readonly threads: number;
  readonly toggles: number;
  /** As in ModelOptions. */
  readonly joins?: readonly number[];
  readonly errors?: number;
  readonly isHarmless: boolean;
}

const fault = (
  name: string,
  what: string,
  change: Fault["change"],
  where: Partial<Omit<Fault, "name" | "what" | "change">> = {},
): Fault => ({
  name,
  what,
  change,
  kernel: "6.18",
  scenario: "plain",
  threads: 2,
  toggles: 2,
  isHarmless: false,
  ...where,
});

/** The phases without the nth IPI. */
const withoutSync = (phases: readonly Phase[], nth: number): readonly Phase[] => {
  let seen = 0;
  return phases.filter((phase) => phase.kind !== "sync" || seen++ !== nth);
};

const replaced = (protocol: Protocol, from: string, to: string): Partial<Protocol> => {
  const hex = [...protocol.trampoline].map((b) => b.toString(16).padStart(2, "0")).join(" ");
  return { trampoline: bytesOf(hex.replace(from, to)) };
};

const twice = (phase: Phase): Phase[] => (phase.kind === "sync" ? [phase, phase] : [phase]);

const on72 = { kernel: "7.2" } as const;

export const faults: readonly Fault[] = [
  fault("optimize-no-first-sync", "no CPU serializes between int3 and the tail of the call", (p) => ({
    optimize: withoutSync(p.optimize, 0),
  })),
  fault("optimize-no-second-sync", "no CPU serializes between the tail of the call and its first byte", (p) => ({
    optimize: withoutSync(p.optimize, 1),
  })),
  fault(
    "optimize-no-last-sync",
    "no CPU serializes after the call's first byte: a stale int3 traps, and the kernel passes it on",
    (p) => ({ optimize: withoutSync(p.optimize, 2) }),
    { isHarmless: true },
  ),
  fault("unoptimize-no-first-sync", "no CPU serializes between int3 and the tail of the nop", (p) => ({
    unoptimize: withoutSync(p.unoptimize, 0),
  })),
  fault("unoptimize-no-second-sync", "no CPU serializes between the tail of the nop and its first byte", (p) => ({
    unoptimize: withoutSync(p.unoptimize, 1),
  })),
  fault(
    "unoptimize-no-last-sync",
    "no CPU serializes after the nop's first byte: a stale int3 traps, the kernel finds none and lets the thread go on",
    (p) => ({ unoptimize: withoutSync(p.unoptimize, 2) }),
    { isHarmless: true },
  ),
  fault("optimize-at-once", "the call is written in one go", () => ({ optimize: [SYNC, write(0, 5, "call"), SYNC] })),
  fault("first-byte-before-tail", "the call's first byte is written before its tail", () => ({
    optimize: [SYNC, write(0, 1, "call"), SYNC, write(1, 5, "call"), SYNC],
  })),
  fault("tail-before-int3", "detaching writes the tail of the nop while the call is still there", () => ({
    unoptimize: [write(1, 5, "original"), SYNC, write(0, 1, "int3"), SYNC, write(0, 1, "original"), SYNC],
  })),
  fault("unoptimize-without-int3", "detaching writes first the tail of the nop, then its first byte", () => ({
    unoptimize: [write(1, 5, "original"), SYNC, write(0, 1, "original"), SYNC],
  })),
  fault("unoptimize-at-once", "detaching writes the nop in one go", () => ({
    unoptimize: [write(0, 5, "original"), SYNC],
  })),
  fault("displacement-off", "the call goes to the byte after the trampoline's first", () => ({
    displacementError: 1,
  })),
  fault("trampoline-unmapped", "detaching unmaps the trampoline", () => ({ unmapsTrampoline: true })),
  // CVE-2026-72357: 6.18 to 6.18.39 and 6.19 to 7.1.4 are like this, by their source; seen on 6.18.15.
  fault(
    "call-not-recognized",
    "who attaches or detaches looks for the trampoline in its own address space: the call stays, int3 goes over it",
    () => ({ looksInTheOther: false }),
  ),
  fault("trampoline-out-of-reach", "any trampoline is taken, however far away it is", () => ({ checksReach: false }), {
    scenario: "far",
    threads: 1,
    toggles: 1,
  }),
  fault("wrong-save-order", "the trampoline pushes rax and r11 in the other order", (p) =>
    replaced(p, "51 41 53 50", "51 50 41 53"),
  ),
  fault("rcx-lost", "the trampoline does not restore rcx", (p) => replaced(p, "41 5b 59", "41 5b 48 8d 64 24 08")),
  fault("r11-lost", "the trampoline does not restore r11", (p) => replaced(p, "58 41 5b", "58 48 8d 64 24 08")),
  fault("rax-lost", "the trampoline does not restore rax", (p) => replaced(p, "0f 05 58", "0f 05 48 8d 64 24 08")),
  fault("flags-lost", "the trampoline moves rsp by add, which changes the flags", (p) =>
    replaced(p, "50 48 c7", "50 48 83 ec 08 48 83 c4 08 48 c7"),
  ),
  fault("sp-not-fixed", "consumers are given the trampoline's rsp", () => ({ fixesSp: false })),
  fault("ip-not-fixed", "consumers are given the trampoline's rip", () => ({ fixesIp: false })),
  fault(
    "crosses-page",
    "a probe across a page's end is patched, and only the first page is written",
    () => ({ patchesAcrossPages: true }),
    { shape: { crossing: true } },
  ),
  fault("two-nops", "the probe is two nops, between which a thread may stand", () => ({ checksInstruction: false }), {
    shape: { probe: bytesOf("0f 1f 00 66 90") },
  }),
  fault("child-writes-int3", "a forked child that finds a call at its probe writes int3 there itself", () => ({}), {
    scenario: "fork",
    threads: 1,
    toggles: 1,
    shape: { forkGuard: "int3" },
  }),
  fault(
    "child-repairs-calls-only",
    "a forked child repairs its probe only if it shows a call, and not int3 or a nop over the rest of one",
    () => ({}),
    { scenario: "fork", threads: 1, shape: { forkGuard: "repair-call" } },
  ),
  fault(
    "fork-without-trampoline",
    "fork copies the patched code, but not the trampoline",
    () => ({
      forkCopiesTrampoline: false,
    }),
    { ...on72, scenario: "fork", threads: 1, toggles: 1 },
  ),
  fault(
    "no-recheck",
    "a thread that has waited for the lock does not look whether int3 is still there: its first write finds out",
    () => ({ rechecks: false }),
    { isHarmless: true },
  ),
  fault("no-look-at-all", "it does not look then, and does not look when it writes", () => ({
    rechecks: false,
    checksBytes: false,
  })),
  fault("no-lock", "threads patch without the lock", () => ({ locks: false })),
  fault("stale-int3-kills", "a trap without a probe kills, without a second look at the memory", () => ({
    looksAgain: false,
  })),
  fault("no-wait-for-handlers", "detaching is complete while a consumer may still be called", () => ({
    waitsForReaders: false,
  })),
  fault(
    "no-seccomp-exception",
    "seccomp filters apply to the uprobe system call",
    () => ({ seccompException: false }),
    { scenario: "seccomp" },
  ),
  fault(
    "red-zone-kept",
    "the trampoline of 7.2 does not give back the 128 bytes that lea has taken",
    (p) => replaced(p, "c2 80 00", "c3"),
    on72,
  ),
  fault(
    "call-taken-back",
    "detaching on 7.2 restores all ten bytes, while a thread may stand between lea and call",
    () => ({
      unoptimize: [write(0, 1, "int3"), SYNC, write(1, 10, "original"), SYNC, write(0, 1, "original"), SYNC],
    }),
    on72,
  ),
  fault(
    "lea-and-call-at-once",
    "lea and call are written in one go",
    () => ({
      optimize: [SYNC, write(0, 10, "call"), SYNC],
    }),
    on72,
  ),
  fault("changes-lost", "registers that a consumer changes do not reach the program", () => ({ writesBack: false }), {
    consumer: { ...PLAIN_CONSUMER, changes: new Map([[Gpr.RAX, 0x1234]]) },
  }),
  fault("counted-twice", "a thread that has patched the call in runs it as well", () => ({
    skipsAfterPatching: false,
  })),
  fault("hits-lost", "the system call looks for the probe one byte off", () => ({ looksBack: 4 })),
  fault("semaphore-stays", "detaching does not lower the semaphore", () => ({ lowersSemaphore: false }), {
    scenario: "semaphore",
  }),
  fault(
    "bytes-unchecked",
    "the phases of patching do not look what the program has written between them",
    () => ({ checksBytes: false }),
    { toggles: 1, shape: { acts: { own: ["overwrite"], child: [] } } },
  ),
  fault(
    "forgotten-after-error",
    "a probe that could not be taken away is forgotten all the same, with int3 in the program",
    () => ({ keepsAfterError: false }),
    { toggles: 1, errors: 1 },
  ),
  fault(
    "shadow-stack-kept",
    "a return address that is replaced stays as it was on the shadow stack",
    () => ({ mendsShadowStack: false }),
    { scenario: "return", threads: 1, toggles: 1, shape: { shadowStack: true } },
  ),
  fault("both-places-run", "the first place of a probe runs on into the second", () => ({}), {
    scenario: "universal",
    toggles: 1,
    shape: { universal: { selector: 0, runs: "both" } },
  }),
  fault("no-place-runs", "a probe with two places passes neither", () => ({}), {
    scenario: "universal",
    toggles: 1,
    shape: { universal: { selector: 0, runs: "neither" } },
  }),
  fault(
    "syncs-twice",
    "every IPI is sent twice",
    (p) => ({
      optimize: p.optimize.flatMap(twice),
      unoptimize: p.unoptimize.flatMap(twice),
    }),
    { isHarmless: true },
  ),
];

export const faultNamed = (name: string): Fault | undefined => faults.find((f) => f.name === name);
