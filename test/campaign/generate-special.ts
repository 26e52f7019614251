/**
 * Functions that are unusual in another way than by a table: somebody knows an instruction's address, or what lies below the
 * stack pointer, or where a callee returns to.
 */

import { type Flavour, type GeneratedFunction, plain } from "./function.js";
import { body, seed } from "./generate-body.js";
import type { Random } from "./random.js";
import { Writer } from "./writer.js";

interface Special {
  readonly assumption?: string;
  /** @returns how many selectors it has */
  readonly write: (w: Writer) => number;
}

/** Words that name addresses inside: code before or behind a site cannot be entered there, as far as a reader can tell. */
function pin(w: Writer, label: string): void {
  if (w.random.chance(0.6)) w.data.push('  .section .data.rel.ro,"aw"', "  .balign 8", `  .quad ${label}`, "  .text");
}

/** A place inside that a word names: what stands before it cannot be overwritten together with what stands behind. */
function pinned(w: Writer): void {
  const label = w.fresh();
  w.emit(`${label}:`);
  pin(w, label);
}

/** Which instruction may fault, and where to go on then. */
function faults(w: Writer, at: string, go: string): void {
  if (w.random.chance(0.5))
    w.data.push('  .section faults_relative,"a"', "  .balign 4", `  .long ${at}-., ${go}-.`, "  .text");
  else w.data.push('  .section faults_absolute,"aw"', "  .balign 8", `  .quad ${at}, ${go}`, "  .text");
}

