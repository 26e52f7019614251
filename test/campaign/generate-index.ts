/**
 * What is done to the selector between the function's start and the table: checks that say less than they seem to, indices
 * that go below the table's name. Whoever takes a table's length from a check has to be right about what was checked.
 */
import type { Writer } from "./writer.js";

export interface Index {
  /** How many entries stand before the table's name. */
  readonly before?: (count: number) => number;
  /** Works on rdi, from 0 to `count` - 1 as it comes; r8 to r11 are free. */
  readonly write: (w: Writer, count: number) => void;
}

const end = (w: Writer): string => w.label("end");

export const indices: Readonly<Record<string, Index>> = {
  "checked by halves": {
    write: (w, count) => w.emit("mov %edi,%r9d", "shr $1,%r9d", `cmp $${(count - 1) >> 1},%r9d`, `ja ${end(w)}`),
  },
  "moved behind the check": {
    write: (w, count) => {
      const first = w.fresh();
      w.emit(
        "test %edi,%edi",
        `je ${first}`,
        "dec %edi",
        `cmp $${count - 2},%edi`,
        `ja ${end(w)}`,
        "inc %edi",
        `${first}:`,
      );
    },
  },
  "checked on one way": {
    write: (w) => {
      const on = w.fresh();
      w.emit("cmp $1,%edi", `ja ${on}`, "inc %r8d", `${on}:`);
    },
  },
  "checked and not heeded": {
    write: (w) => {
      const [small, on] = [w.fresh(), w.fresh()];
      w.emit("cmp $0,%edi", `jbe ${small}`, "mov $1,%r9d", `jmp ${on}`, `${small}:`, "mov $2,%r9d", `${on}:`);
    },
  },
  "another register checked": {
    write: (w) =>
      w.emit("mov %edi,%r9d", "and $1,%r9d", "cmp $1,%r9d", `ja ${end(w)}`, "mov %r9d,%r10d", "xchg %r10,%r9"),
  },
  "checked as a byte": { write: (w, count) => w.emit(`cmp $${count - 1},%dil`, `ja ${end(w)}`) },
  "checked with its sign": {
    before: (count) => count >> 1,
    write: (w, count) => w.emit(`sub $${count >> 1},%rdi`, `cmp $${count - 1 - (count >> 1)},%rdi`, `jg ${end(w)}`),
  },
  "below the table's name": {
    before: (count) => count,
    write: (w, count) =>
      w.emit(
        w.random.pick([`sub $${count},%rdi`, `lea -${count}(%rdi),%rdi`, `not %rdi; add $${count + 1},%rdi; neg %rdi`]),
      ),
  },
  "masked wider": { write: (w) => w.emit(w.random.pick(["and $7,%edi", "and $15,%edi", "movzbl %dil,%edi"])) },
  "by a table of bytes": {
    write: (w, count) => {
      const table = w.fresh();
      const order = w.random.shuffled(Array.from({ length: count }, (_, i) => i));
      w.data.push(w.random.pick(["  .section .rodata", "  .data"]), `${table}: .byte ${order.join(", ")}`, "  .text");
      w.emit(`lea ${table}(%rip),%r9`, "movzbl (%r9,%rdi),%edi");
    },
  },
  "by a slot": {
    write: (w, count) =>
      w.emit(`mov %edi,${w.slot(0)}`, `cmpl $${count - 1},${w.slot(0)}`, `ja ${end(w)}`, `mov ${w.slot(0)},%edi`),
  },
  "by a slot that changes": {
    write: (w) =>
      w.emit(
        `movl $0,${w.slot(0)}`,
        `cmpl $0,${w.slot(0)}`,
        `ja ${end(w)}`,
        `lea ${w.slot(0)},%r9`,
        "mov %edi,(%r9)",
        `mov ${w.slot(0)},%edi`,
      ),
  },
  "counted in a loop": {
    write: (w) => {
      const [again, out] = [w.fresh(), w.fresh()];
      w.emit(
        "xor %r9d,%r9d",
        `${again}:`,
        "cmp %edi,%r9d",
        `je ${out}`,
        "inc %r9d",
        `jmp ${again}`,
        `${out}:`,
        "mov %r9,%rdi",
      );
    },
  },
  "set by flags": {
    write: (w) => {
      // 0 and 1 by setcc, what is above by itself.
      const on = w.fresh();
      w.emit("cmp $1,%edi", `ja ${on}`, "setae %r9b", "movzbl %r9b,%edi", `${on}:`);
    },
  },
};
