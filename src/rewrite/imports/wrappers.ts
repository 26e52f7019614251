/**
 * New code between a file and functions of the C library that may fork without running child handlers.
 *
 *     _Fork      calls the handler before a fork (it keeps signals out: guard/held-signals.ts), then the function; a child (0)
 *                calls the guard, the parent its handler, then both return
 *     syscall    the same where the number is that of fork, or of clone or clone3 without CLONE_VM; else it goes there by a
 *                jump. A call with a stack of its own for the child goes there as well: such a child returns to an address
 *                that it finds on that stack, if the program has thought of one, and never comes back here
 *     clone      without CLONE_VM: the child begins with code of ours, which calls the guard and goes on to the program's
 *                function. Where to is handed over on the child's own stack, of which glibc takes two words likewise. It is
 *                gone on to, and not called, since it may have an argument on the stack: so nothing of ours comes behind it in
 *                the parent, and signals are not kept out before it
 *     resolver   tells the loader where a wrapper is (imports.ts)
 *
 * They do nothing that may not be done in a signal handler. Registers and flags are what a call leaves anyhow: the
 * arguments go there as they came, and the result comes back as it is.
 */

import { type Vaddr, vaddr } from "../../address.js";
import { type CfaRows, DWARF_RSP } from "../../elf/cfa-rows.js";
import { CLONE_VM, SYS_clone, SYS_clone3, SYS_fork } from "../../facts/system-calls.js";
import { type AnyRegister, Assembler, at } from "../../x86/assembler.js";
import type { NamedCode } from "../new-code.js";
import type { ForkHandlers, Wrapper } from "./fork-handlers.js";

/** Functions that may be wrapped. */
export const wrappable = ["_Fork", "syscall", "clone", "__clone"] as const;

interface Wrappers {
  readonly bytes: Uint8Array;
  readonly wrappers: readonly Wrapper[];
  readonly named: readonly NamedCode[];
}

/**
 * The wrappers from link-time address `start` on, a multiple of 16; their length does not depend on the addresses.
 * @param wrapped names, and the words that hold the functions' addresses
 * @param handlers the functions that belong to a fork
 */
export function encodeWrappers(
  wrapped: readonly { readonly name: string; readonly slot: Vaddr }[],
  start: Vaddr,
  handlers: ForkHandlers,
): Wrappers {
  const pieces: Uint8Array[] = [];
  const wrappers: Wrapper[] = [];
  const named: NamedCode[] = [];
  let here: number = start;
  for (const { name, slot } of wrapped) {
    const code = new WrapperCode(vaddr(here), slot, handlers);
    if (name === "_Fork") code.fork();
    else if (name === "syscall") code.syscall();
    else code.clone();
    const made = code.finish();
    wrappers.push({ name, wrapper: vaddr(here), resolver: made.resolver });
    named.push({ name: `usdt_nop5.${name}`, start: vaddr(here), end: made.end, unwind: made.unwind });
    pieces.push(made.bytes);
    here += made.bytes.length;
  }
  return { bytes: Uint8Array.from(Buffer.concat(pieces)), wrappers, named };
}

class WrapperCode {
  readonly #asm: Assembler;
  #names = 0;
  readonly #rows: { readonly start: number; readonly offset: number }[] = [];

  constructor(
    start: Vaddr,
    readonly slot: Vaddr,
    readonly handlers: ForkHandlers,
  ) {
    this.#asm = new Assembler(start);
    this.#asm.op("endbr64");
    this.#cfa(8, start);
  }

  fork(): void {
    this.#callAndGuard(this.handlers);
  }

  /** edi is the number; rsi, rdx are the first arguments of the system call. */
  syscall(): void {
    const asm = this.#asm;
    asm.op("cmp", "edi", SYS_fork).jumpIf("e", "copies");
    asm.op("cmp", "edi", SYS_clone).jumpIf("e", "clone");
    asm.op("cmp", "edi", SYS_clone3).jumpIf("ne", "plain");
    this.#test("rsi").jumpIf("e", "plain");
    asm.op("mov", "r11", at("rsi", CLONE_ARGS_STACK));
    this.#test("r11").jumpIf("ne", "plain");
    asm.op("mov", "r11d", at("rsi"));
    asm.jump("flags");
    asm.label("clone");
    this.#test("rdx").jumpIf("ne", "plain");
    asm.op("mov", "r11d", "esi");
    asm.label("flags").op("test", "r11d", CLONE_VM).jumpIf("ne", "plain");
    asm.op("test", "r11d", CLONE_SETTLS).jumpIf("e", "copies");
    this.#callAndGuard({ ...this.handlers, prepare: undefined, parent: undefined });
    asm.label("plain");
    this.#through(JUMP);
    asm.label("copies");
    this.#callAndGuard(this.handlers);
  }

