/**
 * Tiny programs that find out what this kernel does with uprobes. Each answers by its exit status, and is run with a
 * uprobe on its site; none needs a library or prints anything.
 */
import { Assembler, at } from "../x86/assembler.js";
import { linkOne } from "../x86/link.js";
import { CODE, programBytes } from "./program-file.js";

export interface KernelProgram {
  readonly bytes: Buffer;
  /** File offset of the site, or null where it has none. */
  readonly site: number | null;
}

/** writeProgram puts the code's first byte here. */
const CODE_OFFSET = 0x1000;
/** So often a site is passed: the kernel optimizes at the first hit, but may have to try again. */
export const PASSES = 100;

const Call = {
  read: 0,
  write: 1,
  open: 2,
  mmap: 9,
  fork: 57,
  exit: 60,
  wait4: 61,
  prctl: 157,
  archPrctl: 158,
  exitGroup: 231,
  uprobe: 336,
} as const;

export const SITE_SIZE = 16;

/** Code of a program: `body` gets an assembler in which `site` can be called, and the site is a function of its own. */
function withSite(instruction: Uint8Array, body: (code: Assembler) => void): KernelProgram {
  const code = new Assembler();
  body(code);
  code.align(64).label("site").raw(instruction).op("ret");
  // A second page: what cannot be split, a mapping of one page, is a case of its own.
  code.align(0x1000).raw(new Uint8Array(SITE_SIZE));
  return programWithSite(code);
}

function programWithSite(code: Assembler): KernelProgram {
  const { bytes, addressOf } = linkOne(code, CODE);
  return { bytes: programBytes(bytes, 8), site: CODE_OFFSET + addressOf("site") - CODE };
}

/** Passes the site again and again. Changes rbx. */
function passSite(code: Assembler, label: string): void {
  code.op("mov", "ebx", PASSES).label(label).call("site").op("dec", "rbx").jumpIf("ne", label);
}

/** Its exit status is the first byte that stands at the site in the end. */
export const passing = (instruction: Uint8Array): KernelProgram =>
  withSite(instruction, (code) => {
    passSite(code, "again");
    code.address("rax", "site").op("movzx", "edi", at("rax")).system(Call.exitGroup);
  });

/**
 * Passes its site, writes a byte to standard output, and waits for one from standard input; its exit status is then 0
 * where the first bytes of `instruction` stand at the site again, and else 1.
 * @param size so many bytes have to be the same: the others may be anything
 */
export const detached = (instruction: Uint8Array, size: number): KernelProgram =>
  withSite(instruction, (code) => {
    passSite(code, "again");
    waitAndCompare(code, instruction, size);
  });

function waitAndCompare(code: Assembler, instruction: Uint8Array, size: number): void {
  code.op("sub", "rsp", 16).op("lea", "rsi", at("rsp")).op("mov", at("rsp"), 0);
  code.system(Call.write, 1, undefined, 1).op("lea", "rsi", at("rsp")).system(Call.read, 0, undefined, 1);
  code.op("mov", "edi", 1).address("rax", "site").address("rdx", "original");
  for (let i = 0; i < size; i++)
    code.op("movzx", "ecx", at("rax", i)).op("movzx", "ebx", at("rdx", i)).op("cmp", "ecx", "ebx").jumpIf("ne", "exit");
  code.op("xor", "edi", "edi").label("exit").system(Call.exitGroup);
  code.label("original").raw(instruction);
}

/** What `cornered` exits with where it could not map what it has to. */
const NOT_CORNERED = 2;

/**
 * Like `detached`, with a copy of the site that it passes after its own and that has no room for a trampoline: all
 * addresses within reach are taken. A copy in another process would do as well.
 */
export function cornered(instruction: Uint8Array, size: number): KernelProgram {
  const [PROT_NONE, READ_EXEC] = [0, 5];
  const [PRIVATE_THERE, ANONYMOUS, NORESERVE] = [0x100002, 0x20, 0x4000];
  const COPY = 0x1000000000;
  const [MAPPED, REACH] = [0x2000, 2 ** 31 + 2 ** 20];
  return withSite(instruction, (code) => {
    passSite(code, "here");
    code.address("rdi", "self").system(Call.open, undefined, 0).op("mov", "r8", "rax");
    const map = (address: number, length: number, protection: number, flags: number, offset: number): void => {
      code.system(Call.mmap, address, length, protection, flags, undefined, offset);
      code.op("cmp", "rax", "rdi").jumpIf("ne", "uncornered");
    };
    map(COPY, MAPPED, READ_EXEC, PRIVATE_THERE, CODE_OFFSET);
    for (const address of [COPY - REACH, COPY + MAPPED])
      map(address, REACH, PROT_NONE, PRIVATE_THERE | ANONYMOUS | NORESERVE, 0);
    const CALL_RBP = Uint8Array.of(0xff, 0xd5);
    code
      .address("rbp", "site")
      .op("mov", "rcx", COPY - CODE)
      .op("add", "rbp", "rcx")
      .raw(CALL_RBP)
      .raw(CALL_RBP);
    waitAndCompare(code, instruction, size);
    code.label("uncornered").op("mov", "edi", NOT_CORNERED).system(Call.exitGroup);
    code.label("self").raw(Buffer.from("/proc/self/exe\0"));
  });
}

