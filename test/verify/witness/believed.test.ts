/** What compilers make of ordinary C, and the witness once doubted for no reason: all of it is called equivalent. */
import { writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { scratch } from "../../rewrite/compile.js";
import { must } from "../../run.js";
import { canRun } from "../../unwind/pairs.js";
import { tryRewriting } from "../tried.js";

const program = (body: string): string => `#include <sys/sdt.h>
#include <stdio.h>
__attribute__((noinline, noclone)) void other(long *io) { io[1]++; }
__attribute__((noinline, noclone)) int f(long op, int x, long *io) {
${body}
}
int main(void) { long io[4] = {0}; for (int i = 0; i < 3; i++) printf("%d\\n", f(i, 7 * i, io)); return 0; }
`;
const labels = `a: x *= 195; DTRACE_PROBE1(app, a, x); io[2] += x;
b: x += 19; DTRACE_PROBE1(app, b, x); x = -x;
c: DTRACE_PROBE1(app, c, x); return x * 7;`;

const programs: readonly (readonly [string, string, readonly string[], string])[] = [
  [
    "a number less than a short one, in a switch",
    "clang",
    ["-O0", "-fPIC", "-mcmodel=medium"],
    `switch ((short)op - 8) { case -8: x++; case -7: DTRACE_PROBE(app, one); x *= 3; break; case -5: x = 9; case -6: x += 2; case -4: case -3: case 0: DTRACE_PROBE(app, two); x--; } return x;`,
  ],
  [
    "labels made of the global offset table, kept in memory",
    "clang",
    ["-O0", "-fPIC", "-mcmodel=large"],
    `void *to = &&a; int n = 3; if (op == 1) to = &&b; else if (op == 2) to = &&c;
next: if (n-- == 0) return x; io[3] = (long)to; other(io); to = (void *)io[3]; io[3] = 0; goto *to;
a: x *= 195; DTRACE_PROBE1(app, a, x); to = &&b; goto next;
b: x += 19; DTRACE_PROBE1(app, b, x); to = &&c; goto next;
c: DTRACE_PROBE1(app, c, x); to = &&a; goto next;`,
  ],
  [
    "two switches whose tables are made of one register",
    "clang",
    ["-O2", "-fPIC", "-mcmodel=medium"],
    `switch ((int)op) { case 0: x += 1; DTRACE_PROBE(app, s0); break; case 1: x -= 2; break; case 2: x ^= 3; break; case 4: x += x;
case 5: DTRACE_PROBE(app, s5); x *= 9; break; case 100: x = -x; break; case 101: x >>= 1; case 102: x |= 64; case 103: x++; } return x * 2;`,
  ],
  [
    "a word of a table that a callee leaves in its register",
    "gcc",
    ["-O2", "-no-pie", "-fno-pie", "-mindirect-branch=thunk-inline"],
    `static const int t[] = { &&a - &&a, &&b - &&a, &&c - &&a }; int d = t[op]; other(io); goto *(&&a + d);
${labels}`,
  ],
];

const usable = await canRun("gcc", "clang");

describe.skipIf(!usable).concurrent("the witness believes", () => {
  it.each(programs)("%s", async (_, compiler, flags, body) => {
    const [source, path] = [scratch("program.c"), scratch("program")];
    writeFileSync(source, program(body));
    await must(compiler, [...flags, "-w", source, "-o", path]);
    const { problems, rewritten } = await tryRewriting(path);
    expect(problems).toEqual([]);
    expect(rewritten).toBeGreaterThan(0);
  });
});
