/**
 * A program of the model as a file that runs: the same bytes at the same addresses, with a driver around them.
 *
 *     0x400000 ...   the program: its pages, and one more behind the first (a mapping of one page cannot be split)
 *     0x500000       the driver: waits for commands, enters the program, looks at the registers when it comes back
 *     0x600000 ...   a stack and a small area for each thread: rsp points between the two throughout
 *
 * A loop of the program goes back to its beginning; here it goes back to the driver instead, so one jump has another
 * displacement (or, where the program would fork, stands in place of the system call's number). All else is untouched.
 *
 * Commands and reports go through a socket for each thread: three words (what, how often, where to enter), two words
 * back (the result, or how many passes were not made; how many passes left other registers or flags than the first of all
 * passes did).
 */
import { PAGE_SIZE, vaddr } from "../../../src/address.js";
import { PF_R, PF_W, PF_X } from "../../../src/elf/constants.js";
import { parseElf } from "../../../src/elf/image.js";
import { type ProgramSegment, writeProgram } from "../../../src/elf/write-program.js";
import { displacement, type Listed } from "../../../src/patching/assemble.js";
import type { Program } from "../../../src/patching/programs.js";
import { Assembler, at, type RegisterName } from "../../../src/x86/assembler.js";
import { linkOne } from "../../../src/x86/link.js";

export const Command = { pass: 1, fork: 2, vfork: 3, wait: 4, exit: 5, filter: 6, map: 7, unmap: 8 } as const;

/** The first socket's descriptor; thread n has the nth behind it. */
export const FIRST_SOCKET = 3;

export interface LiveProgram {
  readonly bytes: Buffer;
  /** File offsets of the sites. */
  readonly offsets: readonly number[];
  readonly semaphoreOffset: number | null;
  /** Where commands enter the program: its loop, what a forked child begins with, the child's loop. */
  readonly loop: number;
  readonly childBegin: number;
  readonly childLoop: number;
}

const DRIVER = 0x50_0000;
const AREAS = 0x60_0000;
/** Between two areas: a page with the area, and stack below the next. */
const STRIDE = 0x4000;
const STACK = 0x2000;

const Area = {
  socket: 0,
  command: 0x10,
  times: 0x18,
  enter: 0x20,
  report: 0x28,
  wrong: 0x30,
  /** Not 0: passing ends. */
  stop: 0x38,
  filter: 0x40,
  registers: 0x80,
  /** Only that of thread 0 is used. */
  reference: 0x180,
  hasReference: 0x280,
} as const;

const areaOf = (slot: number): number => AREAS + slot * STRIDE + STACK;

/** The address of the word that ends a thread's passing when it is not 0. */
export const stopWord = (slot: number): number => areaOf(slot) + Area.stop;

const all: readonly RegisterName[] = [
  ...(["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"] as const),
  ...(["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"] as const),
];

const Call = {
  read: 0,
  write: 1,
  mmap: 9,
  munmap: 11,
  alarm: 37,
  clone: 56,
  fork: 57,
  vfork: 58,
  wait4: 61,
  prctl: 157,
  exitGroup: 231,
} as const;
/** Seconds after which a program that nobody ends is ended by SIGALRM. */
const LONGEST = 30;
/** CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM. */
const THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000;

/** MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE. */
const UNTOUCHABLE = 0x2 | 0x20 | 0x4000 | 0x10_0000;

/** Pages of a program and of its driver, for the model: trampolines find the same places free. */
export function withDriver(program: Program, slots: number): Program {
  const pages = pagesOf(program).map((start) => ({ start, end: start + PAGE_SIZE }));
  const driver = { start: DRIVER, end: DRIVER + PAGE_SIZE };
  return { ...program, occupied: [...pages, driver, { start: AREAS, end: AREAS + slots * STRIDE }] };
}

/** Every page of the program, and one behind its first stretch of pages. */
function pagesOf({ listing, semaphore }: Program): number[] {
  const pages = new Set<number>();
  for (const { address, bytes } of listing)
    for (const byte of [address, address + bytes.length - 1]) pages.add(Math.floor(byte / PAGE_SIZE));
  const first = Math.min(...pages);
  if (!pages.has(first + 1)) pages.add(first + 1);
  if (semaphore !== null) pages.add(Math.floor(semaphore / PAGE_SIZE));
  return [...pages].sort((a, b) => a - b).map((page) => page * PAGE_SIZE);
}

