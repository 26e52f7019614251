/**
 * Code of functions that keep all registers and the flags, written instruction by instruction together with the rows that
 * tell an unwinder where the caller's frame is.
 */
import { type Vaddr, vaddr } from "../address.js";
import { type CfaRows, DWARF_RSP } from "../elf/cfa-rows.js";
import { type AnyRegister, Assembler, type RegisterName } from "../x86/assembler.js";

const RETURN_ADDRESS = 8;
const low = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"] as const;

export class HandlerCode {
  protected readonly asm: Assembler;
  readonly #rows: { readonly start: number; readonly offset: number }[] = [];
  #depth = 0;

  /** @param start link-time address of the function's first byte */
  constructor(protected readonly start: Vaddr) {
    this.asm = new Assembler(start);
    this.stack(RETURN_ADDRESS);
  }

  /** How far away the caller's frame is from rsp, in bytes. */
  protected get depth(): number {
    return this.#depth;
  }

  /** From here on it is so much farther away. */
  protected stack(by: number): void {
    this.#depth += by;
    if (this.#rows.at(-1)?.offset !== this.#depth) this.#rows.push({ start: this.asm.here, offset: this.#depth });
  }

  protected push(register: AnyRegister): void {
    this.asm.op("push", register);
    this.stack(8);
  }

  protected pop(register: AnyRegister): void {
    this.asm.op("pop", register);
    this.stack(-8);
  }

  /** An endbr64, then the flags and these registers go to the stack. */
  protected enter(registers: readonly RegisterName[]): void {
    this.asm.op("endbr64").op("pushfq");
    this.stack(8);
    for (const register of registers) this.push(register);
  }

  /** They come back, and it returns. What follows is for whoever jumps there, with the stack as it was before. */
  protected leave(registers: readonly RegisterName[]): void {
    const { depth } = this;
    for (const register of registers.toReversed()) this.pop(register);
    this.asm.op("popfq");
    this.stack(-8);
    this.asm.op("ret");
    this.stack(depth - this.depth);
  }

  /** `lea register, [rip + ...]` for an address that stands elsewhere in the file. @throws RangeError where that is too far */
  protected linkTime(register: (typeof low)[number], address: Vaddr): Assembler {
    const opcode = [0x48, 0x8d, 0x05 | (low.indexOf(register) << 3)];
    const distance = address - (this.asm.here + opcode.length + 4);
    if (distance !== (distance | 0)) throw new RangeError(`${register} cannot reach what the fork guard needs`);
    return this.asm.raw(opcode).raw([0, 8, 16, 24].map((shift) => (distance >> shift) & 0xff));
  }

  protected rows(): CfaRows {
    return {
      starts: this.#rows.map((row) => vaddr(row.start)),
      registers: this.#rows.map(() => DWARF_RSP),
      offsets: this.#rows.map((row) => row.offset),
    };
  }
}
