/**
 * Tables of distances and addresses: entries of 1, 2, 4 and 8 bytes, signed or not, dense or in packed records, wherever a
 * program keeps such things; and the ways in which an entry and a base become a target.
 */
import type { Writer } from "./writer.js";

export interface Table {
  readonly width: 1 | 2 | 4 | 8;
  readonly signed: boolean;
  /** Entries are addresses. */
  readonly absolute?: boolean;
  readonly section: "rodata" | "data" | "relro" | "before" | "behind" | "inside" | "own" | "code";
  /** Bytes from entry to entry, where that is not their width; then they are as unaligned as this makes them. */
  readonly stride?: number;
  readonly inside?: boolean;
  /** Entries count from where they stand themselves: that is all the base there is. */
  readonly ofItself?: boolean;
  readonly small?: boolean;
  /** All entries are the first label's until the function itself, or one that it calls, writes the others. */
  readonly written?: "here" | "callee";
}

const table = (
  width: Table["width"],
  signed: boolean,
  section: Table["section"],
  more: Partial<Table> = {},
): Table => ({
  width,
  signed,
  section,
  ...more,
  ...(section === "inside" ? { inside: true } : {}),
});

export const usualTable = "s32 rodata";

export const tables: Readonly<Record<string, Table>> = {
  [usualTable]: table(4, true, "rodata"),
  "u8 rodata": table(1, false, "rodata"),
  "s8 rodata": table(1, true, "rodata"),
  "u16 rodata": table(2, false, "rodata"),
  "s16 rodata": table(2, true, "rodata"),
  "u32 rodata": table(4, false, "rodata"),
  "s64 rodata": table(8, true, "rodata"),
  "u8 data": table(1, false, "data"),
  "s16 data": table(2, true, "data"),
  "s32 data": table(4, true, "data"),
  "s64 data": table(8, true, "data"),
  "s32 packed rodata": table(4, true, "rodata", { stride: 5 }),
  "s32 packed data": table(4, true, "data", { stride: 5 }),
  "u16 packed data": table(2, false, "data", { stride: 3 }),
  "s64 packed data": table(8, true, "data", { stride: 9 }),
  "s32 text before": table(4, true, "before"),
  "s32 text behind": table(4, true, "behind"),
  "s32 text inside": table(4, true, "inside"),
  "u8 text inside": table(1, false, "inside"),
  "u16 text inside": table(2, false, "inside"),
  "s16 text behind": table(2, true, "behind"),
  "s32 own section": table(4, true, "own"),
  "u16 own section": table(2, false, "own"),
  "s32 other code section": table(4, true, "code"),
  "s32 of itself": table(4, true, "rodata", { absolute: true, ofItself: true }),
  "s32 of itself data": table(4, true, "data", { absolute: true, ofItself: true }),
  "s64 of itself": table(8, true, "rodata", { absolute: true, ofItself: true }),
  "s32 data written here": table(4, true, "data", { written: "here" }),
  "s32 data written by a callee": table(4, true, "data", { written: "callee" }),
  "addresses data written here": table(8, false, "data", { absolute: true, written: "here" }),
  "addresses data written by a callee": table(8, false, "data", { absolute: true, written: "callee" }),
  "addresses relro": table(8, false, "relro", { absolute: true }),
  "addresses data": table(8, false, "data", { absolute: true }),
  "addresses packed data": table(8, false, "data", { absolute: true, stride: 9 }),
  "addresses less 3": table(8, false, "relro", { absolute: true, stride: 8 }),
};

export interface WrittenTable {
  /** Loads the entry of the selector into rax, or the address into rcx. */
  readonly load: () => void;
  /** The entry as an operand, and the instruction before that it needs. */
  readonly operand: () => string;
  /** Bytes of an entry. */
  readonly width: number;
  /** Lines that stand between the transfer and the labels. */
  readonly inside: readonly string[];
}

export interface Combine {
  readonly needs?: readonly string[];
  readonly possible?: (w: Writer) => boolean;
  /** False where entries are distances back from the base. */
  readonly forward?: false;
  /** Loads the entry itself. */
  readonly loads?: boolean;
  /** Needs no base. */
  readonly baseless?: boolean;
  readonly small?: boolean;
  /** Labels begin at a multiple of this, at which the base stands. */
  readonly align?: number;
  /** Entries are in two words. */
  readonly words?: 2;
  readonly write: (w: Writer, table: WrittenTable, labels: readonly string[]) => void;
}

export const usualCombine = "add";

