/** docs/kernels.md says of each claim on which kernels it was seen; the run's own table has the same rows. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { kernels } from "../../src/kernel/kernels.js";
import { type ClaimName, claims } from "./claims.js";
import { tableOf } from "./table.js";

/** The tables that have a column for each range of kernels: first column and others. */
function documented(): readonly (readonly string[])[] {
  const text = readFileSync(new URL("../../docs/kernels.md", import.meta.url), "utf8");
  const ranges = kernels.map(({ range }) => range).join(" | ");
  const rows: (readonly string[])[] = [];
  let isTable = false;
  for (const line of text.split("\n")) {
    if (!line.startsWith("|")) isTable = false;
    const cells = line.split("|").slice(1, -1);
    if (line.includes(ranges)) isTable = true;
    else if (isTable && !line.startsWith("|---")) rows.push(cells.map((cell) => cell.trim()));
  }
  return rows;
}

describe("the table of docs/kernels.md", () => {
  const rows = documented();

  it("has the claims that tests speak of, and no others", () => {
    expect(rows.map(([words]) => words)).toEqual(Object.values(claims).map(({ words }) => words));
  });

  it.each(rows.map((row) => [row[0]!, row] as const))("says seen or not tried: %s", (words, [, ...cells]) => {
    const claim = Object.values(claims).find((one) => one.words === words)!;
    expect(cells).toHaveLength(kernels.length);
    for (const [i, cell] of cells.entries())
      if (claim.where?.(kernels[i]!) === false) expect(cell).toBe("");
      else expect(cell).toMatch(/\b(seen|not tried)\b/);
  });

  it("is printed of what tests saw, and of nothing else", () => {
    const kernel = { kind: "kernel", series: "7.2", version: "7.2.13-1", bytes: 2e6 } as const;
    const old = { kind: "kernel", series: "6.1", version: "6.1.176-1", bytes: 1e6 } as const;
    const saw = (claim: ClaimName) => ({ kind: "seen", series: "7.2", claim }) as const;
    const lines = tableOf([kernel, old, saw("fork"), saw("seccomp"), { kind: "word", line: "7.2 a figure" }]);
    const row = (name: ClaimName): string[] =>
      lines
        .find((line) => line.startsWith(claims[name].words))!
        .split(/ {2,}/)
        .slice(1);
    expect(lines[0]!.trim().split(/ +/)).toEqual(["7.2.13", "6.1.176"]);
    expect(row("fork")).toEqual(["seen", "not tried"]);
    expect(row("seccomp")).toEqual(["seen"]);
    expect(row("torn")).toEqual(["not tried"]);
    expect(lines.slice(-3)).toEqual(["7.2 a figure", "not tried: Linux 6.18 to 7.1", "2 kernels, 3 MB of packages"]);
  });
});
