/**
 * Every fixture of the matrix, in every layout: verify finds nothing. The judges of the matrix itself say that these files
 * are what they should be; here verify has to agree.
 */
import { describe, expect, it } from "vitest";
import { buildEntry, matrix } from "../fixtures/matrix.js";
import { complaints, held, rewriteFile } from "./held.js";

const layouts = ["nop5", "nop,nop5", "nop,nop10"] as const;
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
      for (const layout of layouts) {
        const made = rewriteFile(built.path, { layout, newBuildId: turn % 3 === 0, tableAtEnd: turn % 5 === 0 });
        if (made === null) continue;
        expect(complaints(held(made.bytes)), layout).toEqual([]);
        verified++;
      }
    });
  });
});

describe("the matrix", () => {
  it("had files to verify", () => {
    expect(verified).toBeGreaterThan(500);
  });
});
