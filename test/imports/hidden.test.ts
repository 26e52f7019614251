/**
 * What the loader takes for itself: an undefined symbol that is hidden, internal, protected or local is looked up nowhere,
 * and the word of its relocation leads to the file's own start. The processor is the judge: a program that has such a
 * symbol of a function that the guard needs, and never calls it, does the same when it is rewritten.
 */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { dynsym, symbolName } from "../../src/elf/symbols.js";
import { usdtNop5 } from "../command.js";
import { canCompile, compile, scratch } from "../rewrite/compile.js";
import { run } from "../run.js";

const SYM_SIZE = 24;
const source = `
  #include <dlfcn.h>
  #include <stdio.h>
  #include <sys/sdt.h>
  #include <sys/wait.h>
  #include <unistd.h>
  int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
  __attribute__((noinline)) int passed(int n) { STAP_PROBE1(hidden, passed, n); return n + 1; }
  int main(int c, char **v) {
    if (c > 9) { __register_atfork(0, 0, 0, 0); puts(dlsym(0, v[1])); }
    int status = 0;
    pid_t child = fork();
    if (child == 0) return passed(40);
    waitpid(child, &status, 0);
    printf("%d %d\\n", passed(1), WEXITSTATUS(status));
    return 0;
  }`;

/** The program with some bits of st_info and st_other of an import changed. */
async function changed(name: string, change: (entry: Buffer) => void, flags: readonly string[]): Promise<string> {
  const path = await compile(source, ...flags);
  const bytes = readFileSync(path);
  const table = dynsym(parseElf(bytes))!;
  const index = Array.from({ length: table.count }, (_, i) => i).find((i) => i > 0 && symbolName(table, i) === name);
  expect(index).toBeDefined();
  change(bytes.subarray(table.section.sh_offset + index! * SYM_SIZE));
  writeFileSync(path, bytes);
  return path;
}

describe.skipIf(!canCompile)("an import that is none", () => {
  const kinds: readonly (readonly [string, (entry: Buffer) => void])[] = [
    ["internal", (e) => e.writeUInt8(1, 5)],
    ["hidden", (e) => e.writeUInt8(2, 5)],
    ["protected", (e) => e.writeUInt8(3, 5)],
    ["local", (e) => e.writeUInt8(e[4]! & 15, 4)],
  ];
  const names = ["__register_atfork", "dlsym"];
  const links = [["-Wl,-z,now"], ["-Wl,-z,now", "-no-pie"]];
  const cases = kinds.flatMap(([kind, change]) =>
    names.flatMap((name) => links.map((flags) => [kind, name, flags.at(-1)!, change, flags] as const)),
  );

  it.each(cases)("%s %s (%s)", async (_kind, name, _link, change, flags) => {
    const path = await changed(name, change, flags);
    const before = await run(path, []);
    expect([before.status, before.stdout]).toEqual([0, "2 41\n"]);
    const output = scratch("output");
    const { status, stderr } = await usdtNop5("rewrite", "--kernel", "6.18", "--layout", "nop5", path, "-o", output);
    expect(status, stderr).toBe(0);
    chmodSync(output, 0o755);
    const after = await run(output, []);
    expect([after.status, after.signal, after.stdout]).toEqual([0, null, before.stdout]);
    const verified = await usdtNop5("verify", output);
    expect(verified.status, verified.stdout).toBe(0);
  });
});
