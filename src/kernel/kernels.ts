/**
 * What Linux does with a uprobe on each kind of probe instruction, on x86-64: the one table that everything here goes by
 * that depends on the kernel. Facts, not code: where they come from stands beside them.
 *
 * - before 6.18: int3; a one-byte nop is emulated in the trap, other nops are single-stepped out of line; instructions
 *   with a segment prefix are refused (arch/x86/kernel/uprobes.c, uprobe_init_insn), and nop10 has one.
 * - 6.18 to 7.2: a five-byte nop becomes a call to a trampoline, which makes the uprobe system call. The call writes below
 *   rsp, and a forked child inherits the patched text without the trampoline.
 * - from 7.3 on: a ten-byte nop becomes `lea -0x80(%rsp),%rsp; call`; both defects are gone, and nop5 is emulated.
 */

/** A kernel, by the first version of its range. */
export type KernelName = "legacy" | "6.18" | "7.3";

/** What may stand at a probe's location. */
export type ProbeInstruction = "nop" | "nop5" | "nop10" | "nop,nop5" | "nop,nop10";

export type Treatment =
  /** int3, and the kernel emulates the nop: today's cost. */
  | "emulated"
  /** int3, and the instruction is single-stepped out of line: about 2.9 times the cost of "emulated". */
  | "stepped"
  /** Patched into a call: about half of the cost of "emulated", or less. */
  | "optimized"
  /** Attaching to a running process fails; attached before, the probe never fires. */
  | "refused";

export interface KernelFacts {
  readonly name: KernelName;
  /** For people. */
  readonly range: string;
  /** What happens to a uprobe on an instruction of that kind, placed where a note says. */
  readonly treats: Readonly<Record<"nop" | "nop5" | "nop10", Treatment>>;
  /** Which instruction a libbpf that knows the kernel moves on to, behind the nop that a note names. */
  readonly movesOnTo: "nop5" | "nop10" | null;
  /** The patched instruction writes below rsp: 8 bytes and more. */
  readonly writesRedZone: boolean;
  /** A forked child that runs a site its parent had hit while traced is killed. */
  readonly killsForkedChildren: boolean;
}

export const kernels: readonly KernelFacts[] = [
  {
    name: "legacy",
    range: "before 6.18",
    treats: { nop: "emulated", nop5: "stepped", nop10: "refused" },
    movesOnTo: null,
    writesRedZone: false,
    killsForkedChildren: false,
  },
  {
    name: "6.18",
    range: "6.18 to 7.2",
    treats: { nop: "emulated", nop5: "optimized", nop10: "refused" },
    movesOnTo: "nop5",
    writesRedZone: true,
    killsForkedChildren: true,
  },
  {
    name: "7.3",
    range: "7.3 and later",
    treats: { nop: "emulated", nop5: "emulated", nop10: "optimized" },
    movesOnTo: "nop10",
    writesRedZone: false,
    killsForkedChildren: false,
  },
];

/** What a tracer gets from a probe: one that goes by the note alone, and a libbpf that knows the kernel. */
export function treatmentOf(
  kernel: KernelFacts,
  instruction: ProbeInstruction,
): { plain: Treatment; libbpf: Treatment } {
  const [first, second] = instruction.split(",") as ["nop" | "nop5" | "nop10", "nop5" | "nop10" | undefined];
  const plain = kernel.treats[first];
  return { plain, libbpf: second !== undefined && kernel.movesOnTo === second ? kernel.treats[second] : plain };
}

/** How much slower single-stepping a nop5 out of line is than emulating a nop, measured. */
export const STEPPING_FACTOR = 2.9;
