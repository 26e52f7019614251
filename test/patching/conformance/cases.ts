/** The programs that kernel and model both run, and what is done with each: by the nop that their probes are. */
import { assemble, branch, bytesOf, line } from "../../../src/patching/assemble.js";
import { makeProgram, type Program } from "../../../src/patching/programs.js";
import type { Consumer } from "../../../src/patching/setup.js";
import type { Step } from "./observation.js";

export interface Case {
  readonly title: string;
  readonly program: Program;
  readonly threads: number;
  readonly steps: readonly Step[];
  readonly repairs: boolean;
  readonly consumer: Consumer["kind"];
  /**
   * The kernel writes a warning (WARN_ON) and keeps what it could not remove: for kernels that are thrown away only.
   */
  readonly warns: boolean;
}

export const attach: Step = { do: "attach" };
export const detach: Step = { do: "detach" };
export const fork: Step = { do: "fork" };
export const pass = (times = 1, thread = 0): Step => ({ do: "pass", thread, times });
export const child = (times = 1): Step => ({ do: "child", times });

export const make = (title: string, program: Program, steps: readonly Step[], more: Partial<Case> = {}): Case => ({
  title,
  program,
  threads: 1,
  steps,
  repairs: false,
  consumer: "entry",
  warns: false,
  ...more,
});

/** Attached before and between passes, detached, and that twice more. */
const often: readonly Step[] = [
  ...[pass(), attach, pass(), pass(), pass(20), detach, pass(3)],
  ...[attach, pass(), pass(4), detach, pass()],
  ...[attach, detach, pass()],
];

const manyNops: Program = ((): Program => {
  const [TEXT, SITE] = [0x40_1000, "site"];
  const nops = {
    [`${SITE}0`]: "0f 1f 44 00 00",
    [`${SITE}1`]: "0f 1f 44 00 00",
    [`${SITE}2`]: "90",
    [`${SITE}3`]: "66 90",
    [`${SITE}4`]: "0f 1f 84 00 00 00 00 00",
    // Over a page's end.
    [`${SITE}5`]: "0f 1f 44 00 00",
    [`${SITE}6`]: "0f 1f 44 00 08",
    [`${SITE}7`]: "66 66 66 66 90",
    // Five bytes, but two instructions.
    [`${SITE}8`]: "0f 1f 00 66 90",
  };
  const nop = (index: number) => [`${SITE}${index}:`, line("nop", nops[`${SITE}${index}`]!)];
  const { listing, labels } = assemble([
    TEXT,
    "loop:",
    line("mov edi,0x5", "bf 05 00 00 00"),
    branch("call leaf", "e8", "leaf"),
    branch("call crossing", "e8", "crossing"),
    branch("jmp loop", "e9", "loop"),
    TEXT + 0x80,
    "leaf:",
    line("mov rax,rdi", "48 89 f8"),
    line("cmp rdi,0x7", "48 83 ff 07"),
    ...[0, 1, 2, 3, 4].flatMap(nop),
    line("setb cl", "0f 92 c1"),
    line("xor rax,r11", "4c 31 d8"),
    line("ret", "c3"),
    TEXT + 0x1000 - 3,
    "crossing:",
    ...[5, 6, 7, 8].flatMap(nop),
    line("ret", "c3"),
  ]);
  const sites = Object.entries(nops).map(([label, hex]) => ({ address: labels.get(label)!, original: bytesOf(hex) }));
  return { ...makeProgram("plain"), name: "many nops", listing, entry: labels.get("loop")!, sites };
})();

/** A loop that passes a probe at each of these addresses, in their order. */
export const passing = (probe: Uint8Array, places: readonly number[]): Program => {
  const quad = (value: number) =>
    Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
      .toString("hex")
      .replace(/../g, "$& ");
  const { listing } = assemble([
    ...[0x40_1000, "loop:", line("mov edi,0x5", "bf 05 00 00 00")],
    ...places.flatMap((to) => [line("movabs rax", `48 b8 ${quad(to).trim()}`), line("call rax", "ff d0")]),
    branch("jmp loop", "e9", "loop"),
    ...places.flatMap((to) => [
      to,
      line("nop", Buffer.from(probe).toString("hex").replace(/../g, "$& ").trim()),
      line("ret", "c3"),
    ]),
  ]);
  const sites = places.map((address) => ({ address, original: probe }));
  return { ...makeProgram("far", { probe }), name: "passing", listing, sites };
};