export const specials: Readonly<Record<string, Special>> = {
  "faulting load with a handler": {
    write: (w) => {
      const [at, go, behind] = [w.fresh(), w.fresh(), w.fresh()];
      const before = w.random.chance(0.5);
      seed(w);
      // The second selector reads where nothing is.
      w.emit("mov %rdx,%r9", "test %edi,%edi", "cmovne %rdi,%r9");
      const load = w.random.pick(["mov (%r9),%ecx", "mov 4(%r9),%ecx", "add (%r9),%eax", "movzbl (%r9),%ecx"]);
      if (before) {
        w.emit(`${at}:`, load);
        w.site();
        w.emit(`${behind}:`, "inc %eax");
        pin(w, behind);
      } else {
        pinned(w);
        w.site();
        if (w.random.chance(0.3)) w.emit("inc %eax");
        w.emit(`${at}:`, load);
      }
      faults(w, at, go);
      body(w, [w.label("0"), go]);
      return 2;
    },
  },
  "faulting store with a handler": {
    write: (w) => {
      const [at, go] = [w.fresh(), w.fresh()];
      seed(w);
      w.emit("lea 24(%rdx),%r9", "test %edi,%edi", "cmovne %rdi,%r9");
      const store = w.random.pick(["mov %eax,(%r9)", "addl $4,(%r9)", "movb $9,8(%r9)"]);
      if (w.random.chance(0.5)) {
        w.emit(`${at}:`, store);
        w.site();
        pinned(w);
      } else {
        pinned(w);
        w.site();
        w.emit(`${at}:`, store);
      }
      w.emit("add $3,%eax");
      faults(w, at, go);
      body(w, [go, w.label("1")]);
      return 2;
    },
  },
  "callee reads its return address": {
    write: (w) => {
      const callee = w.callee("look");
      const read = w.random.pick([
        ["  mov (%rsp),%rcx"],
        ["  lea 8(%rsp),%rcx", "  mov -8(%rcx),%rcx"],
        ["  push %rbp", "  mov %rsp,%rbp", "  mov 8(%rbp),%rcx", "  pop %rbp"],
        ["  pop %rcx", "  push %rcx"],
        ["  mov %rsp,%rcx", "  mov %rcx,-8(%rsp)", "  mov -8(%rsp),%rcx", "  mov (%rcx),%rcx"],
      ]);
      w.other(callee, [...read, `  lea ${w.name}(%rip),%r9`, "  sub %r9,%rcx", "  add %ecx,%eax", "  ret"]);
      w.open(w.random.pick(["sub", "rbp"]));
      seed(w);
      const behind = w.fresh();
      if (w.random.chance(0.5)) {
        w.emit(`call ${callee}`);
        w.site();
        w.emit(`${behind}:`, "add $1,%eax");
        pin(w, behind);
      } else {
        w.site();
        if (w.random.chance(0.5)) w.emit("inc %eax");
        w.emit(`call ${callee}`);
      }
      body(w, [w.label("0"), w.label("1")]);
      return 2;
    },
  },
  "callee looks at its caller's frame": {
    write: (w) => {
      const callee = w.callee("frame");
      w.other(callee, [
        w.random.pick(["  mov 16(%rsp),%ecx", "  lea 8(%rsp),%rcx; mov 8(%rcx),%ecx"]),
        "  add %ecx,%eax",
        "  ret",
      ]);
      w.open("sub");
      seed(w);
      w.emit("mov %edi,8(%rsp)", "movl $3,16(%rsp)");
      w.site();
      w.emit(w.random.pick(["mov %esi,8(%rsp)", "inc %eax", "addl $2,8(%rsp)"]), `call ${callee}`);
      body(w, [w.label("0"), w.label("1")]);
      return 3;
    },
  },
  "reads below rsp between site and call": {
    write: (w) => {
      const [behind, callee] = [w.fresh(), w.callee("add")];
      w.other(callee, ["  lea 5(%rcx),%eax", "  ret"]);
      w.open("sub");
      w.emit("lea -8(%rsp),%r9", "mov %rdi,(%r9)", "xor %ecx,%ecx", `${behind}:`);
      w.site();
      w.emit(w.random.pick(["mov (%r9),%ecx", "add (%r9),%ecx"]), `call ${callee}`);
      pin(w, behind);
      body(w, [w.label("0")]);
      return 3;
    },
  },
  "rsp is a data pointer": {
    write: (w) => {
      // As many as lie below the pointer when it comes to the site are within reach of a guard of the red zone.
      const numbers = Array.from({ length: 40 }, (_, i) => i + 1).join(",");
      const [array, again] = [w.fresh(), w.fresh()];
      w.data.push("  .data", "  .space 4096", "  .balign 8", `${array}: .quad ${numbers}`, "  .text");
      w.emit("mov %rsp,%r8");
      w.cfi("def_cfa_register 8");
      w.emit(`lea ${array}(%rip),%rsp`, "xor %eax,%eax", "mov $24,%ecx", `${again}:`, "pop %r9", "add %r9d,%eax");
      w.emit("dec %ecx", `jne ${again}`);
      w.site();
      w.emit(
        "pop %r9",
        "add %r9d,%eax",
        "imul -8(%rsp),%r9",
        "add -144(%rsp),%r9",
        "imul -152(%rsp),%r9",
        "add %r9d,%eax",
      );
      w.emit("mov %r8,%rsp");
      w.cfi("def_cfa_register 7");
      body(w, [w.label("0")]);
      return 2;
    },
  },
  "label inside an instruction": {
    write: (w) => {
      const inner = w.fresh();
      seed(w);
      w.emit("test %edi,%edi", `jne ${inner}`);
      w.site();
      // From outside: add $0x05, %al and ret; from its beginning: mov of a number.
      w.emit(".byte 0xb9", `${inner}:`, ".byte 0x04, 0x05, 0xeb, 0x00");
      body(w, [w.label("0"), w.label("1")]);
      return 2;
    },
  },
  "label behind a prefix": {
    write: (w) => {
      const inner = w.fresh();
      seed(w);
      w.emit("test %edi,%edi", `jne ${inner}`);
      w.site();
      w.emit(".byte 0x48", `${inner}:`, "add %esi,%eax", "xor %edi,%eax");
      body(w, [w.label("0")]);
      return 2;
    },
  },
  "pointers by a called function": {
    write: (w) => {
      // Another function fills a table at run time; this one goes by it.
      const [callee, kept] = [w.callee("fill"), w.fresh()];
      const labels = [0, 1, 2].map((i) => w.label(`${i}`));
      w.data.push(`  .local ${kept}`, `  .comm ${kept},24,8`);
      w.other(callee, [
        ...labels.flatMap((l, i) => [`  lea ${l}(%rip),%rcx`, `  mov %rcx,${kept}+${8 * i}(%rip)`]),
        "  ret",
      ]);
      w.emit("push %rdi", `call ${callee}`, "pop %rdi", `lea ${kept}(%rip),%r9`, "xor %eax,%eax");
      w.emit(w.random.pick(["jmp *(%r9,%rdi,8)", "mov (%r9,%rdi,8),%rcx; jmp *%rcx", "push (%r9,%rdi,8); ret"]));
      body(w, labels);
      return 3;
    },
  },
  "longjmp by hand": {
    write: (w) => {
      const [callee, back] = [w.callee("throw"), w.fresh()];
      w.other(callee, [
        "  test %edi,%edi",
        `  je 1f`,
        "  mov (%r11),%rsp",
        "  mov 8(%r11),%rcx",
        "  jmp *%rcx",
        "1: ret",
      ]);
      w.open("sub");
      seed(w);
      w.emit("lea 16(%rsp),%r11", "mov %rsp,(%r11)", `lea ${back}(%rip),%rcx`, "mov %rcx,8(%r11)", `call ${callee}`);
      w.emit("add $50,%eax");
      w.site();
      if (w.random.chance(0.5)) w.emit("inc %eax");
      w.emit(`${back}:`, "add $2,%eax");
      body(w, [w.label("0")]);
      return 2;
    },
  },
  "stride without a table": {
    write: (w) => {
      // Blocks of 16 bytes; a site stands so that the next block begins within the five bytes.
      const count = w.random.between(3, 5);
      w.emit(
        "mov %edi,%ecx",
        w.random.pick(["shl $4,%rcx", "imul $16,%rcx,%rcx", "add %rcx,%rcx; lea (,%rcx,8),%rcx"]),
      );
      w.emit(`lea ${w.label("0")}(%rip),%r11`, "add %r11,%rcx", "xor %eax,%eax", "jmp *%rcx", ".balign 16,0xcc");
      for (let i = 0; i < count; i++) {
        w.emit(`${w.label(`${i}`)}:`, `add $${w.random.between(1, 99)},%eax`, "xor %esi,%eax");
        w.emit(`.org ${w.label(`${i}`)}+${w.random.between(12, 15)},0x90`);
        w.site();
        w.emit(`.org ${w.label(`${i}`)}+16,0x90`);
      }
      w.emit("inc %eax", "ret");
      return count;
    },
  },
  "dispatch behind each block": {
    // As interpreters do: each block goes on to the next by the table.
    write: (w) => {
      const count = w.random.between(2, 4);
      const table = w.fresh();
      const labels = Array.from({ length: count }, (_, i) => w.label(`${i}`));
      w.data.push(w.random.pick(["  .section .rodata", "  .data"]), "  .balign 4", `${table}:`);
      for (const label of labels) w.data.push(`  .long ${label}-${table}`);
      w.data.push("  .text");
      const next = (): void =>
        w.emit(
          "dec %r10d",
          `js ${w.label("out")}`,
          `lea ${table}(%rip),%r8`,
          "movslq (%r8,%r9,4),%rax",
          "add %r8,%rax",
          "jmp *%rax",
        );
      w.emit("mov $5,%r10d", "mov %rdi,%r9", "mov %esi,%ecx");
      next();
      for (const [i, label] of labels.entries()) {
        w.emit(`${label}:`, w.random.pick(["inc %ecx", "add $77,%ecx", "imul $5,%ecx,%ecx", "xor %esi,%ecx"]));
        w.site();
        w.emit(w.random.pick([`mov $${(i + 1) % count},%r9d`, `lea ${((i + 1) % count) - i}(%r9),%r9`]));
        if (w.random.chance(0.6)) next();
        else w.emit(`mov $${(i + 1) % count},%r9d`);
      }
      w.emit("dec %r10d", `jns ${labels[0]}`, `${w.label("out")}:`, "mov %ecx,%eax");
      w.close();
      return count;
    },
  },
  "reads its own site": {
    assumption: "programs do not read their nops",
    write: (w) => {
      const at = w.fresh();
      seed(w);
      w.emit(`movzbl ${at}(%rip),%ecx`, "add %ecx,%eax", `${at}:`);
      w.site();
      body(w, [w.label("0")]);
      return 2;
    },
  },
};

export function special(name: string, random: Random, flavour: Flavour): GeneratedFunction {
  const w = new Writer(name, random, flavour);
  const kind = random.pick(Object.keys(specials));
  const { write, assumption } = specials[kind]!;
  const selectors = write(w);
  return {
    name,
    kinds: { ...plain, special: kind },
    unusual: 1,
    assumption: assumption ?? null,
    selectors,
    text: w.text(selectors),
  };
}