  /** clone(function rdi, stack rsi, flags edx, argument rcx, ...) */
  clone(): void {
    const asm = this.#asm;
    asm.op("mov", "eax", "edx").op("and", "eax", CLONE_VM).jumpIf("ne", "plain");
    this.#test("rdi").jumpIf("e", "plain");
    asm.op("mov", "rax", "rsi").op("and", "rax", -16).jumpIf("e", "plain");
    asm.op("mov", at("rax", -8), "rcx").op("mov", at("rax", -16), "rdi");
    asm.op("lea", "rsi", at("rax", -16)).op("mov", "rcx", "rsi").address("rdi", "child");
    asm.label("plain");
    this.#through(JUMP);
    asm.label("child").op("endbr64").op("sub", "rsp", 8);
    this.#cfa(16);
    this.#call(this.handlers.child);
    asm.op("add", "rsp", 8);
    this.#cfa(8);
    asm.op("mov", "rax", at("rdi")).op("mov", "rdi", at("rdi", 8)).raw([0xff, 0xe0]); // jmp rax
  }

  finish(): { bytes: Uint8Array; end: Vaddr; resolver: Vaddr; unwind: CfaRows } {
    const asm = this.#asm;
    asm.align(16);
    const resolver = vaddr(asm.here);
    asm.op("endbr64").raw([0x48, 0x8d, 0x05]); // lea rax, [rip + wrapper]
    this.#distance(vaddr(asm.base)).op("ret");
    const end = vaddr(asm.here);
    this.#cfa(8, resolver);
    asm.align(16);
    const rows = this.#rows;
    return {
      bytes: asm.finish(),
      end,
      resolver,
      unwind: {
        starts: rows.map((row) => vaddr(row.start)),
        registers: rows.map(() => DWARF_RSP),
        offsets: rows.map((row) => row.offset),
      },
    };
  }

  #callAndGuard({ prepare, parent, child }: ForkHandlers): void {
    const asm = this.#asm;
    const [inParent, end] = [this.#name("parent"), this.#name("end")];
    asm.op("sub", "rsp", 8);
    this.#cfa(16);
    if (prepare !== undefined) this.#call(prepare);
    this.#through(CALL);
    this.#test("eax").jumpIf("ne", inParent);
    this.#call(child);
    if (parent !== undefined) {
      asm.jump(end).label(inParent);
      this.#call(parent);
      asm.label(end);
    } else asm.label(inParent);
    asm.op("add", "rsp", 8);
    this.#cfa(8);
    asm.op("ret");
  }

  /** Jumps to, or calls, the function itself. */
  #through(opcode: readonly number[]): void {
    this.#asm.raw(opcode);
    this.#distance(this.slot);
  }

  #call(target: Vaddr): void {
    this.#asm.raw([0xe8]);
    this.#distance(target);
  }

  #name(what: string): string {
    return `${what} ${this.#names++}`;
  }

  #test(register: AnyRegister): Assembler {
    return this.#asm.op("test", register, register);
  }

  #distance(target: Vaddr): Assembler {
    const distance = target - (this.#asm.here + 4);
    if (distance !== (distance | 0)) throw new RangeError("a wrapper cannot reach what it needs");
    return this.#asm.raw([0, 8, 16, 24].map((shift) => (distance >> shift) & 0xff));
  }

  /** From here on the caller's frame is so far away. */
  #cfa(offset: number, from: number = this.#asm.here): void {
    if (this.#rows.at(-1)?.offset !== offset) this.#rows.push({ start: from, offset });
  }
}

/** `jmp *slot(%rip)`, `call *slot(%rip)`: what a distance of 32 bits follows. */
const JUMP = [0xff, 0x25];
const CALL = [0xff, 0x15];

/** The child gets another thread pointer: it would not find what its parent has left for it. */
const CLONE_SETTLS = 0x80000;

/** Where struct clone_args has the child's stack (include/uapi/linux/sched.h). */
const CLONE_ARGS_STACK = 40;