export const combines: Readonly<Record<string, Combine>> = {
  add: { write: (w) => w.emit(w.random.pick(["add %rax,%rcx", "add %rcx,%rax; mov %rax,%rcx"])) },
  sub: { forward: false, write: (w) => w.emit("sub %rax,%rcx") },
  lea: {
    write: (w) =>
      w.emit(w.random.pick(["lea (%rcx,%rax),%rcx", "lea (%rax,%rcx,1),%rcx", "lea -4(%rcx,%rax),%rcx; add $4,%rcx"])),
  },
  "lea of doubled": {
    needs: [usualTable],
    write: (w) => w.emit("mov %rax,%r11", "sub %rax,%rcx", "lea (%rcx,%r11,2),%rcx"),
  },
  xadd: { write: (w) => w.emit("xadd %rax,%rcx") },
  xchg: { write: (w) => w.emit("add %rcx,%rax", "xchg %rax,%rcx") },
  "neg and sub": { write: (w) => w.emit("neg %rax", "sub %rax,%rcx") },
  "not and sub": { write: (w) => w.emit("not %rax", "stc", "sbb %rax,%rcx") },
  adc: { write: (w) => w.emit("clc", "adc %rax,%rcx") },
  "add from memory": {
    needs: ["s64 rodata", "s64 data", "s64 packed data"],
    loads: true,
    write: (w, { operand }) => w.emit(`add ${operand()},%rcx`),
  },
  "add of 32 bits from memory": {
    possible: (w) => w.flavour.link === "no-pie" || w.flavour.link === "static",
    needs: [usualTable, "s32 data", "s32 packed data"],
    loads: true,
    write: (w, { operand }) => w.emit(`add ${operand()},%ecx`),
  },
  "add to memory": {
    needs: ["s64 rodata", "s64 data", usualTable],
    write: (w) => w.emit(`mov %rcx,${w.slot(0)}`, `add %rax,${w.slot(0)}`, `mov ${w.slot(0)},%rcx`),
  },
  "two words": {
    needs: [usualTable, "s32 data", "s64 rodata"],
    loads: true,
    words: 2,
    write: (w, { operand, width }) => {
      const second = w.fresh();
      w.data.push("  .section .rodata", `${second}: .long 1000`, "  .text");
      w.emit(`${width === 8 ? "mov" : "movslq"} ${operand()},%rax`, "add %rax,%rcx");
      w.emit(`movslq ${second}(%rip),%rax`, w.random.pick(["add %rax,%rcx", "lea (%rax,%rcx),%rcx"]));
    },
  },
  cmov: {
    needs: [usualTable],
    baseless: true,
    loads: true,
    write: (w, _table, labels) => {
      w.emit(`lea ${labels[0]}(%rip),%rcx`);
      for (const [i, label] of labels.entries())
        if (i > 0) w.emit(`lea ${label}(%rip),%r11`, `cmp $${i},%edi`, "cmove %r11,%rcx");
    },
  },
  "cmov of distances": {
    needs: [usualTable],
    loads: true,
    write: (w, { operand }, labels) => {
      w.emit(`movslq ${operand()},%rax`, "lea (%rcx,%rax),%r11", `cmp $${labels.length},%edi`, "cmovb %r11,%rcx");
    },
  },
  "low byte": {
    needs: ["u8 rodata", "u8 data"],
    small: true,
    align: 256,
    loads: true,
    write: (w, { operand }) => w.emit(`mov ${operand()},%cl`),
  },
  "low word": {
    needs: ["u16 rodata"],
    align: 1024,
    loads: true,
    small: true,
    write: (w, { operand }) => w.emit(`movzwl ${operand()},%eax`, "or %rax,%rcx"),
  },
  "halves added one by one": {
    needs: [usualTable, "u16 rodata", "u32 rodata"],
    write: (w) => w.emit("mov %rax,%r11", "sar $1,%r11", "add %r11,%rcx", "sub %r11,%rax", "add %rax,%rcx"),
  },
};

const loads: Readonly<Record<string, string>> = {
  "1u": "movzbl M,%eax",
  "1s": "movsbq M,%rax",
  "2u": "movzwl M,%eax",
  "2s": "movswq M,%rax",
  "4u": "mov M,%eax",
  "4s": "movslq M,%rax",
  "8u": "mov M,%rax",
  "8s": "mov M,%rax",
};
const words = { 1: ".byte", 2: ".short", 4: ".long", 8: ".quad" } as const;

