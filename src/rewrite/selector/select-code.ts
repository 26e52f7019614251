/**
 * The code that sets the selector: it asks the vDSO which kernel this is.
 *
 *     entry      rsp leads to argc, argv, NULL, envp, NULL, auxv: the kernel has just written them, or the loader has
 *     library    argc in rdi, argv in rsi, if one can believe it: only where argc is small and argv can be an address.
 *                envp (rdx) is never read: dlopen hands over what `environ` is at that moment, which programs move. What
 *                the kernel wrote stands after argv; setenv and its like leave more than one NULL at the end of it
 *     auxv       the first pair of AT_SYSINFO_EHDR: where the vDSO is
 *     vDSO       an ELF file in memory. Its PT_NOTE, its note of type 0 and owner "Linux": LINUX_VERSION_CODE
 *
 * Nothing is read of the vDSO but its first page, which is there if anything of it is: its headers and notes stand
 * before its code, and what says otherwise is not believed. A vDSO of more than 16 program headers, or with notes
 * farther on, is unknown like none, and the selector stays 0, which is right on every kernel.
 *
 * No system call, no call, no memory written but what it pushes and the selector; all registers but the flags are as
 * they were. One counter bounds all loops.
 */
import type { Vaddr } from "../../address.js";
import { Assembler, at, byte, type RegisterName } from "../../x86/assembler.js";

/** The symbol of the code. */
const SELECT = "usdt_nop5.select";

/** How it is called. */
export type Caller = "entry" | "library";

/** As LINUX_VERSION_CODE. On these kernels the nop5 twin runs. */
const FIRST = (6 << 16) | (18 << 8);
const END = (7 << 16) | (2 << 8);

/** At the most so many steps in all loops: more than there can be variables, and pairs, and notes. */
const MOST_STEPS = 1 << 20;
/** argc is below that. */
const MOST_ARGUMENTS = 1 << 24;

const AT_SYSINFO_EHDR = 33;

const PAGE = 4096;
/** 0x7f, "ELF". */
const ELF_MAGIC = 0x464c457f;
const E_PHOFF = 32;
/** Two words of 16 bits: e_phentsize, e_phnum. */
const E_PHENTSIZE = 54;
const PHENTSIZE = 56;
const MOST_HEADERS = 16;
const PT_NOTE = 4;
const P_OFFSET = 8;
const P_FILESZ = 32;

/** n_namesz, n_descsz, n_type. */
const NOTE_HEADER = 12;
/** "Linux" and a NUL: "Linu", then "x" and the NUL. Two bytes follow, up to a multiple of four, that may be anything. */
const OWNER_SIZE = 6;
const LINU = 0x756e694c;
const X = 0x0078;
const DESC = NOTE_HEADER + 8;
const DESC_SIZE = 4;

const USED: readonly RegisterName[] = ["rax", "rcx", "rdx", "rsi", "rdi"];

/**
 * The code, as a unit for the linker.
 * @param selector the byte that it sets
 * @param next where it goes on, with all registers as they were; undefined: it returns
 */
export function selectCode(caller: Caller, selector: Vaddr, next: Vaddr | undefined): Assembler {
  const code = new Assembler({ name: SELECT, align: 16 });
  // At an entry nothing called it: there is no frame to find.
  if (caller === "library") code.entry();
  code.op("endbr64");
  for (const register of USED) code.push(register);
  if (caller === "entry") fromStack(code);
  else fromArguments(code);
  overEnvironment(code, caller);
  findVdso(code);
  findNotes(code);
  findVersion(code);
  code
    .op("sub", "eax", FIRST)
    .op("cmp", "eax", END - FIRST)
    .jumpIfShort("ae", "done");
  code.leads([{ bytes: [0xc6, 0x05, 0, 0, 0, 0, 1], field: 2, width: 4 }], selector);
  code.label("done");
  for (const register of USED.toReversed()) code.pop(register);
  return next === undefined ? code.op("ret") : code.jump(next);
}

/** rdi argc, rsi argv. */
function fromStack(code: Assembler): void {
  const pushed = 8 * USED.length;
  code.op("mov", "rdi", at("rsp", pushed)).op("lea", "rsi", at("rsp", pushed + 8));
}

function fromArguments(code: Assembler): void {
  code.op("cmp", "rdi", MOST_ARGUMENTS).jumpIf("ae", "done");
  code.op("test", "rsi", "rsi").jumpIf("e", "done").op("test", "esi", 7).jumpIf("ne", "done");
}

