/**
 * The judge: a static program that runs each case on this machine's processor. For a case it fills the scratch memory
 * and all registers from the case's record, jumps to the instruction, and wherever that leads collects the same record
 * again.
 *
 * What the instruction does to the flow of control shows in which landing it reaches: each stores its own address and
 * jumps to the common exit. An exception becomes a signal; the handler notes it and has the kernel return to the exit,
 * which brings back all registers as they were at the exception.
 *
 * Some processors (seen on Zen 5 under a hypervisor) fault when the kernel returns to a program whose rsp is not
 * canonical, whatever it came for. So a case starts with a canonical rsp, nothing has to be paged in once it runs, and
 * after an exception rsp gets its value back behind the kernel, not by it.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Const, Keystone, loadKeystone } from "keystone-wasm";
import { vaddr } from "../../../src/address.js";
import { PF_R, PF_W, PF_X } from "../../../src/elf/constants.js";
import { writeProgram } from "../../../src/elf/write-program.js";
import * as at from "./layout.js";
import { type Layout, RECORD_SIZE, Record } from "./layout.js";

// Within 2 GiB of the code of both layouts, and below 2^31.
const STUB = 0x70000000;
/** What the stub works with, then its stack and the signals' one. */
const DATA = 0x71000000;
const DATA_SIZE = 0x20000;
const STACK_TOP = DATA + 0x8000;
const SIGNAL_STACK = DATA + 0x10000;
const SIGNAL_STACK_SIZE = 0x10000;
const INPUT = 0x30000000;
const OUTPUT = 0x50000000;
/** Six words: where the input ends, and the output; where area and edge are; where the code is, and its length. */
const PLACES = 0x72000000;
const INPUT_END = PLACES;
const OUTPUT_END = PLACES + 8;
const AREA = PLACES + 16;
const EDGE = PLACES + 24;
const CODE = PLACES + 32;
const CODE_SIZE = PLACES + 40;

/** In DATA: the record of the case that runs, then variables. */
const RECORD = DATA;
const TARGET = DATA + 0x800;
/** Where a landing stores its address, and where it then goes. */
export const LANDED = RECORD + Record.IP;
const INPUT_AT = DATA + 0x808;
const OUTPUT_AT = DATA + 0x810;
const ACTION = DATA + 0x820;
/** Where a program that was interrupted goes on, and its rsp. */
const RESUME_AT = DATA + 0x840;
const RESUME_STACK = DATA + 0x848;
const ALT_STACK = DATA + 0x860;

/** SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV. */
const SIGNALS = [4, 5, 7, 8, 11];

const registers = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");

/** In ucontext_t of x86-64: uc_mcontext.gregs. */
const GREGS = 40;
const [REG_RSP, REG_RIP, REG_TRAPNO, REG_CR2] = [15, 16, 20, 22].map((i) => GREGS + 8 * i) as [
  number,
  number,
  number,
  number,
];

/** madvise(2): page in, as if read. */
const MADV_POPULATE_READ = 22;

/**
 * One instruction with an absolute address as its memory operand (ModRM with SIB, no base, no index), as bytes:
 * Keystone takes a bare address for a rip-relative one, and then gets the distance wrong.
 */
function absolute(opcode: readonly number[], reg: number, address: number, immediate?: number): string {
  const bytes = [0x48 | ((reg >> 3) << 2), ...opcode, 0x04 | ((reg & 7) << 3), 0x25, ...word(address)];
  if (immediate !== undefined) bytes.push(...word(immediate));
  return `.byte ${bytes.join(", ")}`;
}

const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
const store = (register: string, address: number): string => absolute([0x89], registers.indexOf(register), address);
const load = (register: string, address: number): string => absolute([0x8b], registers.indexOf(register), address);
const compare = (register: string, address: number): string => absolute([0x3b], registers.indexOf(register), address);
const set = (address: number, value: number): string => absolute([0xc7], 0, address, value);
const pop = (address: number): string => absolute([0x8f], 0, address);
const jumpTo = (address: number): string => absolute([0xff], 4, address);
const add = (address: number, value: number): string => absolute([0x81], 0, address, value);
const fxsave64 = (address: number): string => absolute([0x0f, 0xae], 0, address);

const SA_FLAGS = 0x4 | 0x08000000 | 0x40000000 | 0x04000000; // SIGINFO, ONSTACK, NODEFER, RESTORER

