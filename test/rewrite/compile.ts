/** Compiles small programs for the tests of rewriting, in a folder that goes away with the tests. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { behindFile } from "../behind.js";
import { must, run } from "../run.js";

let folder: string | undefined;
let files = 0;

/** A path in the tests' folder that nothing has yet. */
export function scratch(name: string): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), "usdt-rewrite-"));
    folder = made;
    behindFile(() => {
      rmSync(made, { recursive: true, force: true });
      folder = undefined;
    });
  }
  return join(folder, `${files++}-${name}`);
}

const header = ["/usr/include/sys/sdt.h", "/usr/include/x86_64-linux-gnu/sys/sdt.h"].some(existsSync);
export const canCompile = header && (await run("gcc", ["--version"]).catch(() => ({ status: 1 }))).status === 0;

/** Compiles C, or assembly where `flags` say `-x assembler-with-cpp`. */
export async function compile(source: string, ...flags: readonly string[]): Promise<string> {
  const isAssembly = flags.includes("assembler-with-cpp");
  const file = scratch(isAssembly ? "program.S" : "program.c");
  const output = scratch("program");
  writeFileSync(file, source);
  const language = flags.includes("-x") ? [] : isAssembly ? [] : ["-x", "c"];
  await must("gcc", ["-O2", ...language, ...flags, file, "-o", output]);
  return output;
}

/** A program with many probes, for which -falign-functions=1 leaves no padding; prints the sum of 0 to n-1. */
export const manyProbes = (n: number): string => `
#include <stdio.h>
#include <sys/sdt.h>
${Array.from({ length: n }, (_, i) => `__attribute__((noinline)) long f${i}(long x) { DTRACE_PROBE1(many, p${i}, x); return x + ${i}; }`).join("\n")}
int main(void) {
  long sum = 0;
  ${Array.from({ length: n }, (_, i) => `sum += f${i}(0);`).join(" ")}
  printf("%ld\\n", sum);
}
`;
