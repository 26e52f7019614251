/**
 * Programs of plain shapes, made from a number: what compilers write and people by hand, nothing that tries to be clever.
 * Functions with a few labels and several probes, branches forward, counted loops, calls, switches by a table; with and without
 * unwind rules, symbols, padding between functions. And C, for whatever gcc and clang make of it.
 *
 * A program prints what its functions compute. Rewriting must leave that alone, and verify must say so.
 */
import { Random } from "../../src/emulate/machine-states.js";

export interface PlainProgram {
  readonly name: string;
  readonly source: string;
  readonly compiler: "gcc" | "clang";
  readonly flags: readonly string[];
  readonly strip: boolean;
}

export function plainProgram(seed: number): PlainProgram {
  const choices = new Choices(seed);
  const isAssembly = seed % 3 !== 2;
  const link = choices.of([["-no-pie"], ["-pie", "-fPIE"], ["-pie", "-fPIE"], ["-static", "-no-pie"]]);
  const level = choices.of(["-O0", "-O1", "-O2", "-O3", "-Os"]);
  const compiler = isAssembly ? "gcc" : choices.of(["gcc", "gcc", "clang"] as const);
  const extra = choices.of([[], [], ["-falign-functions=1"], ["-fno-omit-frame-pointer"], ["-fcf-protection=none"]]);
  const more = compiler === "clang" && extra[0] === "-falign-functions=1" ? [] : extra;
  const unwind = choices.oneIn(4) ? ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"] : [];
  const source = isAssembly ? assemblyProgram(choices) : cProgram(choices);
  return {
    name: `${seed} ${isAssembly ? "assembly" : compiler} ${link.join(" ")} ${level}`,
    source,
    compiler,
    flags: isAssembly ? [...link, "-O1"] : [...link, level, ...more, ...unwind],
    strip: choices.oneIn(4),
  };
}

class Choices {
  private readonly random: Random;

  constructor(seed: number) {
    this.random = new Random(7000 + seed);
  }

  below(n: number): number {
    return this.random.below(n);
  }

  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

const many = (n: number, one: (i: number) => string): string => Array.from({ length: n }, (_, i) => one(i)).join("\n");

const INPUTS = [0, 1, 2, 3, 5, -1, 7, 100, 4096, -77];

/** C that calls f0 to f(n-1) with all inputs. */
const mainFor = (n: number): string => `
#include <stdio.h>
${many(n, (i) => `int f${i}(int, int);`)}
int main(void) {
  static const int in[] = { ${INPUTS.join(", ")} };
  unsigned sum = 0;
  for (unsigned i = 0; i < ${INPUTS.length}; i++)
    for (unsigned j = 0; j < ${INPUTS.length}; j++) {
      ${many(n, (k) => `sum = sum * 31 + (unsigned)f${k}(in[i], in[j]);`)}
    }
  printf("%x\\n", sum);
}
`;

/* Assembly, as a top-level asm of the C above: arguments in edi and esi, the result in eax, loops counted down in one register. */

function assemblyProgram(choices: Choices): string {
  const count = choices.between(3, 9);
  const functions = Array.from({ length: count }, (_, i) => new AssemblyFunction(choices, i).text());
  const lines = [siteMacro, ".text", ...functions, helpers, ".text"].join("\n").split("\n");
  return `int plain_counter;\n${mainFor(count)}\n__asm__(\n${lines.map((line) => JSON.stringify(`${line}\n`)).join("\n")}\n);\n`;
}

const siteMacro = `.macro SITE name, args
990: nop
.pushsection .note.stapsdt,"","note"
.balign 4
.4byte 8, 994f-993f, 3
.asciz "stapsdt"
993: .8byte 990b, _.stapsdt.base, 0
.asciz "plain"
.asciz "\\name"
.asciz "\\args"
994: .balign 4
.popsection
.endm
.pushsection .stapsdt.base,"aG","progbits",.stapsdt.base,comdat
.weak _.stapsdt.base
.hidden _.stapsdt.base
_.stapsdt.base: .space 1
.size _.stapsdt.base, 1
.popsection`;

const helpers = `.type helper,@function
helper: .cfi_startproc
 lea 3(%rdi,%rsi),%eax
 xor $0x55,%eax
 ret
 .cfi_endproc
.size helper,.-helper`;

class AssemblyFunction {
  private readonly hasCfi: boolean;
  private readonly hasSymbol: boolean;
  private readonly frame: "none" | "saved" | "locals" | "pointer";
  private sites = 0;
  private labels = 0;

  constructor(
    private readonly choices: Choices,
    private readonly index: number,
  ) {
    this.hasCfi = !choices.oneIn(3);
    this.hasSymbol = !choices.oneIn(6);
    this.frame = choices.of(["none", "none", "saved", "locals", "pointer"] as const);
  }

