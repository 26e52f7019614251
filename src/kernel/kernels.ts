/**
 * What Linux does with a uprobe on each kind of probe instruction, on x86-64: the one table that everything here goes
 * by that depends on the kernel. Facts, not code: where they come from stands beside them. Whoever decides something by
 * the kernel asks this table, and never by a kernel's name. What is done with bytes that nobody writes on purpose, or
 * where a page ends, is in treatment.ts.
 *
 * - before 6.18: int3; a one-byte nop is emulated in the trap, other nops are single-stepped out of line; instructions
 *   with a segment prefix are refused (arch/x86/kernel/uprobes.c, uprobe_init_insn), and nop10 has one.
 * - 6.18 to 7.1: a five-byte nop becomes a call to a trampoline, which makes the uprobe system call. The call writes below
 *   rsp, and a forked child inherits the patched text without the trampoline.
 * - from 7.2 on: a ten-byte nop becomes `lea -0x80(%rsp),%rsp; call`; both defects are gone, and nop5 is emulated.
 *
 * Which nop a kernel optimizes was read off the trampolines in Debian's images: `ret` in 6.18.15, 6.19.14, 7.0.13 and
 * 7.1.3 to 7.1.13, `ret $0x80` in 7.2.6 to 7.2.13 and 7.3.4; 6.1, 6.12, 6.18, 7.1, 7.2 and 7.3 were booted, and asked.
 */
import { constants } from "node:os";

/** A kernel, by the first version of its range. */
export type KernelName = "legacy" | "6.18" | "7.2";

/** The nops that some kernel turns into a call. */
export type LongNop = "nop5" | "nop10";

/** What may stand at a probe's location. */
export type ProbeInstruction = "nop" | LongNop | `nop,${LongNop}`;

export type Treatment =
  /** int3, and the kernel emulates the nop: today's cost. */
  | "emulated"
  /** int3, and the instruction is single-stepped out of line: about 2.9 times the cost of "emulated". */
  | "stepped"
  /** Patched into a call: about half of the cost of "emulated", or less. */
  | "optimized"
  /** Attaching to a running process fails; attached before, the probe never fires. */
  | "refused";

/** A kernel's number: 6.18.44 is [6, 18]. The third part changes nothing that this table knows. */
export type Version = readonly [major: number, minor: number];

export interface KernelFacts {
  readonly name: KernelName;
  readonly since: Version;
  /** For people. */
  readonly range: string;
  /** Which nop becomes a call. A libbpf that knows the kernel moves on to it, after the nop that a note names. */
  readonly optimizes: LongNop | null;
  /** What happens to a uprobe on an instruction of that kind, placed where a note says. */
  readonly treats: Readonly<Record<"nop" | LongNop, Treatment>>;
  /** What happens to one on any other nop of several bytes, if it has no segment prefix. */
  readonly longNops: "emulated" | "stepped";
  /** What happens to one on the nop that becomes a call, where it lies in two pages. */
  readonly acrossPages: Treatment;
  /** What the uprobe system call (336) answers when no trampoline made it. */
  readonly answers: "ENOSYS" | "ENXIO" | "EPROTO";
  /** How many bytes, from the first on, are the nop's own again when the last tracer has gone. */
  readonly givesBack: number;
  /** The patched instruction writes below rsp: 8 bytes and more. */
  readonly writesRedZone: boolean;
  /** A forked child that runs a site its parent had hit while traced is killed. */
  readonly killsForkedChildren: boolean;
  /** Which of them may leave a damaged instruction where a tracer was (CVE-2026-72357), or null. */
  readonly damages: string | null;
  /**
   * What becomes of a program whose call a second tracer tears apart, after the probe could not be patched in another
   * process (docs/kernel-reports.md, 1); null where no call is torn.
   */
  readonly tearsCalls: "kills" | "slows" | null;
}