/** Writes a program of the model as a file, for so many threads and perhaps a child. */
export function liveProgram(program: Program, threads: number): LiveProgram {
  const slots = threads + (program.forks === null ? 0 : 1);
  const { listing } = program;
  const driver = linkOne(driverCode(program, threads), DRIVER);
  const bytes = writeProgram(vaddr(DRIVER), [
    ...codeSegments(program, driver.addressOf("after")),
    { address: vaddr(DRIVER), bytes: driver.bytes, flags: PF_R | PF_X, name: ".driver" },
    { address: vaddr(AREAS), bytes: areas(slots), flags: PF_R | PF_W, name: ".areas" },
  ]);
  const image = parseElf(bytes);
  const offsetOf = (address: number): number => {
    const segment = image.programHeaders.find(
      (p) => p.p_vaddr <= address && address < p.p_vaddr + p.p_filesz && p.p_filesz > 0,
    )!;
    return address - segment.p_vaddr + segment.p_offset;
  };
  const behindFork = listing.findIndex(({ text }) => text === "jne loop") + 1;
  const passes = listing.filter(({ text }) => text === "mov edi,0x5");
  return {
    bytes,
    offsets: program.sites.map(({ address }) => offsetOf(address)),
    semaphoreOffset: program.semaphore === null ? null : offsetOf(program.semaphore),
    loop: program.entry,
    childBegin: listing[behindFork]!.address,
    childLoop: (passes[1] ?? listing[0])!.address,
  };
}

/** The program's bytes by stretches of pages; what leads back to a loop leads to the driver. */
function codeSegments(program: Program, driver: number): ProgramSegment[] {
  const stretches: number[][] = [];
  for (const page of pagesOf(program)) {
    if (program.semaphore !== null && page === program.semaphore - (program.semaphore % PAGE_SIZE)) continue;
    const last = stretches.at(-1);
    if (last !== undefined && last.at(-1)! + PAGE_SIZE === page) last.push(page);
    else stretches.push([page]);
  }
  const segments = stretches.map((pages, i): ProgramSegment => {
    const start = pages[0]!;
    const bytes = new Uint8Array(pages.length * PAGE_SIZE);
    for (const line of program.listing)
      if (line.address >= start && line.address < start + bytes.length)
        bytes.set(leadingBack(line, driver), line.address - start);
    return { address: vaddr(start), bytes, flags: PF_R | PF_X, name: `.text${i}` };
  });
  if (program.semaphore === null) return segments;
  const start = program.semaphore - (program.semaphore % PAGE_SIZE);
  const bytes = new Uint8Array(PAGE_SIZE);
  return [...segments, { address: vaddr(start), bytes, flags: PF_R | PF_W, name: ".probes" }];
}

function leadingBack({ address, bytes, text }: Listed, driver: number): Uint8Array {
  const isBack = text === "jmp loop" || text === "jmp childloop";
  const forks = text === "mov eax,0x39" || text === "mov eax,0x3a";
  if (!isBack && !forks) return bytes;
  return Uint8Array.of(0xe9, ...displacement(driver - (address + bytes.length)));
}

function areas(slots: number): Uint8Array {
  const bytes = new Uint8Array(slots * STRIDE);
  const view = new DataView(bytes.buffer);
  for (let slot = 0; slot < slots; slot++)
    view.setUint32(slot * STRIDE + STACK + Area.socket, FIRST_SOCKET + slot, true);
  return bytes;
}