/** Writes the table's data, and says how it is read. */
export function emitTable(
  w: Writer,
  kind: Table,
  combine: Combine,
  labels: readonly string[],
  anchor: string,
  before: number,
): WrittenTable {
  const name = w.label("table");
  const stride = kind.stride ?? kind.width;
  const less = kind.stride === 8 ? 3 : 0;
  const back = combine.forward === false;
  const value = (label: string): string => {
    if (kind.ofItself) return `${label}-.`;
    if (kind.absolute) return less > 0 ? `${label}-${less}` : label;
    if (combine.words === 2) return `${label}-${anchor}-1000`;
    return back ? `${anchor}-${label}` : `${label}-${anchor}`;
  };
  const first = labels[0]!;
  const entries = labels
    .map((label) => (kind.written === undefined ? label : first))
    .map((label, i) => {
      const packed = stride > kind.width ? [`  .skip ${stride - kind.width},1`] : [];
      const entry = [...packed, `  ${words[kind.width]} ${value(label)}`];
      return i === before ? [`${name}:`, ...entry] : entry;
    });
  const aligned = kind.stride === undefined && w.random.chance(0.8) ? [`  .balign ${kind.width}`] : ["  .byte 0"];
  // Entries may stand before the table's name.
  const lines = before >= labels.length ? [...entries.flat(), `${name}:`] : entries.flat();
  const data = [...aligned, ...lines];
  if (kind.written !== undefined) fill(w, kind, name, labels, anchor);
  const inside: string[] = [];
  if (kind.section === "inside") {
    // What stands there must not look like code that is run through by chance; and often it does.
    inside.push(...lines, ...(w.random.chance(0.5) ? [`  .skip ${w.random.between(1, 40)},0xcc`] : []));
  } else if (kind.section === "before") w.before.push("  .text", ...data, "  .balign 16,0xcc");
  else if (kind.section === "behind") w.behind.push("  .text", ...data);
  else w.data.push(...sectionOf(w, kind.section), ...data, "  .text");
  if (combine.align !== undefined) inside.push(`  .balign ${combine.align},0xcc`, `${anchor}:`);

  const offset = stride > kind.width ? stride - kind.width : 0;
  const operand = (): string => {
    const scaled = stride === 1 || stride === 2 || stride === 4 || stride === 8;
    const absolute = (w.flavour.link === "no-pie" || w.flavour.link === "static") && w.random.chance(0.5);
    if (!scaled) w.emit(`imul $${stride},%rdi,%r9`);
    if (!absolute) w.emit(`lea ${name}(%rip),%r8`);
    const [index, scale] = scaled ? ["%rdi", stride] : ["%r9", 1];
    return absolute ? `${name}+${offset}(,${index},${scale})` : `${offset}(%r8,${index},${scale})`;
  };
  const load = (): void => {
    if (kind.ofItself) {
      w.emit(`lea ${name}(%rip),%r8`, `lea (%r8,%rdi,${kind.width}),%rcx`);
      w.emit(kind.width === 8 ? "add (%rcx),%rcx" : "movslq (%rcx),%rax; add %rax,%rcx");
    } else if (kind.absolute) {
      w.emit(`mov ${operand()},%rcx`);
      if (less > 0) w.emit(w.random.pick([`add $${less},%rcx`, `lea ${less}(%rcx),%rcx`]));
    } else w.emit(loads[`${kind.width}${kind.signed ? "s" : "u"}`]!.replace("M", operand()));
  };
  return { load, operand, inside, width: kind.width };
}

/** Writes the entries at run time; what the file holds is not what is gone by. */
function fill(w: Writer, kind: Table, name: string, labels: readonly string[], anchor: string): void {
  const code = labels.flatMap((label, i) => [
    `lea ${label}(%rip),%r9`,
    ...(kind.absolute ? [] : [`lea ${anchor}(%rip),%r10`, "sub %r10,%r9"]),
    ...(i % 2 === 0
      ? [`mov ${kind.absolute ? "%r9" : "%r9d"},${name}+${i * kind.width}(%rip)`]
      : [`lea ${name}(%rip),%r11`, `mov ${kind.absolute ? "%r9" : "%r9d"},${i * kind.width}(%r11)`]),
  ]);
  if (kind.written === "here") {
    w.emit(...code);
    return;
  }
  const callee = w.callee("fill");
  w.other(callee, [...code.map((line) => `  ${line}`), "  ret"]);
  w.emit(`call ${callee}`);
}

function sectionOf(w: Writer, section: Table["section"]): readonly string[] {
  if (section === "rodata") return ["  .section .rodata"];
  if (section === "data") return ["  .data"];
  if (section === "relro") return ['  .section .data.rel.ro,"aw"'];
  if (section === "own") return [`  .section jump_tables${w.random.chance(0.5) ? "" : `_${w.name}`},"a"`];
  return ['  .section .text.tables,"ax"'];
}