/** @param probe the nop at each probe, where a case has not its own */
export const casesWith = (probe: Uint8Array): readonly Case[] => [
  make("plain", makeProgram("plain", { probe }), often),
  make("a probe with a guard", makeProgram("plain", { probe, guard: true }), often),
  make("a one-byte nop", makeProgram("plain", { probe: bytesOf("90") }), often),
  make("a probe over a page's end", makeProgram("plain", { probe, crossing: true }), often),
  make("live red zone, guarded", makeProgram("redzone", { probe, guard: true }), often),
  make("live red zone, no guard", makeProgram("redzone", { probe }), [pass(3), attach, pass(), pass()]),
  make("several nops", manyNops, often),
  make("sites 3 GiB apart", makeProgram("far", { probe }), often),
  make("a site in reach of two trampolines", passing(probe, [0x40_1080, 0xc040_1080, 0x6040_1080]), often),
  // The trampoline of the lower one is in reach of the upper one, and not the other way round.
  make("two sites 2 GiB apart", passing(probe, [0x8040_1ff0, 0x40_1ff0]), often),
  make("seccomp", makeProgram("seccomp", { probe }), often),
  make(
    "threads",
    makeProgram("plain", { probe }),
    [
      ...[pass(1, 0), pass(1, 1), attach, pass(1, 1), pass(1, 2), pass(5, 0), pass(3, 1), detach],
      ...[pass(2, 0), pass(1, 1), pass(2, 2), attach, pass(1, 2), pass(1, 1), pass(1, 0), detach, pass(1, 1)],
    ],
    { threads: 3 },
  ),
  make("semaphore", makeProgram("semaphore", { probe }), [attach, pass(), pass(5), detach, attach, pass(2), detach]),
  make("return probe", makeProgram("return", { probe }), often, { consumer: "return" }),
  make("vfork", makeProgram("vfork", { probe }), [
    ...[pass(), attach, pass(2), fork, child(), pass(), detach, fork, child(), attach, fork, child(), pass(2), detach],
  ]),
  make("fork before attaching", makeProgram("fork", { probe }), [
    ...[fork, attach, child(), child(3), pass(), detach, child(), pass(), attach, child(), pass(2), detach],
  ]),
  make("fork of a program with int3 in it", makeProgram("fork", { probe, crossing: true }), [
    ...[attach, pass(), fork, child(2), detach, child(), pass(), attach, child(), pass(), detach],
  ]),
  make("fork of a patched program", makeProgram("fork", { probe }), [pass(), attach, pass(3), fork, child()]),
  make("fork, and the tracer goes", makeProgram("fork", { probe }), [attach, pass(2), fork, detach, pass(), child()]),
  make("fork, the tracer goes and comes again", makeProgram("fork", { probe }), [
    ...[attach, pass(2), fork, detach, attach, pass(), child(), child(2), detach, child(), pass()],
  ]),
  // int3 over the child's dead call, and then only its first byte is the nop's again.
  make("fork, the tracer goes, comes and goes again", makeProgram("fork", { probe }), [
    ...[attach, pass(2), fork, detach, attach, detach, pass(), child()],
  ]),
  make("fork behind detaching", makeProgram("fork", { probe }), [
    ...[attach, pass(2), detach, fork, child(), attach, child(), child(2), pass(2), detach, child()],
  ]),
  make(
    "fork, and the child repairs",
    makeProgram("fork", { probe, forkGuard: "repair" }),
    [pass(), attach, pass(3), fork, child(), child(), child(5), pass(), detach, child(), pass()],
    { repairs: true },
  ),
  make(
    "fork, the tracer goes, and the child repairs",
    makeProgram("fork", { probe, forkGuard: "repair" }),
    [attach, pass(3), fork, detach, child(), child(), attach, child(2), pass(), detach, child()],
    { repairs: true },
  ),
];
