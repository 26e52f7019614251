/**
 * The program that starts a command and stops each of its processes when it is about to end.
 *
 * What the kernel made of a probe stands in the process's own copy of the page and goes with the process, which may
 * live two milliseconds. ptrace can stop a process at the last moment, when its memory is still there
 * (PTRACE_O_TRACEEXIT). Node has no ptrace, so a small program does it; this is its machine code.
 *
 *     watcher PROGRAM ARGV0 ARG...          descriptor 3: a socket to the tool
 *
 *     watcher -> tool    u32 event, u32 process, u32 value, u32 0
 *     tool -> watcher    a byte             go on: the process stays stopped until then
 *
 * Manners, so that the command is not disturbed:
 * - it is a child of the watcher in the same process group, with the tool's descriptors 0 to 2 and no others of ours;
 * - it is seized, not attached to: no stop that it could notice, and a process that its terminal stops stays stopped
 *   (PTRACE_LISTEN);
 * - signals are handed on as they come. The watcher itself blocks all of them: Ctrl-C is for the command;
 * - PTRACE_O_EXITKILL is not set: should the tool or the watcher be killed, the kernel lets the processes go and they run on.
 */
import { Assembler, at } from "../x86/assembler.js";
import { linkOne } from "../x86/link.js";
import { CODE, DATA, programBytes } from "./program-file.js";

/** What a message is about, and what its value is. */
export const Event = {
  /** The command's process exists; value: 0, or why it cannot be traced, as errno. */
  Started: 1,
  /** The program cannot be executed; value: errno. */
  NotExecuted: 2,
  /** A thread is about to end; value: 0. */
  Exit: 3,
  /** A process has begun another program; value: 0. */
  Exec: 4,
  /** The command has ended; value: its status as wait4 gives it. Others that it started may still live. */
  Ended: 5,
} as const;

export const MESSAGE_SIZE = 16;
export const SOCKET = 3;

/** System calls of x86-64. */
const Call = {
  read: 0,
  write: 1,
  close: 3,
  rtSigprocmask: 14,
  fork: 57,
  execve: 59,
  wait4: 61,
  fcntl: 72,
  ptrace: 101,
  exitGroup: 231,
  pipe2: 293,
} as const;

const PTRACE_CONT = 7;
const PTRACE_SEIZE = 0x4206;
const PTRACE_LISTEN = 0x4208;
/** PTRACE_O_TRACEFORK, VFORK, CLONE, EXEC, EXIT. */
const OPTIONS = 0x02 | 0x04 | 0x08 | 0x10 | 0x40;
const PTRACE_EVENT_EXEC = 4;
const PTRACE_EVENT_EXIT = 6;
const PTRACE_EVENT_STOP = 128;
const SIGSTOP = 19;
const SIGTTOU = 22;
const WALL = 0x40000000;
const EINTR = 4;
const SIG_SETMASK = 2;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const O_CLOEXEC = 0x80000;
const CANNOT_EXECUTE = 127;

/** In the data, counted from its start, where rbp points. */
const STATUS = 0;
const MESSAGE = 16;
const OLD_MASK = 32;
const ALL_SIGNALS = 40;
const GATE = 48;
const BYTE = 56;
const DATA_SIZE = 64;

