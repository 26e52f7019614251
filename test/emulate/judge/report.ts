/** A case that came out differently, in full; and what has been judged, as a table. */

import type { Case } from "./cases.js";
import * as at from "./layout.js";
import { Exception, FAULTED, Record } from "./layout.js";
import type { FormResult } from "./result.js";

const gprs = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");
const flagNames: readonly (readonly [number, string])[] = [
  [0x1, "CF"],
  [0x4, "PF"],
  [0x10, "AF"],
  [0x40, "ZF"],
  [0x80, "SF"],
  [0x400, "DF"],
  [0x800, "OF"],
];

/** The case and the states as a table: before, on the processor, in the emulator. `*` marks what differs. */
export function describe(
  one: Case,
  seed: number,
  text: string,
  before: Uint8Array,
  theirs: Uint8Array,
  ours: Uint8Array,
  what: string,
): string {
  const views = [before, theirs, ours].map((r) => new DataView(r.buffer, r.byteOffset, r.byteLength));
  const lines = [
    `${text}   differs: ${what}`,
    `  bytes ${Buffer.from(one.bytes).toString("hex")}  form ${one.form.name}  seed ${seed}  case ${one.number}`,
    row("", ["before", "processor", "emulator"]),
  ];
  const add = (name: string, show: (view: DataView) => string, always: boolean) => {
    const cells = views.map(show);
    const differs = cells[1] !== cells[2];
    if (always || differs || cells[0] !== cells[1]) lines.push(row(`${differs ? "*" : " "} ${name}`, cells));
  };
  add("rip", (v) => hex64(v, Record.IP), true);
  add("exception", (v) => exceptionName(v.getUint32(Record.TRAP, true)), false);
  if (views[1]!.getUint32(Record.TRAP, true) === (FAULTED | Exception.PAGE))
    lines.push(row("  cr2", ["", hex64(views[1]!, Record.ADDRESS)]));
  add("mxcsr", (v) => v.getUint16(Record.FX_MXCSR, true).toString(16), false);
  add("flags", (v) => flagText(v.getUint32(Record.FLAGS, true)), true);
  gprs.forEach((name, i) => {
    add(name, (v) => hex64(v, Record.GPR + 8 * i), true);
  });
  const vector = one.form.operands.some((o) => /^xmm|^mm/.test(o));
  for (let i = 0; i < 16; i++) {
    const offset = Record.XMM + 16 * i;
    add(`xmm${i}`, (v) => `${hex64(v, offset + 8)}_${hex64(v, offset)}`, vector);
  }
  for (const [offset, address, size] of [
    [Record.AREA, one.layout.area, at.AREA_SIZE],
    [Record.EDGE, one.layout.edge, at.EDGE_SIZE],
  ] as const) {
    for (let i = 0; i < size; i += 16) {
      const name = (address + i).toString(16);
      add(name, (v) => hexBytes(v, offset + i), touches(one, views[0]!, address + i));
    }
  }
  return lines.join("\n");
}

/** Whether a register points at these 16 bytes: they are then shown in any case. */
function touches(one: Case, before: DataView, address: number): boolean {
  if (!one.shape.includes("m")) return false;
  return gprs.some((_, i) => {
    const value = before.getBigUint64(Record.GPR + 8 * i, true);
    return value >= BigInt(address - 16) && value < BigInt(address + 16);
  });
}

const row = (name: string, cells: readonly string[]): string =>
  `  ${name.padEnd(12)}${cells.map((c) => c.padEnd(34)).join(" ")}`.trimEnd();

const hex64 = (view: DataView, offset: number): string =>
  view.getBigUint64(offset, true).toString(16).padStart(16, "0");

const hexBytes = (view: DataView, offset: number): string =>
  Buffer.from(view.buffer, view.byteOffset + offset, 16).toString("hex");

const flagText = (flags: number): string =>
  flagNames
    .filter(([bit]) => flags & bit)
    .map(([, name]) => name)
    .join(" ") || "-";

function exceptionName(trap: number): string {
  if (!(trap & FAULTED)) return "-";
  const name = Object.entries(Exception).find(([, number]) => number === (trap & 0xff))?.[0];
  return name?.toLowerCase() ?? `exception ${trap & 0xff}`;
}

/** What has been judged: a line a mnemonic, and below it what is implemented and was not. */
export function coverageTable(results: readonly FormResult[], notes: ReadonlyMap<string, string>): string {
  const groups = new Map<string, FormResult[]>();
  for (const result of results) {
    const group = groups.get(result.form.mnemonic);
    if (group === undefined) groups.set(result.form.mnemonic, [result]);
    else group.push(result);
  }
  const lines = [columns("mnemonic", "forms", "shapes", "cases", "faults", "not impl.", "excused", "differences")];
  const total = [0, 0, 0, 0, 0, 0, 0];
  for (const [mnemonic, group] of [...groups].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const judged = group.filter((r) => r.cases > 0);
    const numbers = [
      judged.length,
      judged.reduce((n, r) => n + r.shapes.size, 0),
      ...(["cases", "faults", "unimplemented", "excused", "differences"] as const).map((key) =>
        group.reduce((n, r) => n + r[key], 0),
      ),
    ];
    numbers.forEach((n, i) => {
      total[i]! += n;
    });
    lines.push(columns(mnemonic, ...numbers));
  }
  lines.push(columns("all", ...total));
  const left = results.filter((r) => r.unimplemented > 0);
  if (left.length > 0) lines.push("", "not implemented, of these mnemonics (cases, an example):");
  for (const { form, unimplemented, cases, example } of left)
    lines.push(`  ${form.name}: ${unimplemented} of ${unimplemented + cases}, ${example}`);
  const byReason = new Map<string, string[]>();
  for (const [form, reason] of notes) byReason.set(reason, [...(byReason.get(reason) ?? []), form]);
  if (notes.size > 0) lines.push("", "not judged here, of the mnemonics that are implemented:");
  for (const [reason, forms] of byReason) lines.push(`  ${reason}: ${forms.join(", ")}`);
  return lines.join("\n");
}

const columns = (name: string, ...cells: readonly (string | number)[]): string =>
  name.padEnd(14) + cells.map((c) => String(c).padStart(12)).join("");