/** Its exit status is how many of the 16 words below rsp were changed over a hit, at most. */
export function redZone(instruction: Uint8Array): KernelProgram {
  const WORDS = 16;
  const code = new Assembler();
  code.op("xor", "edi", "edi").op("mov", "ebx", PASSES).op("mov", "rcx", 0x5a5a5a5a5a5a);
  code.label("again");
  for (let i = 1; i <= WORDS; i++) code.op("mov", at("rsp", -8 * i), "rcx");
  code.label("site").raw(instruction);
  for (let i = 1; i <= WORDS; i++) {
    code
      .op("cmp", at("rsp", -8 * i), "rcx")
      .jumpIf("e", `kept${i}`)
      .op("inc", "rdi")
      .label(`kept${i}`);
  }
  code.op("dec", "rbx").jumpIf("ne", "again").op("test", "rdi", "rdi").jumpIf("e", "exit").op("mov", "edi", 1);
  code.label("exit").system(Call.exitGroup);
  return programWithSite(code);
}

/** Forks after some hits; its exit status is the signal that killed the child at the same site, or 0. */
export const forking = (instruction: Uint8Array): KernelProgram =>
  withSite(instruction, (code) => {
    passSite(code, "parent");
    code.system(Call.fork).op("test", "rax", "rax").jumpIf("ne", "wait");
    passSite(code, "child");
    code.system(Call.exitGroup, 0);
    code.label("wait").op("mov", "rbp", "rax").op("sub", "rsp", 16).op("lea", "rsi", at("rsp"));
    code.system(Call.wait4, "rbp", undefined, 0, 0);
    code.op("mov", "edi", at("rsp")).op("and", "edi", 0x7f).system(Call.exitGroup);
  });

/**
 * Forbids itself, by a seccomp filter, every system call but exit_group, then passes the site; exits with its first
 * byte.
 */
export function confined(instruction: Uint8Array): KernelProgram {
  const PR_SET_NO_NEW_PRIVS = 38;
  const PR_SET_SECCOMP = 22;
  const SECCOMP_MODE_FILTER = 2;
  const [ALLOW, KILL_PROCESS] = [0x7fff0000, 0x80000000];
  // struct sock_filter: code, jt, jf, k. Load the system call's number; allow exit_group, kill at all others.
  const filter = [filterLine(0x20, 0, 0, 0), filterLine(0x15, 0, 1, Call.exitGroup), filterLine(0x06, 0, 0, ALLOW)];
  filter.push(filterLine(0x06, 0, 0, KILL_PROCESS));
  return withSite(instruction, (code) => {
    code.system(Call.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    code
      .op("sub", "rsp", 16)
      .op("mov", at("rsp"), filter.length)
      .address("rax", "filter")
      .op("mov", at("rsp", 8), "rax");
    code.op("lea", "rdx", at("rsp")).system(Call.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER);
    code.op("mov", "edi", NOT_CONFINED).op("test", "rax", "rax").jumpIf("ne", "exit");
    passSite(code, "again");
    code.address("rax", "site").op("movzx", "edi", at("rax"));
    code.label("exit").system(Call.exitGroup);
    code.align(8).label("filter").raw(filter.flat());
  });
}

/** What `confined` exits with where it could not set up its filter: no instruction here begins like that. */
const NOT_CONFINED = 1;

function filterLine(code: number, jt: number, jf: number, k: number): number[] {
  const line = Buffer.alloc(8);
  line.writeUInt16LE(code, 0);
  line.set([jt, jf], 2);
  line.writeUInt32LE(k, 4);
  return [...line];
}

/** Makes one system call and exits with its error number, or 0. */
function calling(number: number, ...args: readonly number[]): KernelProgram {
  const code = new Assembler();
  code
    .system(number, ...args)
    .op("mov", "rdi", "rax")
    .op("neg", "rdi");
  code.system(Call.exitGroup);
  return { bytes: programBytes(linkOne(code, CODE).bytes, 8), site: null };
}

/** Calls the uprobe system call from where it may not be called. */
export const uprobeSystemCall = (): KernelProgram => calling(Call.uprobe);

/** Asks for a shadow stack. */
export const shadowStack = (): KernelProgram => {
  const ARCH_SHSTK_ENABLE = 0x5001;
  const ARCH_SHSTK_SHSTK = 1;
  return calling(Call.archPrctl, ARCH_SHSTK_ENABLE, ARCH_SHSTK_SHSTK);
};