  text(): string {
    const { choices, index } = this;
    this.labels = choices.between(2, 6);
    const lines = [
      choices.oneIn(3) ? "" : `.p2align ${choices.of([2, 3, 4, 4, 5])}`,
      `.globl f${index}`,
      this.hasSymbol ? `.type f${index},@function` : "",
      `f${index}:`,
      this.cfi("startproc"),
      choices.oneIn(2) ? " endbr64" : "",
      ...this.prologue(),
      choices.oneIn(4) ? this.site() : "",
      " mov %edi,%eax",
      ` mov $${choices.between(2, 6)},${this.counter}`,
      ...Array.from({ length: this.labels }, (_, i) => this.block(i)),
      ...this.epilogue(),
      this.cfi("endproc"),
      this.hasSymbol ? `.size f${index},.-f${index}` : "",
    ];
    return lines.filter((line) => line !== "").join("\n");
  }

  private cfi(directive: string): string {
    return this.hasCfi ? ` .cfi_${directive}` : "";
  }

  /** A register that a call leaves alone, where there are calls. */
  private get counter(): string {
    return this.frame === "none" ? "%r10d" : "%ebx";
  }

  private prologue(): string[] {
    const saved = [" push %rbx", this.cfi("adjust_cfa_offset 8"), this.cfi("offset %rbx,-16")];
    switch (this.frame) {
      case "none":
        return [];
      case "saved":
        return saved;
      case "locals":
        return [...saved, " sub $32,%rsp", this.cfi("adjust_cfa_offset 32")];
      case "pointer":
        return [
          " push %rbp",
          this.cfi("def_cfa_offset 16"),
          this.cfi("offset %rbp,-16"),
          " mov %rsp,%rbp",
          this.cfi("def_cfa_register %rbp"),
          " push %rbx",
          this.cfi("offset %rbx,-24"),
          " sub $24,%rsp",
        ];
    }
  }

  /** With the rules for what stands behind it. */
  private epilogue(): string[] {
    const last = this.choices.oneIn(4) ? [this.site()] : [];
    const ret = [...last, " ret"];
    const popped = [" pop %rbx", this.cfi("adjust_cfa_offset -8"), this.cfi("restore %rbx")];
    const state = (lines: string[]): string[] => [this.cfi("remember_state"), ...lines, this.cfi("restore_state")];
    switch (this.frame) {
      case "none":
        return ret;
      case "saved":
        return state([...popped, ...ret]);
      case "locals":
        return state([" add $32,%rsp", this.cfi("adjust_cfa_offset -32"), ...popped, ...ret]);
      case "pointer":
        return state([
          " mov -8(%rbp),%rbx",
          " leave",
          this.cfi("def_cfa %rsp,8"),
          this.cfi("restore %rbx"),
          this.cfi("restore %rbp"),
          ...ret,
        ]);
    }
  }

  private block(number: number): string {
    const { choices } = this;
    const lines = [`.Lf${this.index}_${number}:`];
    const count = choices.between(0, 5);
    for (let i = 0; i < count; i++) lines.push(choices.oneIn(3) ? this.site() : this.instruction());
    lines.push(...this.way(number));
    return lines.join("\n");
  }

  private site(): string {
    const argument = this.choices.of(["", "-4@%edi", "-4@%eax 4@%esi", "-4@$7", "8@%rdi -4@%esi"]);
    return ` SITE f${this.index}_${this.sites++}, "${argument}"`;
  }

  private instruction(): string {
    const { choices } = this;
    const register = (): string => choices.of(["%eax", "%ecx", "%edx", "%esi", "%edi", "%r8d", "%r9d"]);
    const value = choices.of([1, 3, 7, 0x33, 0x1234, 0x10001]);
    const to = choices.of(["%eax", "%eax", "%esi", "%edi"]);
    switch (choices.below(this.frame === "none" ? 8 : 10)) {
      case 0:
        return ` add $${value},${to}`;
      case 1:
        return ` imul $${value},%edi,%eax`;
      case 2:
        return ` xor %esi,${to}`;
      case 3:
        return ` lea ${value}(%rax,%rdi),%eax`;
      case 4:
        return ` mov %eax,${register()}`;
      case 5:
        return choices.oneIn(2) ? " shl $3,%eax" : " movslq %eax,%rdi";
      case 6:
        return ` add counter(%rip),%eax\n addl $1,counter(%rip)`.replaceAll("counter", "plain_counter");
      case 7:
        return choices.oneIn(2) ? ` mov %edi,-16(%rsp)\n add -16(%rsp),%eax` : " neg %eax";
      case 8:
        return this.frame === "saved" ? " inc %eax" : " mov %eax,(%rsp)\n add (%rsp),%eax";
      default:
        return " call helper\n mov %eax,%edi";
    }
  }

