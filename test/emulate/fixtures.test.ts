/**
 * The repository's own programs, linked statically: as they are and rewritten in each layout, in the emulator and on this
 * machine. All must do the same. LONG=1 takes every static build of the matrix in every layout, else one of each program
 * is taken, in one layout.
 *
 * What needs threads or processes ends in a system call that is not implemented, and has to say so.
 */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import { build } from "../fixtures/build.js";
import { buildEntry, type Entry, matrix } from "../fixtures/matrix.js";
import { emulate, runNatively, seen } from "./both.js";

const long = process.env.LONG !== undefined;
const layouts = ["nop5", "nop,nop5", "nop,nop10"] as const;

/** System calls that programs with threads (clone3, clone) and processes (clone) need, by program. */
const notImplemented: Readonly<Record<string, RegExp>> = {
  cancel: /^not implemented: system call (435|56)$/,
  forks: /^not implemented: system call (56|57)$/,
  threads: /^not implemented: system call (435|56)$/,
};

const folder = fileURLToPath(new URL("../../.cache/emulate", import.meta.url));
mkdirSync(folder, { recursive: true });

let total = 0;
let rewritten = 0;
afterAll(() => {
  console.log(`${total.toLocaleString("en")} instructions emulated, ${rewritten} rewritten programs`);
  console.log(
    `not implemented: ${Object.entries(notImplemented)
      .map(([name, says]) => `${name}: ${says}`)
      .join("; ")}`,
  );
});

function chosen(): readonly Entry[] {
  const possible = matrix().filter(({ way, impossible }) => impossible === null && way.link.startsWith("static"));
  if (long) return possible;
  const programs = [...new Set(possible.map(({ fixture }) => fixture.name))];
  return programs.map((name, turn) => {
    const builds = possible.filter(({ fixture }) => fixture.name === name);
    return builds[turn % builds.length]!;
  });
}

/** The file rewritten in a layout, or undefined where there was nothing to rewrite. */
function rewrittenAs(file: string, layout: (typeof layouts)[number], name: string): string | undefined {
  const image = parseElf(readFileSync(file));
  const options = {
    kernel: "6.18",
    layout,
    only: [],
    newBuildId: false,
    tableAtEnd: false,
    keepOffsets: false,
    forkGuard: false,
  } as const;
  const { content, report } = rewrite(image, options);
  if (content === null || report.sites.every(({ status }) => status !== "rewritten")) return undefined;
  const bytes = Buffer.alloc(content.size);
  for (const { offset, bytes: piece } of content.pieces) bytes.set(piece, offset);
  const output = join(folder, `${name.replaceAll(/[^\w-]+/g, "-")}-${layout.replace(",", "-")}`);
  writeFileSync(output, bytes);
  chmodSync(output, 0o755);
  return output;
}

function compare(file: string, name: string): void {
  const expected = notImplemented[name];
  const emulated = emulate(file, {});
  total += emulated.instructions;
  if (expected !== undefined) expect(emulated.end).toMatch(expected);
  else expect(seen(emulated)).toEqual(seen(runNatively(file, {})));
}

describe("static programs of the matrix", () => {
  it.each(chosen().map((entry, turn) => [entry.name, entry, turn] as const))("%s", async (name, entry, turn) => {
    const built = await buildEntry(entry);
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    compare(built.path, entry.fixture.name);
    for (const layout of long ? layouts : [layouts[turn % layouts.length]!]) {
      const file = rewrittenAs(built.path, layout, name);
      if (file === undefined) continue;
      rewritten++;
      compare(file, entry.fixture.name);
    }
  });
});

describe("the sample", () => {
  it.each(["-static", "-static-pie"])("with %s", async (link) => {
    const built = await build({
      output: "orders",
      compiler: "gcc",
      sources: [fileURLToPath(new URL("../../sample/orders.c", import.meta.url))],
      flags: ["-O2", link],
    });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    for (const layout of layouts) {
      const file = rewrittenAs(built.path, layout, `orders${link}`)!;
      compare(file, "orders");
      expect(emulate(file, {}).stdout).toBe("1000 orders, 499500 cents, 91 large\n");
    }
  });
});