function stub(): string {
  const loads = registers.filter((r) => r !== "rsp" && r !== "rsi");
  const gpr = (r: string) => Record.GPR + 8 * registers.indexOf(r);
  const actions = SIGNALS.map(
    (signal) => `
      mov eax, 13
      mov edi, ${signal}
      mov esi, ${ACTION}
      xor edx, edx
      mov r10d, 8
      syscall`,
  ).join("\n");
  return `
      ${set(ALT_STACK, SIGNAL_STACK)}
      ${set(ALT_STACK + 16, SIGNAL_STACK_SIZE)}
      mov eax, 131
      mov edi, ${ALT_STACK}
      xor esi, esi
      syscall
      ${set(ACTION, HANDLER)}
      ${set(ACTION + 8, SA_FLAGS)}
      ${set(ACTION + 16, RESTORER)}
      ${set(ACTION + 24, 0)}
      ${actions}
      mov eax, 158
      mov edi, 0x1002
      mov rsi, ${at.FS_BASE}
      syscall
      mov eax, 158
      mov edi, 0x1001
      mov esi, ${at.GS_BASE}
      syscall
      mov eax, 28
      ${load("rdi", CODE)}
      ${load("rsi", CODE_SIZE)}
      mov edx, ${MADV_POPULATE_READ}
      syscall
      ${set(INPUT_AT, INPUT)}
      ${set(OUTPUT_AT, OUTPUT)}
    next:
      ${load("rsi", INPUT_AT)}
      ${compare("rsi", INPUT_END)}
      jae done
      cld
      ${load("rdi", AREA)}
      mov ecx, ${at.AREA_SIZE / 8}
      rep movsq
      ${load("rdi", EDGE)}
      mov ecx, ${at.EDGE_SIZE / 8}
      rep movsq
      sub rsi, ${Record.GPR}
      mov rsp, ${STACK_TOP}
      ${set(RECORD + Record.TRAP, 0)}
      ${set(RECORD + Record.ADDRESS, 0)}
      ${set(LANDED, 0)}
      mov rax, qword ptr [rsi + ${Record.IP}]
      ${store("rax", TARGET)}
      ${loads.map((r) => `mov ${r}, qword ptr [rsi + ${gpr(r)}]`).join("\n")}
      fxrstor64 [rsi + ${Record.FX}]
      push qword ptr [rsi + ${Record.FLAGS}]
      popfq
      mov rsp, qword ptr [rsi + ${gpr("rsp")}]
      mov rsi, qword ptr [rsi + ${gpr("rsi")}]
      ${jumpTo(TARGET)}
    done:
      mov r12d, ${OUTPUT}
      ${load("r13", OUTPUT_END)}
    more:
      mov eax, 1
      mov edi, 1
      mov rsi, r12
      mov rdx, r13
      sub rdx, r12
      jz finished
      syscall
      test rax, rax
      jle failed
      add r12, rax
      jmp more
    failed:
      mov edi, 1
      jmp leave_it
    finished:
      xor edi, edi
    leave_it:
      mov eax, 231
      syscall`;
}

export const EXIT = STUB + 0x800;
const HANDLER = STUB + 0xc00;
const RESTORER = STUB + 0xe00;
const RESUME = STUB + 0xe40;
const STUB_SIZE = 0x1000;

const exit = (next: number): string => `
      ${registers.map((r, i) => store(r, RECORD + Record.GPR + 8 * i)).join("\n")}
      mov rsp, ${STACK_TOP}
      pushfq
      ${pop(RECORD + Record.FLAGS)}
      cld
      ${fxsave64(RECORD + Record.FX)}
      ${load("rdi", OUTPUT_AT)}
      ${load("rsi", AREA)}
      mov ecx, ${at.AREA_SIZE / 8}
      rep movsq
      ${load("rsi", EDGE)}
      mov ecx, ${at.EDGE_SIZE / 8}
      rep movsq
      mov esi, ${RECORD + Record.GPR}
      mov ecx, ${(RECORD_SIZE - Record.GPR) / 8}
      rep movsq
      ${store("rdi", OUTPUT_AT)}
      ${add(INPUT_AT, RECORD_SIZE)}
      jmp ${next}`;

/** What faults in the stub itself is the return to it: that goes on where it was. */
const handler = `
      mov rax, qword ptr [rdx + ${REG_RIP}]
      lea rcx, [rax - ${STUB}]
      cmp rcx, ${STUB_SIZE}
      jb resume
      ${store("rax", LANDED)}
      mov rax, qword ptr [rdx + ${REG_TRAPNO}]
      or rax, ${at.FAULTED}
      ${store("rax", RECORD + Record.TRAP)}
      mov rax, qword ptr [rdx + ${REG_CR2}]
      ${store("rax", RECORD + Record.ADDRESS)}
      mov eax, ${EXIT}
    resume:
      ${store("rax", RESUME_AT)}
      mov rax, qword ptr [rdx + ${REG_RSP}]
      ${store("rax", RESUME_STACK)}
      mov qword ptr [rdx + ${REG_RSP}], ${STACK_TOP}
      mov qword ptr [rdx + ${REG_RIP}], ${RESUME}
      ret`;

const resume = `
      ${load("rsp", RESUME_STACK)}
      ${jumpTo(RESUME_AT)}`;

