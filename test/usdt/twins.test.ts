/**
 * Two places of one probe are found by notes and code alone, in a program whose pairs are written by hand (twins.S), and
 * what only nearly looks like a pair is none.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { findTwins, twinPlaces } from "../../src/usdt/twins.js";
import { usdtNop5 } from "../command.js";
import { build } from "../fixtures/build.js";
import { must } from "../run.js";

const twinsSource = fileURLToPath(new URL("./twins.S", import.meta.url));

async function program(...flags: readonly string[]): Promise<string> {
  const built = await build({ output: "twins", compiler: "gcc", sources: [twinsSource], flags });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

describe.each([
  ["PIE", ["-pie"]],
  ["fixed addresses", ["-no-pie"]],
])("%s", async (_name, flags) => {
  const path = await program(...flags);
  const image = parseElf(readFileSync(path));
  const notes = readUsdtNotes(image);
  const pairs = findTwins(image, notes);

  it("finds the pairs, and no others", () => {
    expect(pairs.map(({ first, firstShift, twinShift }) => [notes[first]!.name, firstShift, twinShift])).toEqual([
      ["plain", 0, 0],
      ["guarded", 0, 0x80],
      ["kept", 0x88, 0x88],
    ]);
    expect(pairs.map(({ first, twin }) => twin - first)).toEqual([1, 1, 1]);
  });

  it("says where the selector is", async () => {
    const line = (await must("nm", [path])).split("\n").find((l) => l.endsWith(" selector"))!;
    expect(pairs.map(({ selector }) => selector)).toEqual(new Array(3).fill(Number.parseInt(line, 16)));
  });

  it("names each place at the other", () => {
    const places = twinPlaces(notes, pairs);
    for (const { first, twin } of pairs) {
      expect(places[first]).toBe(notes[twin]!.location);
      expect(places[twin]).toBe(notes[first]!.location);
    }
    expect(places.filter((place) => place !== null)).toHaveLength(6);
  });

  it("list says it, and counts each probe once", async () => {
    const { stdout } = await usdtNop5("list", "--json", path);
    const { sites } = (JSON.parse(stdout) as { files: [{ sites: { name: string; location: string; twin: string }[] }] })
      .files[0];
    const twinOf = new Map(sites.map((site) => [site.location, site.twin]));
    for (const site of sites.filter((s) => ["plain", "guarded", "kept"].includes(s.name)))
      expect(twinOf.get(site.twin), site.name).toBe(site.location);
    const others = sites.filter((s) => !["plain", "guarded", "kept"].includes(s.name));
    expect(others.length).toBeGreaterThan(0);
    expect(others.every((s) => s.twin === null)).toBe(true);
    const text = (await usdtNop5("list", path)).stdout;
    expect(text.split("\n")[0]).toContain(`${sites.length - 3} USDT probes, 3 of them with two places`);
  });
});
