/**
 * What is said of kernels: the rows of the tables in docs/kernels.md, by their words there. Tests say which of them they
 * saw on which kernel (seen.ts); what none of them saw was not tried.
 */
import type { KernelFacts } from "../../src/kernel/kernels.js";

interface Claim {
  /** The first column of the table in docs/kernels.md. */
  readonly words: string;
  /** On which kernels there is anything to be seen: on all, if it is left out. */
  readonly where?: (kernel: KernelFacts) => boolean;
}

const optimizing = ({ optimizes }: KernelFacts): boolean => optimizes !== null;
const refusingNop10 = ({ treats }: KernelFacts): boolean => treats.nop10 === "refused";

const rows = {
  trampoline: { words: "which trampoline the image has" },
  answer: { words: "what the uprobe system call answers" },
  shortNops: { words: "one-byte nop, `66 90`, `0f 1f 00`, eight-byte nop" },
  nop5: { words: "five-byte nops: `0f 1f 44 00 00`, `0f 1f 44 00 08`, `66 66 66 66 90`" },
  nop5InTwoPages: { words: "a five-byte nop in two pages" },
  prefixed: { words: "`2e 0f 1f 40 00`, a segment prefix" },
  nop10: { words: "`66 2e 0f 1f 84` and any five bytes, in one page" },
  nop10InTwoPages: { words: "the same in two pages" },
  nop11: { words: "`2e 66 0f 1f 84 ...`, eleven bytes" },
  twicePrefixed: { words: "`66 66 0f 1f 84 ...`" },
  refused: { words: "refused: attaching to a running program fails; attached before, it never fires" },
  givesBack: { words: "detaching gives back" },
  callStays: { words: "a call stays when the tracer goes (CVE-2026-72357)" },
  redZone: { words: "what is below rsp is overwritten", where: optimizing },
  fork: { words: "a forked child dies" },
  seccomp: { words: "the system call passes a seccomp filter", where: optimizing },
  model: { words: "the model of patching agrees, step by step" },
  emulates: { words: "a trap emulates a nop, or steps over it" },
  returns: { words: "return probes by system call 335, from 6.11 on; int3 before" },
  libbpf17: { words: "where libbpf 1.7 attaches, of `nop,nop5`" },
  libbpf18: { words: "where libbpf 1.8 attaches, of `nop,nop10`" },
  oldTracers: { words: "where libbpf 1.1 and bpftrace 0.17 attach, of both" },
  sessions: { words: "return probes, and sessions of entry and return, by BPF" },
  changedRegisters: { words: "registers that a BPF program changes reach the program" },
  noRoom: { words: "no room for a trampoline in one process: no calls in others", where: optimizing },
  torn: { words: "a second tracer then tears calls apart (docs/kernel-reports.md)", where: optimizing },
  unmapped: { words: "a program that unmaps its trampoline is sent there again", where: optimizing },
  movingCall: { words: "a call changes over detaching and attaching, probes 2 GiB apart", where: optimizing },
  selector: {
    words:
      "the selector of programs (PIE, ET_EXEC, static, musl) and of libraries loaded after setenv, clearenv and their like",
  },
  raced: { words: "the phases of patching, raced" },
  layouts: { words: "red zone, threads, semaphores, each in nop, nop5, `nop,nop5`, `nop,nop10`" },
  layoutsRefused: { words: "the same, attached at a nop10 that is refused", where: refusingNop10 },
  nop5InSource: { words: "red zone, nop5 in the source" },
  forkGuarded: { words: "fork, nop5 or `nop,nop5` with a guard" },
  forkUnguarded: { words: "the same without a guard" },
  toggledGuarded: { words: "tracers that come and go over a red zone and forks, with a guard" },
  toggledUnguarded: { words: "tracers that come and go, without a guard" },
  tracers: { words: "libbpf and bpftrace, `fork` in each layout" },
} satisfies Record<string, Claim>;

export type ClaimName = keyof typeof rows;
export const claims: Readonly<Record<ClaimName, Claim>> = rows;
