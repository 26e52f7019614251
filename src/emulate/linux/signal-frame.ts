/**
 * A signal handler's frame on the stack, as Linux lays it out on x86-64 (struct rt_sigframe: the address of the
 * restorer, struct ucontext, struct siginfo; above it the FXSAVE image, Intel SDM vol. 1, table 10-2), and the way
 * back.
 */
import { type RuntimeAddress, runtimeAddress } from "../../address.js";
import { DEFAULT_FPU_CONTROL, DEFAULT_MXCSR, FPU_CONTROL, Gpr, MXCSR, MXCSR_STALE, Rflags, XMM } from "../state.js";
import { CallError } from "./errno.js";
import { type Process, readUser, writeUser } from "./process.js";
import { type Action, bitOf, SA_NODEFER, SA_RESETHAND, type SignalInfo } from "./signal-state.js";

const SA_ONSTACK = 0x0800_0000n;
const SS_DISABLE = 2;
const RED_ZONE = 128;

const FRAME_SIZE = 440;
const CONTEXT = 8;
/** In struct ucontext. */
const STACK = 16;
const REGISTERS = 40;
const MASK = 296;
/** In struct sigcontext, after the registers in `order`. */
const [RIP, EFLAGS, SEGMENTS, ERROR, TRAP, OLD_MASK, CR2, FPSTATE] = [128, 136, 144, 152, 160, 168, 176, 184];
const INFO = 312;
const FXSAVE_SIZE = 512;
const FXSAVE_MXCSR = 24;
const FXSAVE_XMM = 160;
/** cs 0x33, ss 0x2b. */
const USER_SEGMENTS = 0x002b_0000_0000_0033n;

/** The order of the general-purpose registers in struct sigcontext. */
const order = [
  ...[Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11, Gpr.R12, Gpr.R13, Gpr.R14, Gpr.R15],
  ...[Gpr.RDI, Gpr.RSI, Gpr.RBP, Gpr.RBX, Gpr.RDX, Gpr.RAX, Gpr.RCX, Gpr.RSP],
];

/** Makes the handler run next; false where its frame cannot be written, or its action has no restorer. */
export function enterHandler(process: Process, info: SignalInfo, action: Action): boolean {
  const { cpu, signals } = process;
  const { alternate } = signals;
  const rsp = cpu.gpr(Gpr.RSP);
  const onAlternate = !alternate.disabled && rsp > alternate.at && rsp <= alternate.at + alternate.size;
  const switches = (action.flags & SA_ONSTACK) !== 0n && !alternate.disabled && !onAlternate;
  const top = switches ? Number(alternate.at + alternate.size) : Number(rsp) - RED_ZONE;
  const vectors = top - FXSAVE_SIZE - ((top - FXSAVE_SIZE) & 63);
  const frame = vectors - FRAME_SIZE - ((vectors - FRAME_SIZE) & 15) - 8;

  const bytes = Buffer.alloc(FRAME_SIZE);
  const put = (at: number, value: bigint): void => {
    bytes.writeBigUInt64LE(BigInt.asUintN(64, value), at);
  };
  put(0, action.restorer);
  put(CONTEXT + STACK, alternate.at);
  bytes.writeInt32LE(alternate.disabled ? SS_DISABLE : onAlternate ? 1 : 0, CONTEXT + STACK + 8);
  put(CONTEXT + STACK + 16, alternate.size);
  const registers = CONTEXT + REGISTERS;
  for (const [i, register] of order.entries()) put(registers + 8 * i, cpu.gpr(register));
  put(registers + RIP, BigInt(cpu.ip));
  put(registers + EFLAGS, BigInt(cpu.rflags));
  put(registers + SEGMENTS, USER_SEGMENTS);
  put(registers + ERROR, BigInt(info.errorCode));
  put(registers + TRAP, BigInt(info.trap));
  put(registers + OLD_MASK, signals.blocked);
  put(registers + CR2, BigInt(info.trap === 14 ? (info.address ?? 0) : 0));
  put(registers + FPSTATE, BigInt(vectors));
  put(CONTEXT + MASK, signals.blocked);
  bytes.writeInt32LE(info.signal, INFO);
  bytes.writeInt32LE(info.code, INFO + 8);
  if (info.sender !== null) {
    bytes.writeInt32LE(info.sender.pid, INFO + 16);
    bytes.writeInt32LE(info.sender.uid, INFO + 20);
  } else put(INFO + 16, BigInt(info.address ?? 0));
  try {
    writeUser(process, runtimeAddress(frame), bytes);
    writeUser(process, runtimeAddress(vectors), saveVectors(process));
  } catch (error) {
    if (error instanceof CallError) return false;
    throw error;
  }

  // The handler begins with registers as a new program has them.
  const { w } = cpu;
  signals.staleFrame ||= w[MXCSR_STALE] !== 0;
  w[MXCSR] = DEFAULT_MXCSR;
  w[MXCSR_STALE] = 0;
  w[FPU_CONTROL] = DEFAULT_FPU_CONTROL;
  w.fill(0, XMM, XMM + 64);

  signals.blocked |= action.mask;
  if ((action.flags & SA_NODEFER) === 0n) signals.blocked |= bitOf(info.signal);
  if ((action.flags & SA_RESETHAND) !== 0n) signals.actions.delete(info.signal);
  cpu.rflags &= ~(Rflags.DF | 0x100);
  cpu.setGpr(Gpr.RSP, BigInt(frame));
  cpu.setGpr(Gpr.RDI, BigInt(info.signal));
  cpu.setGpr(Gpr.RSI, BigInt(frame + INFO));
  cpu.setGpr(Gpr.RDX, BigInt(frame + CONTEXT));
  cpu.setGpr(Gpr.RAX, 0n);
  cpu.ip = Number(action.handler);
  return action.restorer !== 0n;
}

