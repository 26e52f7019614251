/** How the address that distances count from comes into rcx: what compilers do, and everything else that CPUs can do. */
import type { Writer } from "./writer.js";

/** What distances count from. */
export interface Anchor {
  readonly symbol: string;
  /** The function's own symbol, for bases that are made from it. */
  readonly start: string;
}

export interface Base {
  /** Whether it can be had in this program. */
  readonly possible?: (w: Writer) => boolean;
  /** The anchor has to be the start of the function, or a place of the base's own making. */
  readonly anchor?: "start" | "own";
  readonly write: (w: Writer, anchor: Anchor) => void;
}

const number = (w: Writer): number => w.random.between(1, 2000);

function pointer(w: Writer, symbol: string, section: string): string {
  const name = w.fresh();
  w.data.push(`  .section ${section},"aw"`, "  .balign 8", `${name}: .quad ${symbol}`, "  .text");
  return name;
}

export const bases: Readonly<Record<string, Base>> = {
  lea: { write: (w, { symbol }) => w.emit(`lea ${symbol}(%rip),%rcx`) },
  "lea and constant": {
    write: (w, { symbol }) => {
      const k = number(w);
      if (w.random.chance(0.5)) w.emit(`lea ${symbol}-${k}(%rip),%rcx`, `add $${k},%rcx`);
      else w.emit(`lea ${symbol}+${k}(%rip),%rcx`, w.random.pick([`sub $${k},%rcx`, `lea -${k}(%rcx),%rcx`]));
    },
  },
  "function start": { anchor: "start", write: (w, { start }) => w.emit(`lea ${start}(%rip),%rcx`) },
  "function start and constant": {
    write: (w, { symbol, start }) => w.emit(`lea ${start}(%rip),%rcx`, `add $(${symbol}-${start}),%rcx`),
  },
  "call/pop": {
    anchor: "own",
    write: (w, { symbol }) => {
      w.emit(`call ${symbol}`, `${symbol}:`);
      w.cfi("adjust_cfa_offset 8");
      w.pop("%rcx");
    },
  },
  "call/pop and constant": {
    write: (w, { symbol }) => {
      const here = w.fresh();
      w.emit(`call ${here}`, `${here}:`);
      w.cfi("adjust_cfa_offset 8");
      w.pop("%rcx");
      w.emit(`add $(${symbol}-${here}),%rcx`);
    },
  },
  "loaded pointer": {
    write: (w, { symbol }) => w.emit(`mov ${pointer(w, symbol, w.random.pick([".data.rel.ro", ".data"]))}(%rip),%rcx`),
  },
  "loaded pointer to the start": {
    anchor: "start",
    write: (w, { start }) => w.emit(`mov ${pointer(w, start, ".data.rel.ro")}(%rip),%rcx`),
  },
  "caller's register": {
    write: (w, { symbol }) => {
      // The function that the driver calls hands the address over and goes on in another.
      const inner = `${w.name}_inner`;
      w.other(inner, ["  mov %r11,%rcx", `  jmp ${w.label("goon")}`]);
      w.emit(`lea ${symbol}(%rip),%r11`, `jmp ${inner}`, `${w.label("goon")}:`);
    },
  },
  "GOT and offset": {
    write: (w, { symbol }) =>
      w.emit("lea _GLOBAL_OFFSET_TABLE_(%rip),%rcx", `movabs $${symbol}@GOTOFF,%r11`, "add %r11,%rcx"),
  },
  "GOT entry": {
    anchor: "start",
    write: (w, { start }) => w.emit(`mov ${start}@GOTPCREL(%rip),%rcx`),
  },
  "xor twice": {
    write: (w, { symbol }) => {
      const k = number(w) * 0x10101;
      w.emit(`lea ${symbol}(%rip),%rcx`, `xor $${k},%rcx`, `mov $${k},%r11d`, "xor %r11,%rcx");
    },
  },
  "not twice": {
    write: (w, { symbol }) => {
      const op = w.random.pick(["not", "neg", "bswap"]);
      w.emit(`lea ${symbol}(%rip),%rcx`, `${op} %rcx`, "mov $3,%r11d", `${op} %rcx`);
    },
  },
  "rotated twice": {
    write: (w, { symbol }) => w.emit(`lea ${symbol}(%rip),%rcx`, "rol $17,%rcx", "ror $17,%rcx"),
  },
  "absolute number": {
    possible: (w) => w.flavour.link === "no-pie" || w.flavour.link === "static",
    write: (w, { symbol }) =>
      w.emit(w.random.pick([`mov $${symbol},%ecx`, `movabs $${symbol},%rcx`, `mov $${symbol}-9,%ecx; add $9,%ecx`])),
  },
  "callee's return address": {
    anchor: "own",
    write: (w, { symbol }) => {
      const teller = `${w.name}_here`;
      w.other(teller, ["  mov (%rsp),%rcx", "  ret"]);
      w.emit(`call ${teller}`, `${symbol}:`);
    },
  },
  // gcc's large model begins so; a site beside it makes the instruction move.
  "lea of itself and constant": {
    write: (w, { symbol }) => {
      const here = w.fresh();
      if (w.random.chance(0.7)) w.site();
      w.emit(`${here}:`, `lea ${here}(%rip),%rcx`, `add $(${symbol}-${here}),%rcx`);
    },
  },
  "another label and constant": {
    write: (w, { symbol, start }) => {
      const k = number(w);
      w.emit(`lea ${start}+${k}(%rip),%rcx`, `lea ${symbol}-${start}-${k}(%rcx),%rcx`);
    },
  },
  "difference of numbers": {
    write: (w, { symbol, start }) =>
      w.emit(`lea ${start}(%rip),%rcx`, `mov $(${symbol}-${start}+77),%r11d`, "sub $77,%r11d", "add %r11,%rcx"),
  },
};

/** What compilers write. */
export const usualBase = "lea";