/** From argv to the auxiliary vector. */
function overEnvironment(code: Assembler, caller: Caller): void {
  code.op("mov", "ecx", MOST_STEPS);
  code.op("shl", "rdi", 3).op("add", "rsi", byte(8)).op("add", "rsi", "rdi");
  step(code.label("variable"));
  code.op("mov", "rax", at("rsi")).op("add", "rsi", byte(8)).op("test", "rax", "rax").jumpIfShort("ne", "variable");
  // Several NULLs cannot be told from the end of the pairs, which nothing stands after. At an entry the loader leaves them
  // where it takes variables away from a setuid program: then nothing is known.
  if (caller === "entry") return;
  step(code.label("empty"));
  code.op("mov", "rax", at("rsi")).op("test", "rax", "rax").jumpIfShort("ne", "pair");
  code.op("add", "rsi", byte(8)).jumpShort("empty");
}

/** rdi where it is said to be. */
function findVdso(code: Assembler): void {
  step(code.label("pair"));
  code.op("mov", "rax", at("rsi")).op("mov", "rdi", at("rsi", 8)).op("add", "rsi", byte(16));
  code.op("test", "rax", "rax").jumpIf("e", "done");
  code.op("cmp", "rax", byte(AT_SYSINFO_EHDR)).jumpIfShort("ne", "pair");
  // It begins at a page: an address that does not is something else.
  code
    .op("test", "rdi", "rdi")
    .jumpIf("e", "done")
    .op("test", "edi", PAGE - 1)
    .jumpIf("ne", "done");
}

/** rsi where its notes begin, rdi where they end. */
function findNotes(code: Assembler): void {
  code.op("mov", "eax", at("rdi")).op("cmp", "eax", ELF_MAGIC).jumpIf("ne", "done");
  code.op("mov", "eax", at("rdi", E_PHENTSIZE)).op("mov", "edx", "eax").op("shr", "edx", 16);
  code.op("and", "eax", 0xffff).op("cmp", "eax", byte(PHENTSIZE)).jumpIf("ne", "done");
  code.op("cmp", "edx", byte(MOST_HEADERS)).jumpIf("a", "done");
  code.op("mov", "rsi", at("rdi", E_PHOFF));
  code.op("cmp", "rsi", PAGE - MOST_HEADERS * PHENTSIZE).jumpIf("a", "done");
  code.op("add", "rsi", "rdi");
  step(code.label("header"));
  code.op("sub", "edx", byte(1)).jumpIf("b", "done");
  code.op("mov", "eax", at("rsi")).op("add", "rsi", byte(PHENTSIZE));
  code.op("cmp", "eax", byte(PT_NOTE)).jumpIfShort("ne", "header");
  code
    .op("mov", "rax", at("rsi", P_OFFSET - PHENTSIZE))
    .op("cmp", "rax", PAGE)
    .jumpIf("a", "done");
  code
    .op("mov", "rdx", at("rsi", P_FILESZ - PHENTSIZE))
    .op("cmp", "rdx", PAGE)
    .jumpIf("a", "done");
  code.op("add", "rdx", "rax").op("cmp", "rdx", PAGE).jumpIf("a", "done");
  code.op("mov", "rsi", "rdi").op("add", "rsi", "rax").op("add", "rdi", "rdx");
}

/** eax what the note says. */
function findVersion(code: Assembler): void {
  step(code.label("note"));
  code.op("lea", "rax", at("rsi", NOTE_HEADER)).op("cmp", "rax", "rdi").jumpIf("a", "done");
  code.op("mov", "eax", at("rsi")).op("cmp", "eax", PAGE).jumpIf("a", "done");
  code.op("mov", "edx", at("rsi", 4)).op("cmp", "edx", PAGE).jumpIf("a", "done");
  code
    .op("cmp", "eax", byte(OWNER_SIZE))
    .jumpIfShort("ne", "next")
    .op("cmp", "edx", byte(DESC_SIZE))
    .jumpIfShort("ne", "next");
  code
    .op("lea", "rax", at("rsi", DESC + DESC_SIZE))
    .op("cmp", "rax", "rdi")
    .jumpIf("a", "done");
  code.op("mov", "eax", at("rsi", 8)).op("test", "eax", "eax").jumpIfShort("ne", "other");
  code.op("mov", "eax", at("rsi", NOTE_HEADER)).op("cmp", "eax", LINU).jumpIfShort("ne", "other");
  code
    .op("mov", "eax", at("rsi", NOTE_HEADER + 4))
    .op("and", "eax", 0xffff)
    .op("cmp", "eax", byte(X));
  code.jumpIfShort("e", "version");
  code.label("other").op("mov", "eax", at("rsi"));
  // The name and what the note holds each take up a multiple of four bytes.
  code
    .label("next")
    .op("add", "eax", byte(3))
    .op("and", "eax", byte(-4))
    .op("add", "edx", byte(3))
    .op("and", "edx", byte(-4));
  code.op("add", "rsi", byte(NOTE_HEADER)).op("add", "rsi", "rax").op("add", "rsi", "rdx").jump("note");
  code.label("version").op("mov", "eax", at("rsi", DESC));
}

/** One step less of all that there may be. */
const step = (code: Assembler): Assembler => code.op("dec", "ecx").jumpIf("e", "done");