export const kernels: readonly KernelFacts[] = [
  {
    name: "legacy",
    since: [0, 0],
    range: "before 6.18",
    optimizes: null,
    treats: { nop: "emulated", nop5: "stepped", nop10: "refused" },
    longNops: "stepped",
    acrossPages: "stepped",
    answers: "ENOSYS",
    givesBack: 0,
    writesRedZone: false,
    killsForkedChildren: false,
    damages: null,
    tearsCalls: null,
  },
  {
    name: "6.18",
    since: [6, 18],
    range: "6.18 to 7.1",
    optimizes: "nop5",
    treats: { nop: "emulated", nop5: "optimized", nop10: "refused" },
    longNops: "emulated",
    acrossPages: "emulated",
    answers: "ENXIO",
    givesBack: 5,
    writesRedZone: true,
    killsForkedChildren: true,
    // By their source, and seen on 6.18.15: they look for the trampoline in the tracer's own memory.
    damages: "6.18 to 6.18.39 and 6.19 to 7.1.4",
    // Seen on 6.18.44 and 7.1.13, and what it does to 7.2.13 and 7.3.4.
    tearsCalls: "kills",
  },
  {
    name: "7.2",
    since: [7, 2],
    range: "7.2 and later",
    optimizes: "nop10",
    treats: { nop: "emulated", nop5: "emulated", nop10: "optimized" },
    longNops: "emulated",
    acrossPages: "refused",
    answers: "EPROTO",
    // The call stays, as operands of the nop: a thread may stand between lea and call.
    givesBack: 5,
    writesRedZone: false,
    killsForkedChildren: false,
    damages: null,
    tearsCalls: "slows",
  },
];

/** The number that a kernel's name begins with, as in "6.18" or "7.3.4-cloud-amd64"; null where it begins with none. */
export function parseVersion(text: string): Version | null {
  const [, major, minor] = /^(\d{1,4})\.(\d{1,4})(?![\d])/.exec(text) ?? [];
  return major === undefined ? null : [Number(major), Number(minor)];
}

/** Whether a version is another one or follows it. */
export const isFrom = ([major, minor]: Version, first: Version): boolean =>
  major > first[0] || (major === first[0] && minor >= first[1]);

/** The kernels that a version belongs to. */
export const kernelOf = (version: Version): KernelFacts => kernels.findLast(({ since }) => isFrom(version, since))!;

export const kernelNamed = (name: KernelName): KernelFacts => kernels.find((kernel) => kernel.name === name)!;

export const kernelThatOptimizes = (nop: LongNop): KernelFacts => kernels.find((kernel) => kernel.optimizes === nop)!;

/**
 * Which kernels answer the uprobe system call with this error, if it was made from elsewhere; undefined where none
 * does.
 */
export const kernelThatAnswers = (errno: number): KernelFacts | undefined =>
  kernels.find(({ answers }) => constants.errno[answers] === errno);

/** From here on a return probe uses system call 335 where there is room for it, and no int3. */
const RETURN_CALL_SINCE: Version = [6, 11];

export const returnsBySystemCall = (version: Version): boolean => isFrom(version, RETURN_CALL_SINCE);

/** Where a tracer that knows the kernel attaches: at the nop that a note names, or at the longer one after it. */
export function attachedTo(
  kernel: KernelFacts,
  instruction: ProbeInstruction,
): { readonly offset: 0 | 1; readonly nop: "nop" | LongNop } {
  const [first, second] = instruction.split(",") as ["nop" | LongNop, LongNop | undefined];
  return second !== undefined && kernel.optimizes === second ? { offset: 1, nop: second } : { offset: 0, nop: first };
}

/** What a tracer gets from a probe: one that goes by the note alone, and a libbpf that knows the kernel. */
export function treatmentOf(
  kernel: KernelFacts,
  instruction: ProbeInstruction,
): { plain: Treatment; libbpf: Treatment } {
  const first = instruction.split(",")[0] as "nop" | LongNop;
  return { plain: kernel.treats[first], libbpf: kernel.treats[attachedTo(kernel, instruction).nop] };
}

/** Whether some kernel makes a call of this nop that writes below rsp. */
export const writesRedZone = (nop: LongNop): boolean => kernels.some((k) => k.optimizes === nop && k.writesRedZone);

/** The ranges of those kernels that a question is answered with yes for, as words. */
export const rangesWhere = (holds: (kernel: KernelFacts) => boolean): string =>
  kernels
    .filter(holds)
    .map(({ range }) => range)
    .join(", ");

/** How much slower single-stepping a nop5 out of line is than emulating a nop, measured. */
export const STEPPING_FACTOR = 2.9;