  /** How a block ends: it goes on, or forward, or back as long as the counter is above zero. */
  private way(number: number): string[] {
    const { choices, index, labels } = this;
    const label = (n: number): string => `.Lf${index}_${n}`;
    const isLast = number === labels - 1;
    const forward = (): string => label(choices.between(number + 1, labels - 1));
    const condition = choices.of(["je", "jne", "jg", "jb", "js", "jle"]);
    const test = choices.of([" test %esi,%esi", " cmp $3,%edi", " cmp %esi,%eax", " test $1,%al"]);
    switch (choices.below(7)) {
      case 0:
        return [` sub $1,${this.counter}`, ` jg ${label(choices.between(0, number))}`];
      case 1:
      case 2:
        return isLast ? [] : [test, ` ${condition} ${forward()}`];
      case 3:
        // What stands behind a jump has to be reached otherwise.
        return isLast || number + 2 >= labels
          ? []
          : [test, ` ${condition} ${label(number + 1)}`, ` jmp ${label(number + 2)}`];
      case 4:
        return isLast ? [] : [test, ` ${condition} ${label(number + 1)}`, ...this.epilogue()];
      case 5:
        return isLast || choices.oneIn(2) ? [] : this.table(number, label);
      default:
        return [];
    }
  }

  private table(number: number, label: (n: number) => string): string[] {
    const own = `.Lt${this.index}_${number}`;
    const targets = Array.from({ length: 4 }, () => label(this.choices.between(number + 1, this.labels - 1)));
    return [
      " mov %esi,%ecx",
      " cmp $3,%ecx",
      ` ja ${label(number + 1)}`,
      ` lea ${own}(%rip),%rdx`,
      " movslq (%rdx,%rcx,4),%rcx",
      " add %rdx,%rcx",
      choicesNotrack(this.choices),
      ".pushsection .rodata",
      ".balign 4",
      `${own}:`,
      ...targets.map((target) => `.long ${target}-${own}`),
      ".popsection",
    ];
  }
}

const choicesNotrack = (choices: Choices): string => (choices.oneIn(2) ? " notrack jmp *%rcx" : " jmp *%rcx");

function cProgram(choices: Choices): string {
  const count = choices.between(3, 8);
  const functions = Array.from({ length: count }, (_, i) => cFunction(choices, i));
  return `#include <sys/sdt.h>
static volatile int sink; static int table[64];
static __attribute__((noinline)) unsigned helper(unsigned a, unsigned b) { sink += (int)b; return (a ^ 0x55) + b; }
${functions.join("\n")}
${mainFor(count)}`;
}

function cFunction(choices: Choices, index: number): string {
  let sites = 0;
  const names = ["a", "b", "x", "y"];
  const name = (): string => choices.of(names);
  const expression = (): string =>
    choices.of([
      `${name()} + ${name()} * ${choices.below(9)}u`,
      `${name()} ^ ${choices.of([1, 77, 4096])}u`,
      `(${name()} >> ${choices.between(1, 7)}) - ${name()}`,
      `(unsigned)table[${name()} & 63]`,
      `helper(${name()}, ${name()} & 3)`,
    ]);
  const condition = (): string =>
    `${name()} ${choices.of(["<", ">", "==", "!="])} ${choices.of(["3u", "b", "100u", "0u"])}`;
  const probe = (): string =>
    choices.of([
      `DTRACE_PROBE(plain, f${index}_${sites++});`,
      `DTRACE_PROBE1(plain, f${index}_${sites++}, ${name()});`,
      `DTRACE_PROBE2(plain, f${index}_${sites++}, ${name()}, (int)${name()});`,
    ]);
  const statement = (depth: number): string => {
    const body = (): string => statements(depth + 1, choices.between(1, 3));
    switch (choices.below(depth > 2 ? 4 : 9)) {
      case 0:
      case 1:
        return probe();
      case 2:
        return `${name()} = ${expression()};`;
      case 3:
        return choices.oneIn(2) ? `sink += (int)${name()};` : `table[${name()} & 63] ^= (int)${name()};`;
      case 4:
        return `if (${condition()}) { ${body()} } else { ${body()} }`;
      case 5:
        return `if (${condition()}) { ${body()} }`;
      case 6:
        return `for (unsigned i${depth} = 0; i${depth} < ${choices.between(1, 5)}; i${depth}++) { ${body()} }`;
      case 7:
        return `switch (${name()} & 7) { ${many(choices.between(3, 7), (i) => `case ${i}: ${body()} ${choices.oneIn(3) ? "" : "break;"}`)} }`;
      default:
        return `if (${condition()}) return (int)(${expression()});`;
    }
  };
  const statements = (depth: number, n: number): string => many(n, () => statement(depth));
  return `__attribute__((noinline)) int f${index}(int p, int q) {
unsigned a = (unsigned)p, b = (unsigned)q, x = 1, y = a ^ 5u;
${probe()}
${statements(0, choices.between(3, 7))}
return (int)(a + b * 3u + x * 5u + y * 7u); }`;
}
