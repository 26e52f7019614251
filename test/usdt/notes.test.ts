/** The prelink rule where a note's base says nothing. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { canCompile, compile } from "../rewrite/compile.js";

describe.skipIf(!canCompile)("the base of a note", () => {
  it("moves nothing where it is 0, as in libbpf, and location and semaphore where it is not", async () => {
    const file = await compile(`
      #include <sys/sdt.h>
      int main(int c, char **v) { DTRACE_PROBE1(app, one, c); return 0; }`);
    const bytes = readFileSync(file);
    const [note] = readUsdtNotes(parseElf(bytes));
    const withBase = (base: number) => {
      const copy = Buffer.from(bytes);
      copy.writeBigUInt64LE(BigInt(base), note!.locationOffset + 8);
      return readUsdtNotes(parseElf(copy))[0]!;
    };
    expect(note!.base).toBeGreaterThan(0);
    expect(withBase(0)).toMatchObject({ location: note!.location, prelinkShift: 0 });
    expect(withBase(note!.base - 16)).toMatchObject({ location: note!.location + 16, prelinkShift: 16 });
  });
});
