/**
 * New code between a file and functions of the C library that may fork without running child handlers.
 *
 *     _Fork      calls the handler before a fork (it keeps signals out: handler/held-signals.ts), then the function; a child (0)
 *                calls the guard, the parent its handler, then both return
 *     syscall    the same where the number is that of fork, or of clone or clone3 without CLONE_VM; else it goes there by a
 *                jump. A call with a stack of its own for the child goes there as well: such a child returns to an address
 *                that it finds on that stack, if the program has thought of one, and never comes back here
 *     clone      without CLONE_VM: the child begins with code of ours, which calls the guard and goes on to the program's
 *                function. Where to is handed over on the child's own stack, of which glibc takes two words likewise. It is
 *                gone on to, and not called, since it may have an argument on the stack: so nothing of ours comes after it in
 *                the parent, and signals are not kept out before it
 *     resolver   tells the loader where a wrapper is (imports.ts)
 *
 * They do nothing that may not be done in a signal handler. Registers and flags are what a call leaves anyhow: the
 * arguments go there as they came, and the result comes back as it is.
 */

import type { Vaddr } from "../../../address.js";
import { CLONE_VM, SYS_clone, SYS_clone3, SYS_fork } from "../../../facts/system-calls.js";
import { type AnyRegister, Assembler, at } from "../../../x86/assembler.js";
import { FORK_GUARD, type ForkHandlers } from "./fork-handlers.js";

/** Functions that may be wrapped. */
export const wrappable = ["_Fork", "syscall", "clone", "__clone"] as const;

/** Symbols: the wrapper of a function, and what tells the loader where that is. */
export const wrapperOf = (name: string): string => `usdt_nop5.${name}`;
export const resolverOf = (name: string): string => `resolver of ${name}`;

/**
 * The wrapper of a function, with its resolver.
 * @param slot the word that holds the function's address
 */
export function wrapperFor({ name, slot }: { name: string; slot: Vaddr }, handlers: ForkHandlers): Assembler {
  const code = new WrapperCode(name, slot, handlers);
  if (name === "_Fork") code.fork();
  else if (name === "syscall") code.syscall();
  else code.clone();
  return code.withResolver();
}

class WrapperCode {
  readonly #asm: Assembler;
  #names = 0;

  constructor(
    readonly name: string,
    readonly slot: Vaddr,
    readonly handlers: ForkHandlers,
  ) {
    this.#asm = new Assembler({ name: wrapperOf(name), align: 16 }).entry().op("endbr64");
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
    this.#callAndGuard({ prepare: undefined, parent: undefined });
    asm.label("plain").jumpThrough(this.slot);
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
    asm.label("plain").jumpThrough(this.slot);
    asm.label("child").op("endbr64").lower(8).call(FORK_GUARD).raise(8);
    asm.op("mov", "rax", at("rdi")).op("mov", "rdi", at("rdi", 8)).raw(JUMP_RAX);
  }

  withResolver(): Assembler {
    const asm = this.#asm.align(16).symbol(resolverOf(this.name));
    return asm.op("endbr64").address("rax", wrapperOf(this.name)).op("ret");
  }

  #callAndGuard({ prepare, parent }: ForkHandlers): void {
    const asm = this.#asm;
    const [inParent, end] = [this.#label("parent"), this.#label("end")];
    asm.lower(8);
    if (prepare !== undefined) asm.call(prepare);
    asm.callThrough(this.slot);
    this.#test("eax").jumpIf("ne", inParent);
    asm.call(FORK_GUARD);
    if (parent !== undefined) asm.jump(end).label(inParent).call(parent).label(end);
    else asm.label(inParent);
    asm.raise(8).op("ret");
  }

  #label(what: string): string {
    return `${what} ${this.#names++}`;
  }

  #test(register: AnyRegister): Assembler {
    return this.#asm.op("test", register, register);
  }
}

const JUMP_RAX = [0xff, 0xe0];

/** The child gets another thread pointer: it would not find what its parent has left for it. */
const CLONE_SETTLS = 0x80000;

/** Where struct clone_args has the child's stack (include/uapi/linux/sched.h). */
const CLONE_ARGS_STACK = 40;