let keystone: Keystone | undefined;

async function assemble(text: string, address: number): Promise<Uint8Array> {
  if (keystone === undefined) {
    await loadKeystone();
    keystone = new Keystone(Const.KS_ARCH_X86, Const.KS_MODE_64);
  }
  return keystone.asm(text, { address });
}

let assembled: Uint8Array | undefined;

async function stubBytes(): Promise<Uint8Array> {
  if (assembled !== undefined) return assembled;
  const main = await assemble(stub(), STUB);
  if (main.length > EXIT - STUB) throw new Error("the stub has outgrown its place");
  // Where the next case begins, found by its first instruction.
  const next = Buffer.from(main).indexOf(await assemble(load("rsi", INPUT_AT), 0));
  assembled = new Uint8Array(STUB_SIZE).fill(0xcc);
  assembled.set(main, 0);
  assembled.set(await assemble(exit(STUB + next), EXIT), EXIT - STUB);
  assembled.set(await assemble(handler, HANDLER), HANDLER - STUB);
  assembled.set(await assemble("mov eax, 15; syscall", RESTORER), RESTORER - STUB);
  assembled.set(await assemble(resume, RESUME), RESUME - STUB);
  return assembled;
}

/** `mov dword [LANDED], address; jmp exit`: LANDING_SIZE bytes. */
function landing(address: number): Uint8Array {
  const out = new Uint8Array(at.LANDING_SIZE);
  const view = new DataView(out.buffer);
  out.set([0xc7, 0x05]);
  view.setInt32(2, LANDED - (address + 10), true);
  view.setInt32(6, address, true);
  out[10] = 0xe9;
  view.setInt32(11, EXIT - (address + 15), true);
  return out;
}

/** The code of all cases: a slot each. What no case has any business to run is int3. */
export function codeOf(layout: Layout, instructions: readonly Uint8Array[]): Uint8Array {
  const code = new Uint8Array(instructions.length * at.SLOT_SIZE).fill(0xcc);
  instructions.forEach((bytes, i) => {
    const slot = i * at.SLOT_SIZE;
    const put = (offset: number) => code.set(landing(layout.code + slot + offset), slot + offset);
    put(at.LANDING_BEFORE);
    code.set(bytes, slot + at.INSTRUCTION_IN_SLOT);
    put(at.INSTRUCTION_IN_SLOT + bytes.length);
    put(at.LANDING_BEHIND);
  });
  return code;
}

/**
 * Runs all cases natively.
 * @param code what codeOf made
 * @param records the states before, RECORD_SIZE bytes each
 * @returns the states after
 */
export async function runNatively(layout: Layout, code: Uint8Array, records: Uint8Array): Promise<Uint8Array> {
  const words = [
    INPUT + records.length,
    OUTPUT + records.length,
    layout.area,
    layout.edge,
    layout.code,
    Math.ceil(code.length / 0x1000) * 0x1000,
  ];
  const places = Buffer.alloc(8 * words.length);
  words.forEach((value, i) => {
    places.writeBigUInt64LE(BigInt(value), 8 * i);
  });
  const program = writeProgram(vaddr(STUB), [
    { name: ".cases", address: vaddr(layout.code), bytes: code, flags: PF_R | PF_X },
    { name: ".scratch", address: vaddr(layout.scratch), bytes: empty, size: at.SCRATCH_SIZE, flags: PF_R | PF_W },
    { name: ".rodata", address: vaddr(layout.readOnly), bytes: at.readOnlyContent(), flags: PF_R },
    { name: ".text", address: vaddr(STUB), bytes: await stubBytes(), flags: PF_R | PF_X },
    { name: ".data", address: vaddr(DATA), bytes: empty, size: DATA_SIZE, flags: PF_R | PF_W },
    { name: ".places", address: vaddr(PLACES), bytes: places, flags: PF_R },
    { name: ".before", address: vaddr(INPUT), bytes: records, flags: PF_R },
    { name: ".after", address: vaddr(OUTPUT), bytes: empty, size: records.length, flags: PF_R | PF_W },
  ]);
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-nop5-judge-"));
  try {
    const file = path.join(folder, "cases");
    writeFileSync(file, program, { mode: 0o755 });
    const outcome = spawnSync(file, [], {
      timeout: 10_000,
      killSignal: "SIGKILL",
      maxBuffer: records.length + 1,
      stdio: ["ignore", "pipe", "inherit"],
    });
    if (outcome.status !== 0 || outcome.stdout.length !== records.length)
      throw new Error(
        `the native program ended with ${outcome.signal ?? `exit ${outcome.status}`}, ` +
          `${outcome.stdout.length} of ${records.length} bytes (${outcome.error?.message ?? "no error"})`,
      );
    return outcome.stdout;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const empty = new Uint8Array(0);
