/** docs/reasons.md lists each code that a skipped probe can have, with what it means, and no other. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { refusalCodes } from "../../src/rewrite/refusal.js";

it("the codes of docs/reasons.md are those of the program", () => {
  const text = readFileSync(new URL("../../docs/reasons.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| `(\S+)` \| (.*) \|$/gm)].filter(([, code]) => code !== "reasonCode");
  expect(rows.map(([, code, meaning]) => [code, meaning])).toEqual(Object.entries(refusalCodes));
});