/** The program as a file's bytes. */
export function watcherProgram(): Buffer {
  const code = new Assembler();
  const data = (offset: number) => at("rbp", offset);
  /** The address of something in the data, as an argument. */
  const pointer = (register: "rsi" | "rdi" | "rdx", offset: number) => code.op("lea", register, data(offset));
  const message = (event: number) => code.op("mov", data(MESSAGE), event);

  // rbp: data; r12: argc and argv; r13: the environment.
  code.op("mov", "rbp", DATA).op("mov", "r12", "rsp").op("mov", "r13", at("rsp")).op("shl", "r13", 3);
  code.op("add", "r13", "rsp").op("add", "r13", 16);

  code.system(Call.fcntl, SOCKET, F_SETFD, FD_CLOEXEC);
  code.op("mov", data(ALL_SIGNALS), -1);
  pointer("rsi", ALL_SIGNALS);
  pointer("rdx", OLD_MASK).system(Call.rtSigprocmask, SIG_SETMASK, undefined, undefined, 8);
  // The child waits behind a pipe until it is traced.
  pointer("rdi", GATE).system(Call.pipe2, undefined, O_CLOEXEC);
  code.system(Call.fork).op("test", "rax", "rax").jumpIf("e", "child");

  // rbx: the command's process.
  code.op("mov", "rbx", "rax").op("mov", "r14", "rax").op("cmp", "rax", 0).jumpIf("l", "started");
  code.system(Call.ptrace, PTRACE_SEIZE, "rbx", 0, OPTIONS);
  code.label("started").op("neg", "rax").op("mov", "r15", "rax");
  message(Event.Started).call("tell");
  code.op("test", "r15", "r15").jumpIf("ne", "leave");
  code.op("mov", "edi", data(GATE + 4));
  pointer("rsi", BYTE).system(Call.write, undefined, undefined, 1);
  code.op("mov", "edi", data(GATE + 4)).system(Call.close);
  code.op("mov", "edi", data(GATE)).system(Call.close);

  // r14: the process that something has happened to.
  code.label("wait");
  pointer("rsi", STATUS).system(Call.wait4, -1, undefined, WALL, 0);
  code.op("mov", "r14", "rax").op("cmp", "rax", -EINTR).jumpIf("e", "wait");
  code.op("cmp", "rax", 0).jumpIf("l", "leave");
  code.op("mov", "eax", data(STATUS)).op("mov", "ecx", "eax").op("and", "ecx", 0x7f);
  code.op("cmp", "ecx", 0x7f).jumpIf("e", "stopped");

  code.op("cmp", "r14", "rbx").jumpIf("ne", "wait");
  code.op("mov", "r15d", "eax");
  message(Event.Ended).call("tell").jump("leave");

  // r15: the signal of the stop, or what to go on with.
  code.label("stopped").op("mov", "r15d", "eax").op("shr", "r15d", 8).op("and", "r15d", 0xff);
  code.op("shr", "eax", 16).jumpIf("e", "continue");
  code.op("cmp", "eax", PTRACE_EVENT_STOP).jumpIf("ne", "event");
  code.op("cmp", "r15d", SIGSTOP).jumpIf("b", "quietly").op("cmp", "r15d", SIGTTOU).jumpIf("a", "quietly");
  code.system(Call.ptrace, PTRACE_LISTEN, "r14", 0, 0).jump("wait");

  code.label("event").op("xor", "r15d", "r15d");
  message(Event.Exit).op("cmp", "eax", PTRACE_EVENT_EXIT).jumpIf("e", "announce");
  message(Event.Exec).op("cmp", "eax", PTRACE_EVENT_EXEC).jumpIf("ne", "quietly");
  code.label("announce").call("tell");
  code.label("quietly").op("xor", "r15d", "r15d");
  code.label("continue").system(Call.ptrace, PTRACE_CONT, "r14", 0, "r15").jump("wait");

  // Sends the message about r14 with the value in r15, and waits for the answer. A tool that is gone ends the watcher.
  code.label("tell").op("mov", data(MESSAGE + 8), "r15");
  code.op("mov", data(MESSAGE + 4), "r14d");
  pointer("rsi", MESSAGE).system(Call.write, SOCKET, undefined, MESSAGE_SIZE);
  code.op("cmp", "rax", MESSAGE_SIZE).jumpIf("ne", "leave");
  pointer("rsi", BYTE).system(Call.read, SOCKET, undefined, 1);
  code.op("cmp", "rax", 1).jumpIf("ne", "leave").op("ret");

  code.label("leave").system(Call.exitGroup, 0);

  // The child: the signal mask as it was, and the program.
  code
    .label("child")
    .op("mov", "edi", data(GATE + 4))
    .system(Call.close);
  code.op("mov", "edi", data(GATE));
  pointer("rsi", BYTE).system(Call.read, undefined, undefined, 1);
  code.op("cmp", "rax", 1).jumpIf("ne", "never");
  pointer("rsi", OLD_MASK).system(Call.rtSigprocmask, SIG_SETMASK, undefined, 0, 8);
  code.op("lea", "rsi", at("r12", 24)).system(Call.execve, at("r12", 16), undefined, "r13");
  code.op("neg", "rax").op("mov", data(MESSAGE + 8), "rax");
  message(Event.NotExecuted);
  pointer("rsi", MESSAGE).system(Call.write, SOCKET, undefined, MESSAGE_SIZE);
  code.label("never").system(Call.exitGroup, CANNOT_EXECUTE);

  return programBytes(linkOne(code, CODE).bytes, DATA_SIZE);
}