/** rt_sigreturn: the state that the frame holds, which the handler may have changed. @throws CallError EFAULT */
export function leaveHandler(process: Process): void {
  const { cpu, signals } = process;
  // The handler's `ret` has taken the restorer's address.
  const frame = readUser(process, runtimeAddress(Number(cpu.gpr(Gpr.RSP)) - 8), FRAME_SIZE);
  const registers = CONTEXT + REGISTERS;
  for (const [i, register] of order.entries()) cpu.setGpr(register, frame.readBigUInt64LE(registers + 8 * i));
  cpu.ip = Number(frame.readBigUInt64LE(registers + RIP));
  cpu.rflags = frame.readInt32LE(registers + EFLAGS);
  signals.blocked = frame.readBigUInt64LE(CONTEXT + MASK);
  const vectors = Number(frame.readBigUInt64LE(registers + FPSTATE));
  if (vectors !== 0) restoreVectors(process, runtimeAddress(vectors));
}

function saveVectors({ cpu }: Process): Uint8Array {
  const image = Buffer.alloc(FXSAVE_SIZE);
  image.writeUInt16LE(cpu.w[FPU_CONTROL]! & 0xffff, 0);
  image.writeInt32LE(cpu.w[MXCSR]!, FXSAVE_MXCSR);
  image.writeInt32LE(0xffff, FXSAVE_MXCSR + 4);
  image.set(cpu.b.subarray(4 * XMM, 4 * XMM + 256), FXSAVE_XMM);
  return image;
}

function restoreVectors(process: Process, at: RuntimeAddress): void {
  const { cpu } = process;
  const image = readUser(process, at, FXSAVE_SIZE);
  cpu.w[FPU_CONTROL] = image.readUInt16LE(0);
  cpu.w[MXCSR] = image.readInt32LE(FXSAVE_MXCSR);
  cpu.w[MXCSR_STALE] = process.signals.staleFrame ? 1 : 0;
  cpu.b.set(image.subarray(FXSAVE_XMM, FXSAVE_XMM + 256), 4 * XMM);
}
