/** How control leaves for the address in rcx. */
import type { Writer } from "./writer.js";

export interface Leave {
  /** Only where the function has no frame of its own: labels are entered with another stack, or return. */
  readonly frameless?: boolean;
  /** Breaks an assumption that is written down. */
  readonly assumption?: string;
  readonly write: (w: Writer) => void;
}

function thunk(w: Writer): string[] {
  const [over, trap] = [w.fresh(), w.fresh()];
  return [
    `  call ${over}`,
    `${trap}:`,
    "  pause",
    "  lfence",
    `  jmp ${trap}`,
    `${over}:`,
    "  mov %rcx,(%rsp)",
    "  ret",
  ];
}

export const leaves: Readonly<Record<string, Leave>> = {
  "jmp reg": {
    write: (w) => w.emit(w.random.pick(["jmp *%rcx", "jmp *%rcx", "notrack jmp *%rcx", "mov %rcx,%r11; jmp *%r11"])),
  },
  "jmp slot": {
    write: (w) => w.emit(`mov %rcx,${w.slot(8)}`, `jmp *${w.slot(8)}`),
  },
  "jmp global": {
    write: (w) => {
      const name = w.fresh();
      w.data.push(`  .local ${name}`, `  .comm ${name},8,8`);
      w.emit(`mov %rcx,${name}(%rip)`, `jmp *${name}(%rip)`);
    },
  },
  "jmp mem+index": {
    write: (w) => {
      const slot = w.slot(24);
      const base = w.frame === "rbp" ? "%rbp" : "%rsp";
      const offset = Number.parseInt(slot, 10) - 16;
      w.emit(`mov %rcx,${slot}`, "mov $2,%r9d", `jmp *${offset}(${base},%r9,8)`);
    },
  },
  "push and ret": {
    write: (w) => {
      if (w.random.chance(0.6)) w.emit("push %rcx");
      else w.emit("push $0", "mov %rcx,(%rsp)");
      w.emit(w.random.pick(["ret", "rep ret", "bnd ret"]));
    },
  },
  "add to the top and ret": {
    write: (w) => w.emit("sub $8,%rsp", "lea -9(%rcx),%rcx", "mov %rcx,(%rsp)", "addq $9,(%rsp)", "ret"),
  },
  thunk: {
    write: (w) => {
      const name = `${w.name}_thunk`;
      w.other(name, thunk(w));
      w.emit(`jmp ${name}`);
    },
  },
  "thunk inline": { write: (w) => w.emit(...thunk(w).map((line) => line.trim())) },
  "call reg": { frameless: true, write: (w) => w.emit("sub $8,%rsp", "call *%rcx", "add $8,%rsp", "ret") },
  "call slot": {
    frameless: true,
    write: (w) => w.emit("sub $24,%rsp", "mov %rcx,8(%rsp)", "call *8(%rsp)", "add $24,%rsp", "ret"),
  },
  "call thunk": {
    frameless: true,
    write: (w) => {
      const name = `${w.name}_thunk`;
      w.other(name, thunk(w));
      w.emit("sub $8,%rsp", `call ${name}`, "add $8,%rsp", "ret");
    },
  },
  "another function's jmp": {
    write: (w) => {
      const name = `${w.name}_go`;
      w.other(name, ["  jmp *%rcx"]);
      w.emit(`jmp ${name}`);
    },
  },
  "another function's jmp by a global": {
    write: (w) => {
      const [name, kept] = [`${w.name}_go`, w.fresh()];
      w.data.push(`  .local ${kept}`, `  .comm ${kept},8,8`);
      w.other(name, w.random.chance(0.5) ? [`  jmp *${kept}(%rip)`] : [`  mov ${kept}(%rip),%r11`, "  jmp *%r11"]);
      w.emit(`mov %rcx,${kept}(%rip)`, `jmp ${name}`);
    },
  },
  "callee changes its return address": {
    write: (w) => {
      const name = `${w.name}_over`;
      w.other(name, ["  mov %rcx,(%rsp)", "  ret"]);
      w.emit(`call ${name}`, "ud2");
    },
  },
  "callee pops its return address": {
    write: (w) => {
      const name = `${w.name}_drop`;
      w.other(name, ["  pop %r11", "  jmp *%rcx"]);
      w.emit(`call ${name}`, "ud2");
    },
  },
  "far ret": { write: (w) => w.emit("mov %cs,%r9d", "push %r9", "push %rcx", "lretq") },
  iret: {
    write: (w) =>
      w.emit(
        "mov %rsp,%r9",
        "mov %ss,%r10d",
        "push %r10",
        "push %r9",
        "pushfq",
        "mov %cs,%r10d",
        "push %r10",
        "push %rcx",
        "iretq",
      ),
  },
  "callee adds to its return address": {
    assumption: "return addresses are not computed with",
    write: (w) => {
      const [name, here] = [`${w.name}_add`, w.fresh()];
      w.other(name, ["  add %rcx,(%rsp)", "  ret"]);
      w.emit(`lea ${here}(%rip),%r11`, "sub %r11,%rcx", `call ${name}`, `${here}:`, "ud2");
    },
  },
};

export const usualLeave = "jmp reg";
