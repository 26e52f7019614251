/**
 * A program to measure probes in: functions of one body with a probe in the middle, each built so that rewriting it
 * takes another tactic, and a loop over each that takes the time.
 *
 *     function       what is special
 *     in-place       a four-byte nop after the probe gives the room
 *     shift          padding after the function
 *     displace       no room anywhere: the probe moves out of line
 *     guarded        the same with a value kept below rsp, the loop's counter
 *     call-through   a call after the probe
 *     nop5, nop10    compiled in: what a program is that was built for it
 *
 * Each result goes into the next call, so that what a probe adds to the way of a value shows. The value below rsp is
 * not on that way: processors that hand a stored value straight to the load by the same name of its address (rsp - 8)
 * cannot once the guard has changed rsp, which costs the few cycles of an ordinary load.
 *
 * It is an ordinary static program with notes and symbols, and is rewritten by the rewriter itself. It writes, for each
 * function in their order, its processor time before and after the loop: two struct timespec.
 */
import { vaddr } from "../address.js";
import { appendSections } from "../elf/append-sections.js";
import { SHT_NOTE, SHT_STRTAB, SHT_SYMTAB, SYM_SIZE } from "../elf/constants.js";
import { CODE, DATA, programBytes } from "../live/program-file.js";
import { Assembler, at } from "../x86/assembler.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { linkOne } from "../x86/link.js";

export const sampleFunctions = ["in-place", "shift", "displace", "guarded", "call-through", "nop5", "nop10"] as const;
export type SampleFunction = (typeof sampleFunctions)[number];
export const PROVIDER = "bench";

/** For each function two times of 16 bytes: seconds and nanoseconds, 64 bits each. */
export const RECORD_SIZE = 32;

const Call = { write: 1, clockGettime: 228, exitGroup: 231 } as const;
/** Time that the process itself has run for: others that want the processor do not count. */
const CLOCK_PROCESS_CPUTIME_ID = 2;
const STDOUT = 1;
const ALIGNMENT = 64;
const RET = 0xc3;
const NOP = [0x90];
const NOP4 = [0x0f, 0x1f, 0x40, 0x00];
const compiledIn: Partial<Record<SampleFunction, Uint8Array>> = { nop5: NOP5, nop10: NOP10 };

/** The program's bytes. @param passes how often each probe is passed */
export function sampleProgram(passes: number): Buffer {
  const code = new Assembler();
  const functions: string[] = [];
  const within = (name: string, body: () => void): void => {
    functions.push(name);
    code.align(ALIGNMENT).label(name);
    body();
    code.label(`${name} end`);
  };

  within("_start", () => {
    code.op("mov", "r12", DATA);
    for (const name of sampleFunctions) {
      clock(code);
      code.op("mov", "ebx", passes).op("xor", "r14d", "r14d").label(`loop ${name}`);
      code.op("mov", "rdi", "rbx").op("mov", "rsi", "r14").call(name).op("mov", "r14", "rax");
      code.op("dec", "rbx").jumpIf("ne", `loop ${name}`);
      clock(code);
    }
    code.op("mov", "rsi", DATA).system(Call.write, STDOUT, undefined, sampleFunctions.length * RECORD_SIZE);
    code.system(Call.exitGroup, 0);
  });
  for (const name of sampleFunctions) {
    within(name, () => measured(code, name));
    // Whatever follows here without a gap keeps the function from growing.
    if (name !== "shift") functions.push(wall(code, `${name} wall`));
  }

  const { bytes, addressOf } = linkOne(code, CODE);
  const notes = sampleFunctions.map((name) => note(name, addressOf(`${name} probe`)));
  const [symbols, strings] = symbolTable(
    functions.map((name) => ({ name, start: addressOf(name), end: addressOf(`${name} end`) })),
  );
  return appendSections(programBytes(bytes, sampleFunctions.length * RECORD_SIZE), [
    { name: ".note.stapsdt", sh_type: SHT_NOTE, bytes: Buffer.concat(notes) },
    { name: ".symtab", sh_type: SHT_SYMTAB, bytes: symbols, link: ".strtab", sh_info: 1, sh_entsize: SYM_SIZE },
    { name: ".strtab", sh_type: SHT_STRTAB, bytes: strings },
  ]);
}

/** The clock, into the next record at r12. */
const clock = (code: Assembler): Assembler =>
  code.system(Call.clockGettime, CLOCK_PROCESS_CPUTIME_ID, "r12").op("add", "r12", RECORD_SIZE / 2);

function measured(code: Assembler, name: SampleFunction): void {
  code.op("mov", "rax", "rdi");
  if (name === "guarded") code.op("mov", at("rsp", -8), "rdi");
  code.label(`${name} probe`).raw(compiledIn[name] ?? NOP);
  if (name === "in-place") code.raw(NOP4);
  if (name === "call-through") code.call("called");
  if (name === "guarded") code.op("mov", "rdi", at("rsp", -8));
  code.op("add", "rax", "rdi").op("xor", "rax", "rsi").op("add", "rax", "rsi").op("ret");
}

/** A function up to the next one. The first of them is what call-through's function calls. */
function wall(code: Assembler, name: string): string {
  code.label(name);
  if (name === "displace wall") code.label("called").op("ret");
  code.align(ALIGNMENT, RET).label(`${name} end`);
  return name;
}

/** A stapsdt note with the probe's only argument in rdi. */
function note(name: string, location: number): Buffer {
  const head = Buffer.alloc(24);
  head.writeBigUInt64LE(BigInt(location), 0);
  const text = Buffer.from(`${PROVIDER}\0${name}\0${"8@%rdi"}\0`, "latin1");
  const size = head.length + text.length;
  const header = Buffer.alloc(20);
  header.writeUInt32LE(8, 0); // namesz
  header.writeUInt32LE(size, 4); // descsz
  header.writeUInt32LE(3, 8); // type
  header.write("stapsdt\0", 12, "latin1");
  return Buffer.concat([header, head, text, Buffer.alloc((4 - (size % 4)) % 4)]);
}

function symbolTable(functions: readonly { name: string; start: number; end: number }[]): [Buffer, Buffer] {
  const STB_GLOBAL_STT_FUNC = 0x12;
  const TEXT_SECTION = 1;
  const symbols = Buffer.alloc((functions.length + 1) * SYM_SIZE);
  let strings = "\0";
  for (const [i, { name, start, end }] of functions.entries()) {
    const row = (i + 1) * SYM_SIZE;
    symbols.writeUInt32LE(strings.length, row);
    symbols[row + 4] = STB_GLOBAL_STT_FUNC;
    symbols.writeUInt16LE(TEXT_SECTION, row + 6);
    symbols.writeBigUInt64LE(BigInt(vaddr(start)), row + 8);
    symbols.writeBigUInt64LE(BigInt(end - start), row + 16);
    strings += `${name.replace(" ", "_")}\0`;
  }
  return [symbols, Buffer.from(strings, "latin1")];
}
