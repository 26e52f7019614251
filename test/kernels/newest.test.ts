/**
 * A cheap watch: which nop the newest kernels of Debian sid and experimental patch, read off their images and not
 * booted.
 *
 *     npm run kernels:newest
 *
 * It fails where the answer is another one than src/kernel has for that version, and says so where the version is newer
 * than all that were looked at: the table went on without knowing.
 */
import { afterAll, describe, expect, it } from "vitest";
import { isFrom, parseVersion, type Version } from "../../src/kernel/kernels.js";
import { skipBecause } from "../packages/skips.js";
import { nopOfImage } from "./image.js";
import { imageOf, newestKernels } from "./machine.js";

const { kernels, missing } = newestKernels();
const skips = skipBecause("newest kernels", kernels.length === 0 ? missing.join("; ") : null);
const table: string[] = missing.map((line) => `not looked at: ${line}`);

/** The first series whose answer nobody has seen (docs/kernels.md has those that were). */
const UNSEEN: Version = [7, 4];

afterAll(() => {
  if (!skips) console.log(table.join("\n"));
});

describe.skipIf(skips)("the newest kernels patch what the table says", () => {
  it.each(kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))("%s", (_, kernel) => {
    const nop = nopOfImage(imageOf(kernel));
    const news = isFrom(parseVersion(kernel.version)!, UNSEEN)
      ? "; NEW: no kernel of this series was looked at yet"
      : "";
    table.push(`${kernel.series} has ${kernel.version}: ${nop ?? "no nop"} becomes a call${news}`);
    expect(nop, `${kernel.version} is not as ${kernel.facts.range}`).toBe(kernel.facts.optimizes);
  });
});