function driverCode(program: Program, threads: number): Assembler {
  const code = new Assembler();
  code.op("mov", "rsp", areaOf(0)).system(Call.alarm, LONGEST);
  for (let slot = 1; slot < threads; slot++)
    code.system(Call.clone, THREAD, areaOf(slot), 0, 0, 0).op("test", "rax", "rax").jumpIf("e", "wait");

  code.label("wait").op("lea", "rsi", at("rsp", Area.command));
  code.system(Call.read, at("rsp", Area.socket), "rsi", 24);
  code.op("mov", at("rsp", Area.wrong), 0).op("cmp", "rax", 24).op("mov", "rax", at("rsp", Area.command));
  code.jumpIf("ne", "gone");
  for (const [name, number] of Object.entries(Command)) code.op("cmp", "rax", number).jumpIf("e", `do ${name}`);
  code.label("gone").system(Call.exitGroup, 99);

  // Every pass begins with the same registers; rdi and rsi say what a child's madvise is about.
  code.label("do pass");
  const page = program.sites[0]!.address - (program.sites[0]!.address % PAGE_SIZE);
  const firsts: Partial<Record<RegisterName, number>> = { rdi: page, rsi: PAGE_SIZE };
  all.forEach((register, i) => {
    code.op("mov", register, firsts[register] ?? 0x1010_1010_1010 + 0x0101_0101 * i);
  });
  code.op("test", "rsp", "rsp").raw([0xff, 0x64, 0x24, Area.enter]); // jmp [rsp+enter]

  code.label("after");
  all.forEach((register, i) => {
    code.op("mov", at("rsp", Area.registers + 8 * i), register);
  });
  code.raw([0x9c, 0x58]).op("mov", at("rsp", Area.registers + 8 * all.length), "rax"); // pushfq; pop rax
  code.op("mov", "rdx", areaOf(0)).op("mov", "rax", at("rdx", Area.hasReference)).op("test", "rax", "rax");
  code.jumpIf("ne", "compare").op("mov", at("rdx", Area.hasReference), 1);
  for (let i = 0; i <= all.length; i++)
    code.op("mov", "rax", at("rsp", Area.registers + 8 * i)).op("mov", at("rdx", Area.reference + 8 * i), "rax");
  code.label("compare");
  for (let i = 0; i <= all.length; i++)
    code
      .op("mov", "rax", at("rsp", Area.registers + 8 * i))
      .op("cmp", at("rdx", Area.reference + 8 * i), "rax")
      .jumpIf("ne", "other");
  code.jump("next");
  code.label("other").op("mov", "rax", at("rsp", Area.wrong)).op("inc", "rax").op("mov", at("rsp", Area.wrong), "rax");
  code.label("next").op("mov", "rax", at("rsp", Area.times)).op("dec", "rax").op("mov", at("rsp", Area.times), "rax");
  code.op("test", "rax", "rax").jumpIf("e", "report");
  code.op("mov", "rdx", at("rsp", Area.stop)).op("test", "rdx", "rdx").jumpIf("e", "do pass");

  code.label("report").op("mov", at("rsp", Area.report), "rax").op("lea", "rsi", at("rsp", Area.report));
  code.system(Call.write, at("rsp", Area.socket), "rsi", 16).jump("wait");

  // A child has the last area; it reports as well, so that it can be looked at before it runs anything.
  for (const name of ["fork", "vfork"] as const) {
    code.label(`do ${name}`).system(Call[name]).op("test", "rax", "rax").jumpIf("ne", "report");
    code.op("mov", "rsp", areaOf(threads)).op("mov", at("rsp", Area.wrong), 0).jump("report");
  }
  code.label("do wait").op("lea", "rsi", at("rsp", Area.wrong)).system(Call.wait4, -1, "rsi", 0, 0).jump("report");
  // Where, in place of where to enter, and how large, in place of how often.
  code.label("do map").op("mov", "r9", 0);
  code.system(Call.mmap, at("rsp", Area.enter), at("rsp", Area.times), 0, UNTOUCHABLE, -1).jump("report");
  code.label("do unmap");
  code.system(Call.munmap, at("rsp", Area.enter), at("rsp", Area.times)).jump("report");
  code.label("do exit").system(Call.exitGroup, at("rsp", Area.times));

  const { prctl } = Call;
  code.label("do filter").system(prctl, 38, 1, 0, 0, 0); // PR_SET_NO_NEW_PRIVS
  code.op("mov", at("rsp", Area.filter), filter.length / 8).address("rax", "filter lines");
  code.op("mov", at("rsp", Area.filter + 8), "rax").op("lea", "rdx", at("rsp", Area.filter));
  code.system(prctl, 22, 2).jump("report"); // PR_SET_SECCOMP, SECCOMP_MODE_FILTER
  code.align(8).label("filter lines").raw(filter);
  return code;
}

/** Load the system call's number; allow read, write and exit_group; kill the process at all others. */
const filter: readonly number[] = (
  [
    [0x20, 0, 0, 0],
    [0x15, 3, 0, Call.read],
    [0x15, 2, 0, Call.write],
    [0x15, 1, 0, Call.exitGroup],
    [0x06, 0, 0, 0x8000_0000],
    [0x06, 0, 0, 0x7fff_0000],
  ] as const
).flatMap(([operation, jt, jf, k]) => {
  const line = Buffer.alloc(8);
  line.writeUInt16LE(operation, 0);
  line.set([jt, jf], 2);
  line.writeUInt32LE(k, 4);
  return [...line];
});
