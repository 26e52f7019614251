/**
 * What programs consist of, against what the emulator implements: every instruction in the functions around the probe
 * sites of the five Debian packages, and in statically linked programs as far as they run without features beyond the
 * baseline. What is missing elsewhere in those files is counted, and with LONG=1 printed.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { compilerOf } from "../../../src/emulate/families/index.js";
import { decodeInstructions } from "../../../src/emulate/instruction.js";
import { UnsupportedOperand } from "../../../src/emulate/operands.js";
import { corpus, corpusPath, FETCH_TIMEOUT } from "../../packages/corpus.js";
import { type Survey, surveyFile, surveyStatic, surveyTable } from "./corpus-mnemonics.js";

function implemented(bytes: Uint8Array): boolean {
  const [instruction] = decodeInstructions(bytes, 0x400000, 1);
  if (instruction === undefined) return false;
  try {
    return compilerOf(instruction.mnemonic)?.(instruction) !== undefined;
  } catch (error) {
    if (error instanceof UnsupportedOperand) return false;
    throw error;
  }
}

const missing = (survey: Survey): Survey => new Map([...survey].filter(([, { example }]) => !implemented(example)));

function print(where: string, left: Survey): void {
  const count = [...left.values()].reduce((n, o) => n + o.sites + o.files + o.static, 0);
  const summary = `${where}: ${count} instructions of ${left.size} forms are not implemented`;
  console.log(process.env.LONG ? `${summary}\n${surveyTable(left)}` : summary);
}

test(
  "all instructions of the functions around the sites are implemented",
  () => {
    const survey: Survey = new Map();
    for (const file of Object.values(corpus)) surveyFile(corpusPath(file), survey);
    const left = missing(survey);
    print("of the five packages", left);
    const atSites = new Map([...left].filter(([, o]) => o.sites > 0));
    expect(atSites.size, surveyTable(atSites)).toBe(0);
    expect(survey.size).toBeGreaterThan(400);
  },
  FETCH_TIMEOUT,
);

const program = `
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int by(const void *a, const void *b) { return strcmp(a, b); }
int main(int argc, char **argv) {
  double sum = 0;
  char text[100] = {0};
  for (int i = 1; i < 1000; i++) sum += sqrt(i) / i;
  char *copy = malloc(1000);
  memset(copy, argc, 1000);
  snprintf(text, sizeof text, "%f %s %c", sum, argv[0], copy[3]);
  qsort(text, 10, 1, by);
  return puts(text) < 0;
}
`;

/**
 * What glibc has for x87, for processors with more features, and for control-flow enforcement: not for the baseline.
 */
const notBaseline = /^(f|wait|xsave|xrstor|xbegin|xend|xabort|incssp|rdssp|hlt|rdtsc|xgetbv)/;

test("all instructions of a static program that the baseline runs are implemented", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-nop5-survey-"));
  try {
    const source = path.join(folder, "program.c");
    writeFileSync(source, program);
    execFileSync("gcc", ["-O2", "-static", "-o", path.join(folder, "program"), source, "-lm"], { timeout: 60_000 });
    const survey: Survey = new Map();
    surveyStatic(path.join(folder, "program"), survey);
    const left = missing(survey);
    print("of a static program", left);
    const names = surveyTable(left).split("\n").slice(1, -1);
    expect(names.filter((line) => !notBaseline.test(line))).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
