/**
 * Every fixture of the matrix: verify finds nothing. The judges of the matrix itself say that these files are what they should
 * be; here verify has to agree. The layouts go round: a fixture has each of them, and so have each linker and link mode. LONG=1
 * verifies all of them of every file.
 */
import { describe, expect, it } from "vitest";
import { buildEntry, matrix } from "../fixtures/matrix.js";
import { complaints, held, rewriteFile } from "./held.js";

const LONG = process.env.LONG === "1";
const layouts = ["universal", "nop5", "nop,nop5", "nop,nop10"] as const;
let tried = 0;
let verified = 0;

describe.concurrent("verify finds nothing", () => {
  matrix().forEach((entry, turn) => {
    if (entry.impossible !== null) {
      it.skip(`${entry.name}: ${entry.impossible}`);
      return;
    }
    it(entry.name, async () => {
      const built = await buildEntry(entry);
      if (!built.ok) throw new Error(`${built.because}\n${built.command}`);
      for (const layout of LONG ? layouts : [layouts[turn % layouts.length]!]) {
        tried++;
        const made = rewriteFile(built.path, { layout, newBuildId: turn % 4 === 0, tableAtEnd: turn % 5 === 0 });
        if (made === null) continue;
        expect(complaints(held(made.bytes)), layout).toEqual([]);
        verified++;
      }
    });
  });
});

describe("the matrix", () => {
  it("had files to verify", () => {
    expect(tried).toBeGreaterThan(LONG ? 700 : 120);
    expect(verified / tried).toBeGreaterThan(0.65);
  });
});
