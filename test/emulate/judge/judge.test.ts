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
import { type FormResult, judge } from "./judge.js";
import { coverageTable } from "./report.js";

const environment = (name: string): string | undefined => process.env[name] || undefined;
const only = environment("ONLY")?.split(",");
const oneForm = environment("FORM");
const oneCase = environment("CASE");
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

const cases = Number(environment("CASES") ?? Math.ceil((long ? 300_000 : 20_000) / Math.max(judged.length, 1)));
const results: FormResult[] = [];

for (const mnemonic of new Set(judged.map((form) => form.mnemonic))) {
  test(mnemonic, async () => {
    const of = judged.filter((form) => form.mnemonic === mnemonic);
    const found = await judge(of, cases, seed, oneCase === undefined ? undefined : Number(oneCase));
    results.push(...found);
    for (const { form, reason } of found) if (reason !== undefined) notes.set(form.name, reason);
    const differences = found.reduce((n, r) => n + r.differences, 0);
    const reports = found.flatMap((r) => r.reports).slice(0, 5);
    expect(differences, `${differences} differences\n\n${reports.join("\n\n")}\n`).toBe(0);
  });
}

test("there is something to judge", () => {
  expect(judged.length).toBeGreaterThan(0);
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
