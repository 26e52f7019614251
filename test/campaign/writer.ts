/**
 * A function in assembly while it is written: code, what stands before and behind it, data, call frame information.
 *
 * Arguments are those of `long f(long selector, long x, long *memory)`. Bodies count in eax, read esi and (rdx); what decides
 * where they are entered uses rcx (the target), rax (a table's entry) and r8 to r11.
 */
import type { Flavour } from "./function.js";
import type { Random } from "./random.js";

export type Frame = "none" | "sub" | "rbp";

export class Writer {
  readonly code: string[] = [];
  readonly before: string[] = [];
  readonly behind: string[] = [];
  readonly data: string[] = [];
  sites = 0;
  frame: Frame = "none";
  private names = 0;

  constructor(
    readonly name: string,
    readonly random: Random,
    readonly flavour: Flavour,
  ) {}

  /** A local label of this function. */
  label(what: string): string {
    return `.L${this.name}_${what}`;
  }

  /** A local label that nobody has yet. */
  fresh(): string {
    return this.label(`x${this.names++}`);
  }

  /** A name for a function that belongs to this one. */
  callee(what: string): string {
    return `${this.name}_${what}${this.names++}`;
  }

  /** Writes another part of the same function: labels stay distinct. */
  inner(): Writer {
    const inner = new Writer(this.name, this.random, this.flavour);
    inner.names = 1000;
    return inner;
  }

  emit(...lines: readonly string[]): void {
    for (const line of lines) this.code.push(line.endsWith(":") ? line : `  ${line}`);
  }

  cfi(directive: string): void {
    if (this.flavour.cfi) this.code.push(`  .cfi_${directive}`);
  }

  site(): void {
    const args = this.random.pick(["", "4@%eax", "-4@%esi", "8@%rdi -4@%eax", "4@$7"]);
    this.emit(`SITE ${this.name}_${this.sites++}, "${args}"`);
  }

  push(register: string): void {
    this.emit(`push ${register}`);
    if (this.frame !== "rbp") this.cfi("adjust_cfa_offset 8");
  }

  pop(register: string): void {
    this.emit(`pop ${register}`);
    if (this.frame !== "rbp") this.cfi("adjust_cfa_offset -8");
  }

  /** Where a value may be kept on the stack: 32 bytes, as an operand; below rsp where there is no frame. */
  slot(offset: number): string {
    if (this.frame === "none") return `${offset - 64}(%rsp)`;
    return this.frame === "sub" ? `${offset}(%rsp)` : `${offset - 40}(%rbp)`;
  }

  open(frame: Frame): void {
    this.frame = frame;
    if (frame === "sub") {
      this.emit("sub $40,%rsp");
      this.cfi("adjust_cfa_offset 40");
    } else if (frame === "rbp") {
      this.emit("push %rbp");
      this.cfi("def_cfa_offset 16");
      this.cfi("offset 6,-16");
      this.emit("mov %rsp,%rbp");
      this.cfi("def_cfa_register 6");
      this.emit("sub $48,%rsp");
    }
  }

  close(): void {
    if (this.frame === "sub") {
      this.emit("add $40,%rsp");
      this.cfi("adjust_cfa_offset -40");
    } else if (this.frame === "rbp") {
      this.emit("leave");
      this.cfi("def_cfa 7,8");
    }
    this.emit("ret");
  }

  /** Another function, before or behind this one. */
  other(name: string, lines: readonly string[]): void {
    const side = this.random.chance(0.5) ? this.before : this.behind;
    side.push(...this.wrapped(name, lines));
  }

  wrapped(name: string, lines: readonly string[]): string[] {
    const [start, end] = this.flavour.cfi ? ["  .cfi_startproc", "  .cfi_endproc"] : ["", ""];
    const aligned = this.random.chance(0.7) ? "  .p2align 4" : "";
    return [
      "  .text",
      aligned,
      `  .type ${name},@function`,
      `${name}:`,
      start,
      ...lines,
      end,
      `  .size ${name},.-${name}`,
    ].filter((line) => line !== "");
  }

  /** All of it, this function's entry in the driver's list included. */
  text(selectors: number): string {
    return [
      ...this.before,
      ...this.wrapped(this.name, this.code),
      ...this.behind,
      ...this.data,
      `  FUNCTION ${this.name},${selectors}`,
      "",
    ].join("\n");
  }
}
