/**
 * Functions that go to one of their labels by a table, in every combination of: where the address comes from that the
 * distances count from, what the table is, how both become one, by what the value travels, how control leaves.
 */

import { type Flavour, type GeneratedFunction, type Kinds, plain } from "./function.js";
import { bases, usualBase } from "./generate-address.js";
import { body, seed } from "./generate-body.js";
import { carries, usualCarry } from "./generate-carry.js";
import { indices } from "./generate-index.js";
import { leaves, usualLeave } from "./generate-leave.js";
import { combines, emitTable, tables, usualCombine, usualTable } from "./generate-table.js";
import type { Random } from "./random.js";
import { type Frame, Writer } from "./writer.js";

type Choice = Pick<Kinds, "index" | "base" | "table" | "combine" | "carry" | "leave" | "where">;

const usual: Choice = {
  index: "-",
  base: usualBase,
  table: usualTable,
  combine: usualCombine,
  carry: usualCarry,
  leave: usualLeave,
  where: "here",
};

const others: Readonly<Record<keyof Choice, readonly string[]>> = {
  index: Object.keys(indices),
  base: Object.keys(bases).filter((name) => name !== usualBase),
  table: Object.keys(tables).filter((name) => name !== usualTable),
  combine: Object.keys(combines).filter((name) => name !== usualCombine),
  carry: Object.keys(carries),
  leave: Object.keys(leaves).filter((name) => name !== usualLeave),
  where: ["another function"],
};

const weights: readonly (keyof Choice)[] = [
  "index",
  "base",
  "base",
  "table",
  "table",
  "combine",
  "carry",
  "carry",
  "leave",
  "leave",
  "where",
];

/** A choice with this many unusual things. */
function choose(random: Random, unusual: number): Choice {
  const choice = { ...usual };
  const dimensions = [...new Set(random.shuffled(weights))].slice(0, unusual);
  for (const dimension of dimensions) choice[dimension] = random.pick(others[dimension]);
  // Some ways to use an entry are ways to use one of a certain size.
  const needs = combines[choice.combine]!.needs;
  if (needs !== undefined && !dimensions.includes("table")) choice.table = random.pick(needs);
  return choice;
}

/** Whether these go together: what is contradictory is drawn again. */
function possible(w: Writer, { index, base, table, combine, leave, where }: Choice): boolean {
  if (bases[base]!.possible?.(w) === false || combines[combine]!.possible?.(w) === false) return false;
  const { needs, forward } = combines[combine]!;
  if (needs !== undefined && !needs.includes(table)) return false;
  if (combines[combine]!.baseless && base !== usualBase) return false;
  // Unsigned distances count from what lies before all labels, and back from what lies behind them: an own place is before.
  if (forward === false && bases[base]!.anchor !== undefined) return false;
  if (tables[table]!.absolute && (base !== usualBase || combine !== usualCombine)) return false;
  if (combines[combine]!.align !== undefined && (where !== "here" || bases[base]!.anchor !== undefined)) return false;
  if (tables[table]!.written && (combine !== usualCombine || index !== "-")) return false;
  if (tables[table]!.inside && where !== "here") return false;
  if (leaves[leave]!.frameless && where !== "here") return false;
  return true;
}

/** docs/assumptions.md: the sum of what was handed over is jumped to where it is made, out of a register or a slot. */
const SUMS_STAY = "sums of what was handed over are jumped to where they are made";
const LEAVING: ReadonlySet<string> = new Set([
  "jmp global",
  "another function's jmp",
  "another function's jmp by a global",
]);
const BY_MEMORY: ReadonlySet<string> = new Set([
  "global",
  "global over a call",
  "global that a callee overwrites",
  "callee's result",
  "caller's memory",
  "thread's memory",
  "an array on the stack",
]);
/** Nobody adds to the start of a function that was handed over in order to jump inside it from another one. */
const STARTS_STAY = "a handed-over start of a function is not added to elsewhere";
/** What data says, to whoever loads it. */
const LOADED: ReadonlySet<string> = new Set(["loaded pointer", "loaded pointer to the start", "GOT entry"]);
const assumptionOf = (choice: Choice, stage: string, isStart: boolean): string | null => {
  if (choice.where !== "here" && isStart && LOADED.has(choice.base)) return STARTS_STAY;
  if (!isHandedOver(choice, stage)) return null;
  if (LEAVING.has(choice.leave)) return SUMS_STAY;
  return choice.where !== "here" && isStart ? STARTS_STAY : null;
};
const isHandedOver = ({ base, carry }: Choice, stage: string): boolean =>
  base === "caller's register" || (stage === "base" && BY_MEMORY.has(carry));

