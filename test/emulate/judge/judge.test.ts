/**
 * The machine's own processor judges the emulator: random instances of every implemented instruction, run natively and
 * emulated from the same state, must leave the same state.
 *
 *     npx vitest run test/emulate/judge                            20,000 cases
 *     npm run test:long                                            all of them: more than 200,000
 *     ONLY=add,sub CASES=2000 npx vitest run test/emulate/judge    2,000 cases of each form of these mnemonics
 *     SEED=7 ...                                                   other cases
 *     CASE=123 ONLY=add FORM=Add_rm32_r32 ...                      this one alone, as its report names it
 *     npx vitest run test/emulate/judge -t '^add$'                 the usual cases of one mnemonic
 *
 * An instruction counts as implemented when the emulator says so of its mnemonic. Forms of which it then says that they
 * are not implemented are counted in the table, in a column of their own.
 */

import { afterAll, expect, test } from "vitest";
import { implementedMnemonics } from "../../../src/emulate/families/index.js";
import { allForms, type Form, obstacle } from "./forms.js";
import { judge } from "./judge.js";
import { coverageTable } from "./report.js";
import type { FormResult } from "./result.js";
import { sequenceForm, sequencesOf } from "./sequences.js";

const environment = (name: string): string | undefined => process.env[name] || undefined;
const only = environment("ONLY")?.split(",");
const oneForm = environment("FORM");
const single = environment("CASE") === undefined ? undefined : Number(environment("CASE"));
const long = environment("LONG") !== undefined;
const seed = Number(environment("SEED") ?? 4);

const implemented = new Set(implementedMnemonics());
const forms = allForms().filter(
  (form) =>
    implemented.has(form.mnemonicNumber) &&
    (only === undefined || only.includes(form.mnemonic)) &&
    (oneForm === undefined || oneForm === form.name),
);

/** Why forms are not judged, by their names. */
const notes = new Map<string, string>();
const judged: Form[] = [];
for (const form of forms) {
  const reason = obstacle(form);
  if (reason === undefined) judged.push(form);
  else notes.set(form.name, reason);
}

const cases = Number(environment("CASES") ?? Math.ceil((long ? 300_000 : 23_000) / Math.max(judged.length, 1)));
const results: FormResult[] = [];

/**
 * Mnemonics are judged several at a time, when the first of them is asked for: a native program each would cost more
 * than its cases.
 */
const TOGETHER = 24;
const mnemonics = [...new Set(judged.map((form) => form.mnemonic))];
const groups = new Map<number, Promise<readonly FormResult[]>>();

function resultsFor(index: number): Promise<readonly FormResult[]> {
  const first = index - (index % TOGETHER);
  let group = groups.get(first);
  if (group === undefined) {
    const names = new Set(mnemonics.slice(first, first + TOGETHER));
    group = judge(
      judged.filter((form) => names.has(form.mnemonic)),
      { cases, seed, single },
    );
    groups.set(first, group);
  }
  return group;
}

mnemonics.forEach((mnemonic, index) => {
  test(mnemonic, async () => {
    const found = (await resultsFor(index)).filter(({ form }) => form.mnemonic === mnemonic);
    results.push(...found);
    for (const { form, unencodable, cases, unimplemented } of found)
      if (unencodable > 0 && cases + unimplemented === 0) notes.set(form.name, "no encoding of it was found");
    const differences = found.reduce((n, r) => n + r.differences, 0);
    const reports = found.flatMap((r) => r.reports).slice(0, 5);
    expect(differences, `${differences} differences\n\n${reports.join("\n\n")}\n`).toBe(0);
  });
});

test("there is something to judge", () => {
  expect(judged.length).toBeGreaterThan(0);
});

/** With ONLY they run where it names `sequence` as well, and then consist of the mnemonics beside it. */
test.runIf(only === undefined || only.includes("sequence"))("sequences of instructions", async () => {
  const count = environment("CASES") === undefined ? (long ? 60_000 : 3_000) : cases;
  const [result] = await judge([sequenceForm(judged)], { cases: count, seed, single, make: sequencesOf(judged) });
  results.push(result!);
  expect(result!.differences, `${result!.differences} differences\n\n${result!.reports.join("\n\n")}\n`).toBe(0);
  expect(result!.cases).toBeGreaterThan(0);
});

/**
 * The judge is judged as well: the emulator alone gets another opcode, or another extension of it in ModRM.reg, that
 * does almost the same. Each must be found out.
 */
interface Plant {
  readonly what: string;
  readonly form: string;
  readonly opcode: readonly number[];
  readonly group?: number;
}
const plants: readonly Plant[] = [
  { what: "adc for add", form: "Add_rm32_r32", opcode: [0x11] },
  { what: "cmp for sub", form: "Sub_r64_rm64", opcode: [0x3b] },
  { what: "sar for shr", form: "Shr_rm32_CL", opcode: [0xd3], group: 7 },
  { what: "jle for jl", form: "Jl_rel8_64", opcode: [0x7e] },
  { what: "setae for seta", form: "Seta_rm8", opcode: [0x0f, 0x93] },
  { what: "movzx for movsx", form: "Movsx_r32_rm8", opcode: [0x0f, 0xb6] },
  { what: "imul for mul", form: "Mul_rm64", opcode: [0xf7], group: 5 },
  { what: "movups for movaps", form: "Movaps_xmm_xmmm128", opcode: [0x0f, 0x10] },
  { what: "paddq for paddd", form: "Paddd_xmm_xmmm128", opcode: [0x0f, 0xd4] },
  { what: "maxsd for minsd", form: "Minsd_xmm_xmmm64", opcode: [0x0f, 0x5f] },
];

const isPrefix = (byte: number): boolean =>
  [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3].includes(byte) || (byte & 0xf0) === 0x40;

test.each(plants)("the judge finds $what", async ({ form: name, opcode, group }) => {
  const form = allForms().find((f) => f.name === name)!;
  const plant = (instruction: Uint8Array): Uint8Array => {
    const changed = Uint8Array.from(instruction);
    const at = changed.findIndex((byte) => !isPrefix(byte));
    changed.set(opcode, at);
    if (group !== undefined) changed[at + 1] = (changed[at + 1]! & ~0x38) | (group << 3);
    return changed;
  };
  const [result] = await judge([form], { cases: 60, seed, plant });
  expect(result!.differences).toBeGreaterThan(0);
  expect(result!.reports[0]).toContain("differs");
});

afterAll(() => {
  const table = coverageTable(results, notes);
  console.log(
    long || only !== undefined
      ? table
      : table
          .split("\n")
          .filter((line) => /^(mnemonic|all) /.test(line))
          .join("\n"),
  );
});
