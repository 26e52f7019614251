/**
 * One name at many places, as the kernel's own test of libbpf has it (usdt.c, multispec): places whose argument is
 * another constant each have an entry of their own in libbpf's table, places with the same argument share one. (That
 * test has 800 places, of which 300 are too many for the table; libbpf 1.1 takes more than a minute to leave them.)
 */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { cannotTrace } from "./kernel.js";
import { libbpfMissing, withLibbpf } from "./libbpf.js";
import { build, rewriteWith, scratch } from "./rewriting.js";

const skipped = cannotTrace("many places of one name") || skipBecause("many places by libbpf", libbpfMissing());

const each = (count: number, line: (i: number) => string): string =>
  Array.from({ length: count }, (_, i) => line(i)).join("\n");

const SOURCE = `
#include <sys/sdt.h>
int main(void) {
${each(12, (i) => `STAP_PROBE1(multi, unlike, ${i});`)}
${each(24, () => "STAP_PROBE1(multi, alike, 400);")}
return 0;
}
`;

describe.skipIf(skipped)("many places of one name", () => {
  const files = new Map<string, string>();
  beforeAll(async () => {
    const source = scratch("multi.c");
    writeFileSync(source, SOURCE);
    const original = await build("gcc", source, "-O2");
    files.set("as it was", original);
    for (const layout of ["nop5", "nop,nop10"]) {
      const rewritten = await rewriteWith(original, "--layout", layout);
      expect(rewritten.summary).toMatchObject({ sites: 36, rewritten: 36 });
      files.set(layout, rewritten.path);
    }
  });

  it.each(["as it was", "nop5", "nop,nop10"])("%s: libbpf counts each, with its own argument", async (what) => {
    const file = files.get(what)!;
    const seen = await withLibbpf(file, ["multi:unlike", "multi:alike"], () => must(file, []));
    expect(seen.get("multi:unlike")).toMatchObject({ hits: 12 });
    expect(seen.get("multi:unlike")!.arguments[0]).toBe("11");
    expect(seen.get("multi:alike")).toMatchObject({ hits: 24 });
    expect(seen.get("multi:alike")!.arguments[0]).toBe("400");
  });
});