export function dispatch(name: string, random: Random, flavour: Flavour, unusual: number): GeneratedFunction {
  const w = new Writer(name, random, flavour);
  let choice = choose(random, unusual);
  for (let i = 0; !possible(w, choice); i++) choice = choose(random, i > 200 ? 0 : unusual);
  const table = tables[choice.table]!;
  const combine = combines[choice.combine]!;
  const leave = leaves[choice.leave]!;
  const base = bases[choice.base]!;
  const elsewhere = choice.where !== "here";
  const small = table.width === 1 || table.small === true || combine.small === true;
  const count = random.between(2, small ? 4 : 6);
  const labels = Array.from({ length: count }, (_, i) => w.label(`${i}`));
  const frame: Frame = leave.frameless || elsewhere ? "none" : random.pick<Frame>(["none", "none", "sub", "rbp"]);
  const host = elsewhere ? `${name}_body` : name;

  w.open(frame);
  const index = indices[choice.index];
  index?.write(w, count);
  if (index === undefined && !elsewhere && random.chance(0.5)) w.emit(`cmp $${count - 1},%edi`, `ja ${w.label("end")}`);
  const anchor = anchorOf(w, labels, host, choice);
  const carry = carries[choice.carry];
  const stage = random.pick(table.absolute || combine.baseless ? ["sum"] : ["sum", "sum", "base", "entry"]);
  if (!table.absolute && !combine.baseless) {
    base.write(w, { symbol: anchor, start: host });
    if (stage === "base") carry?.(w, "rcx");
  }
  const written = emitTable(w, table, combine, labels, anchor, index?.before?.(count) ?? 0);
  if (stage === "entry" && !combine.loads) {
    written.load();
    carry?.(w, "rax");
  } else if (!combine.loads) written.load();
  if (!table.absolute) combine.write(w, written, labels);
  if (stage === "sum" || (stage === "entry" && combine.loads)) carry?.(w, "rcx");
  seed(w);
  leave.write(w);
  for (const line of written.inside) w.code.push(line);
  if (!elsewhere) body(w, labels, { small, calls: frame !== "none" });
  else anotherFunction(w, host, labels, small);

  const differing = (Object.keys(usual) as (keyof Choice)[]).filter((key) => choice[key] !== usual[key]).length;
  return {
    name,
    kinds: { ...plain, ...choice, special: differing === 0 ? "usual table" : "-" },
    unusual: differing,
    assumption: leave.assumption ?? assumptionOf(choice, stage, anchor === host),
    selectors: count,
    text: w.text(count),
  };
}

/** A place to count from that suits the table's sign. */
function anchorOf(w: Writer, labels: readonly string[], host: string, choice: Choice): string {
  const base = bases[choice.base]!;
  if (base.anchor === "start") return host;
  if (base.anchor === "own") return w.fresh();
  const table = tables[choice.table]!;
  const back = combines[choice.combine]!.forward === false;
  if (!table.signed) return back ? w.label("end") : combines[choice.combine]!.align ? w.label("page") : labels[0]!;
  return w.random.pick([labels[0]!, labels[labels.length >> 1]!, w.label("end"), ...(table.width >= 4 ? [host] : [])]);
}

/** The labels stand in a function of their own, which nobody calls. */
function anotherFunction(w: Writer, host: string, labels: readonly string[], small: boolean): void {
  const inner = w.inner();
  inner.code.push("  ud2");
  body(inner, labels, { small });
  const lines = inner.wrapped(host, inner.code);
  const gap = w.random.pick([0, 0, 64, 400]);
  if (w.random.chance(0.5)) w.behind.push(`  .space ${gap},0xcc`, ...lines);
  else w.before.push(...lines, `  .space ${gap},0xcc`);
}
