/**
 * By what a value travels between where it is made and where it is used. Each leaves the value in its register and keeps
 * rax, rcx, rdx, rsi and rdi, but for the one it carries.
 */
import type { Writer } from "./writer.js";

type Register = "rcx" | "rax";
const low = (register: Register): string => (register === "rcx" ? "%ecx" : "%eax");

function noise(w: Writer): string {
  const k = w.random.between(1, 99);
  return w.random.pick([`add $${k},%r8d`, `lea ${k}(%r9,%r10),%r9`, "xor %r8,%r10", "imul %r9,%r10", `mov $${k},%r8d`]);
}

function global(w: Writer, size = 8): string {
  const name = w.fresh();
  w.data.push(`  .local ${name}`, `  .comm ${name},${size},8`);
  return name;
}

function callee(w: Writer, what: string, lines: readonly string[]): string {
  const name = w.callee(what);
  w.other(name, lines);
  return name;
}

type Carry = (w: Writer, register: Register) => void;

export const carries: Readonly<Record<string, Carry>> = {
  slot: (w, r) => {
    const slot = w.slot(8);
    w.emit(
      `mov %${r},${slot}`,
      noise(w),
      w.random.chance(0.5) ? `xor ${low(r)},${low(r)}` : noise(w),
      `mov ${slot},%${r}`,
    );
  },
  "slot in halves": (w, r) => {
    w.emit(`mov %${r},${w.slot(8)}`, `mov ${w.slot(12)},%r9d`, `mov ${w.slot(8)},%r10d`, "shl $32,%r9", "or %r10,%r9");
    w.emit(`mov %r9,%${r}`);
  },
  "slot by another register": (w, r) => {
    const slot = w.slot(16);
    w.emit(`lea ${slot},%r9`, `mov %${r},(%r9)`, noise(w).replaceAll("%r9", "%r8"), `mov ${slot},%${r}`);
  },
  "copied slot": (w, r) =>
    w.emit(
      `mov %${r},${w.slot(0)}`,
      `movups ${w.slot(0)},%xmm0`,
      `movups %xmm0,${w.slot(16)}`,
      `mov ${w.slot(16)},%${r}`,
    ),
  "exchanged slot": (w, r) =>
    w.emit(`mov %${r},%r9`, `xchg %r9,${w.slot(8)}`, noise(w).replaceAll("%r9", "%r8"), `mov ${w.slot(8)},%${r}`),
  "push and pop": (w, r) => {
    const to = w.random.chance(0.5) ? r : "r11";
    w.push(`%${r}`);
    w.emit(noise(w));
    w.pop(`%${to}`);
    if (to !== r) w.emit(`mov %${to},%${r}`);
  },
  join: (w, r) => {
    const [other, on] = [w.fresh(), w.fresh()];
    w.emit(
      "test $1,%sil",
      `je ${other}`,
      noise(w),
      `mov %${r},%r11`,
      `jmp ${on}`,
      `${other}:`,
      noise(w),
      `mov %${r},%r11`,
    );
    w.emit(`${on}:`, `mov %r11,%${r}`);
  },
  "join beside": (w) => {
    const [other, on] = [w.fresh(), w.fresh()];
    w.emit("test $1,%sil", `je ${other}`, noise(w), `jmp ${on}`, `${other}:`, noise(w), `${on}:`);
  },
  "join of two ways to make it": (w, r) => {
    const [other, on] = [w.fresh(), w.fresh()];
    w.emit(
      "test $2,%sil",
      `je ${other}`,
      `lea 5(%${r}),%r11`,
      "sub $5,%r11",
      `jmp ${on}`,
      `${other}:`,
      `mov %${r},%r11`,
    );
    w.emit(`${on}:`, `mov %r11,%${r}`);
  },
  loop: (w, r) => {
    const again = w.fresh();
    w.emit("mov $3,%r10d", `${again}:`, `lea 2(%${r}),%${r}`, "dec %r10d", `jne ${again}`, `sub $6,%${r}`);
  },
  "loop beside": (w, r) => {
    const again = w.fresh();
    w.emit(
      "mov $4,%r10d",
      `mov %${r},%r11`,
      `${again}:`,
      "add %r10d,%r8d",
      "dec %r10d",
      `jne ${again}`,
      `mov %r11,%${r}`,
    );
  },
  "callee-saved over a call": (w, r) => {
    const saved = w.random.pick(["%rbx", "%r12", "%r15"]);
    w.push(saved);
    w.emit(`mov %${r},${saved}`, "call campaign_helper", `mov ${saved},%${r}`);
    w.pop(saved);
  },
  global: (w, r) => {
    const name = global(w);
    w.emit(`mov %${r},${name}(%rip)`, noise(w), `xor ${low(r)},${low(r)}`, `mov ${name}(%rip),%${r}`);
  },
  "global over a call": (w, r) => {
    const name = global(w);
    const loader = callee(w, "load", [`  mov ${name}(%rip),%r11`, "  ret"]);
    w.emit(`mov %${r},${name}(%rip)`, `call ${loader}`, `mov %r11,%${r}`);
  },
  "callee's result": (w, r) => {
    const identity = callee(w, "same", [
      w.random.pick(["  mov %rdi,%rax", "  lea (%rdi),%rax", "  xor %eax,%eax; add %rdi,%rax"]),
      "  ret",
    ]);
    w.push("%rdi");
    w.emit(`mov %${r},%rdi`, `call ${identity}`);
    w.pop("%rdi");
    if (r !== "rax") w.emit(`mov %rax,%${r}`);
  },
  "30 instructions": (w) => {
    for (let i = 0; i < 30; i++) w.emit(noise(w));
  },
  "caller's memory": (w, r) =>
    w.emit(`mov %${r},64(%rdx)`, noise(w), `mov 64(%rdx),%r11`, "movq $0,64(%rdx)", `mov %r11,%${r}`),
  "thread's memory": (w, r) => {
    const name = w.fresh();
    w.data.push('  .section .tbss,"awT",@nobits', "  .balign 8", `${name}: .skip 8`, "  .text");
    if (w.flavour.link === "shared") w.emit(`mov ${name}@gottpoff(%rip),%r11`);
    else w.emit(`mov $${name}@tpoff,%r11`);
    w.emit(`mov %${r},%fs:(%r11)`, noise(w), `mov %fs:(%r11),%${r}`);
  },
  "string instruction": (w, r) => {
    w.emit(`mov %${r},${w.slot(0)}`, "mov %rsi,%r9", "mov %rdi,%r10");
    w.emit(`lea ${w.slot(0)},%rsi`, `lea ${w.slot(16)},%rdi`, w.random.pick(["movsq", "movsl; movsl"]));
    w.emit("mov %r9,%rsi", "mov %r10,%rdi", `mov ${w.slot(16)},%${r}`);
  },
  "bytes one by one": (w, r) => {
    const low8 = r === "rcx" ? "%cl" : "%al";
    w.emit(`mov %${r},${w.slot(8)}`, `xor ${low(r)},${low(r)}`);
    for (let i = 7; i >= 0; i--) w.emit(`shl $8,%${r}`, `mov ${w.slot(8 + i)},${low8}`);
  },
  "an array on the stack": (w, r) =>
    w.emit(
      `mov %${r},${w.slot(0)}`,
      `mov %${r},${w.slot(8)}`,
      "mov %rdi,%r9",
      "and $1,%r9",
      `lea ${w.slot(0)},%r10`,
      `mov (%r10,%r9,8),%${r}`,
    ),
  "another register's copy": (w, r) =>
    w.emit(`mov %${r},%r9`, "xchg %r9,%r10", noise(w).replaceAll("%r10", "%r8"), `mov %r10,%${r}`),
  "slot that another pointer overwrites": (w, r) =>
    w.emit(
      `lea ${w.label("end")}(%rip),%r9`,
      `mov %r9,${w.slot(8)}`,
      `lea ${w.slot(0)},%r10`,
      `mov %${r},8(%r10)`,
      `mov ${w.slot(8)},%${r}`,
    ),
  "slot that an index overwrites": (w, r) =>
    w.emit(
      `lea ${w.label("end")}(%rip),%r9`,
      `mov %r9,${w.slot(8)}`,
      "mov %rdi,%r10",
      "and $0,%r10",
      `lea ${w.slot(8)},%r11`,
      `mov %${r},(%r11,%r10,8)`,
      `mov ${w.slot(8)},%${r}`,
    ),
  "slot that a callee overwrites": (w, r) => {
    const name = w.callee("put");
    w.other(name, ["  mov %r11,(%r9)", "  ret"]);
    // Above rsp, whatever frame there is: the callee's own return address goes below.
    w.emit("sub $24,%rsp");
    if (w.frame !== "rbp") w.cfi("adjust_cfa_offset 24");
    w.emit(`lea ${w.label("end")}(%rip),%r9`, "mov %r9,8(%rsp)", "lea 8(%rsp),%r9", `mov %${r},%r11`, `call ${name}`);
    w.emit(`mov 8(%rsp),%${r}`, "add $24,%rsp");
    if (w.frame !== "rbp") w.cfi("adjust_cfa_offset -24");
  },
  "slot overwritten in part": (w, r) =>
    w.emit(
      `lea ${w.label("end")}(%rip),%r9`,
      `mov %r9,${w.slot(8)}`,
      `mov ${low(r)},${w.slot(8)}`,
      `mov %${r},%r10`,
      "shr $32,%r10",
      `mov %r10d,${w.slot(12)}`,
      `mov ${w.slot(8)},%${r}`,
    ),
  "global that a callee overwrites": (w, r) => {
    const name = global(w);
    const putter = callee(w, "put", [`  mov %r11,${name}(%rip)`, "  ret"]);
    w.emit(`lea ${w.label("end")}(%rip),%r9`, `mov %r9,${name}(%rip)`, `mov %${r},%r11`, `call ${putter}`);
    w.emit(`mov ${name}(%rip),%${r}`);
  },
  "one of two at a join": (w, r) => {
    const [other, on] = [w.fresh(), w.fresh()];
    // The other way is never taken.
    w.emit(
      "cmp $100,%edi",
      `ja ${other}`,
      `mov %${r},%r11`,
      `jmp ${on}`,
      `${other}:`,
      `lea ${w.label("end")}(%rip),%r11`,
    );
    w.emit(`${on}:`, `mov %r11,%${r}`);
  },
  xmm: (w, r) => w.emit(`movq %${r},%xmm1`, noise(w), `xor ${low(r)},${low(r)}`, `movq %xmm1,%${r}`),
  "flags and selects": (w, r) => w.emit("mov $99,%r11d", "cmp %rdi,%rdi", `cmove %${r},%r11`, `mov %r11,%${r}`),
};

/** None: it is used where it is made. */
export const usualCarry = "-";
