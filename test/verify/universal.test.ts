/**
 * Universal probes: verify proves those that rewriting writes, and finds what is wrong with others: a question with the
 * wrong sense, of the wrong byte, flags or rcx lost, one place without its note, a note that names the other's place,
 * places that agree modulo 4096.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { PAGE_SIZE, vaddr } from "../../src/address.js";
import { type ElfImage, offsetOf } from "../../src/elf/image.js";
import type { SiteReport } from "../../src/rewritten/contract.js";
import { readUsdtNotes, type UsdtNote } from "../../src/usdt/notes.js";
import { NOP5, NOP10 } from "../../src/x86/bytes.js";
import { canCompile, compile } from "../rewrite/compile.js";
import { changed, complaints, held, type RewrittenFile, rewritten } from "./held.js";

const flagsSource = fileURLToPath(new URL("../facts/flags.S", import.meta.url));

/** A leaf with values below rsp, one that calls, one whose argument lies on the stack, and two of one name. */
const source = `
#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) long leaf(long a, long b) {
  volatile long kept[6] = {a, b, a + b, a - b, 1, 2};
  STAP_PROBE2(universal, leaf, a, kept[3]);
  return kept[2] + kept[3] * kept[0];
}
__attribute__((noinline)) long caller(long a) {
  long sum = 0;
  for (long i = 0; i < a; i++) {
    STAP_PROBE1(universal, twice, i);
    sum += leaf(i, a);
  }
  STAP_PROBE1(universal, twice, sum);
  return sum;
}
int main(int argc, char **argv) {
  (void)argv;
  printf("%ld\\n", caller(argc + 9));
  return 0;
}
`;

/** What flags.S has not: somewhere to begin. */
const MAIN = `
        .text
        .globl  main
        .type   main, @function
main:   xor     %eax, %eax
        ret
        .size   main, . - main
`;

type Change = (copy: Buffer, image: ElfImage) => void;

describe.skipIf(!canCompile)("universal probes", () => {
  let made: RewrittenFile;
  let flags: RewrittenFile;
  beforeAll(async () => {
    const options = { kernel: "any", layout: "universal", forkGuard: true } as const;
    made = rewritten(await compile(source, "-O2"), options);
    flags = rewritten(
      await compile(
        readFileSync(flagsSource, "utf8") + MAIN,
        "-x",
        "assembler-with-cpp",
        "-Wl,--unresolved-symbols=ignore-all",
      ),
      options,
    );
  });

  const siteNamed = (file: RewrittenFile, name: string): SiteReport => {
    const site = file.report.sites.find((s) => s.name === name && s.twin !== null);
    if (site === undefined) throw new Error(`${name} is not universal`);
    return site;
  };
  const at = (image: ElfImage, address: number): number => offsetOf(image, vaddr(address))!;
  const notesOf = (image: ElfImage, site: SiteReport): [UsdtNote, UsdtNote] => {
    const notes = readUsdtNotes(image);
    return [notes.find((n) => n.location === site.newLocation)!, notes.find((n) => n.location === site.twin)!];
  };
  const setLocation = (copy: Buffer, note: UsdtNote, to: number): void => {
    copy.writeBigUInt64LE(BigInt(to - note.prelinkShift), note.locationOffset);
  };
  const verdictsAfter = (file: RewrittenFile, change: Change): string[] =>
    complaints(held(changed(file.bytes, change), file.original));

  it("are proved, in each of their forms", () => {
    expect(made.report.sites.map((s) => [s.name, s.twin !== null, s.guard])).toEqual([
      ["leaf", true, true],
      ["twice", true, false],
      ["twice", true, false],
    ]);
    expect(complaints(held(made.bytes))).toEqual([]);
  });

  it("have two notes of one name, one after the other, and all places of a name differ modulo 4096", () => {
    const image = changed(made.bytes, () => {});
    const locations: [string, number][] = [];
    changed(image, (_copy, parsed) => {
      for (const { name, location } of readUsdtNotes(parsed)) locations.push([name, location]);
    });
    expect(locations.map(([name]) => name)).toEqual(["leaf", "leaf", "twice", "twice", "twice", "twice"]);
    expect(locations.map(([, l]) => l)).toEqual(made.report.sites.flatMap((s) => [s.newLocation, s.twin]));
    const twice = locations.filter(([name]) => name === "twice").map(([, l]) => l % PAGE_SIZE);
    expect(new Set(twice).size).toBe(4);
  });

  /** Form A begins 9 bytes before its nop. */
  const QUESTION = 9;

  it.each<[what: string, change: (site: SiteReport) => Change]>([
    ["the question's sense", (s) => (copy, image) => copy.writeUInt8(0x74, at(image, s.newLocation - 2))],
    ["the number it compares with", (s) => (copy, image) => copy.writeUInt8(1, at(image, s.newLocation - 3))],
    [
      "the byte it asks",
      (s) => (copy, image) => {
        const offset = at(image, s.newLocation - QUESTION) + 2;
        copy.writeInt32LE(copy.readInt32LE(offset) + 1, offset);
      },
    ],
    [
      "a question of the program's own data",
      (s) => (copy, image) => {
        const offset = at(image, s.newLocation - QUESTION) + 2;
        copy.writeInt32LE(copy.readInt32LE(offset) - 64, offset);
      },
    ],
    ["a branch past the nop5", (s) => (copy, image) => bump(copy, at(image, s.newLocation - 1), s.guard ? 10 : 5)],
    ["a branch to the nop10", (s) => (copy, image) => copy.writeUInt8(1, at(image, s.newLocation - 1))],
    ["no jump around the nop5", (s) => (copy, image) => copy.set([0x66, 0x90], at(image, s.newLocation + 11))],
    ["a jump into the nop5", (s) => (copy, image) => bump(copy, at(image, s.newLocation + 12), -4)],
    ["another nop5", (s) => (copy, image) => copy.writeUInt8(8, at(image, s.twin! + 4))],
    ["another nop10", (s) => (copy, image) => copy.writeUInt8(0x36, at(image, s.newLocation + 2))],
    ["no nop5", (s) => (copy, image) => copy.set(Buffer.alloc(5, 0x90), at(image, s.twin!))],
    [
      "the second note names the first place",
      (s) => (copy, image) => setLocation(copy, notesOf(image, s)[1], s.newLocation),
    ],
    ["the first note names the second place", (s) => (copy, image) => setLocation(copy, notesOf(image, s)[0], s.twin!)],
    [
      "both notes changed places",
      (s) => (copy, image) => {
        const [first, second] = notesOf(image, s);
        setLocation(copy, first, s.twin!);
        setLocation(copy, second, s.newLocation);
      },
    ],
    [
      "the second note is another probe's",
      (s) => (copy, image) => {
        const [, second] = notesOf(image, s);
        copy.write("x", second.argumentOffset - 2, "latin1");
      },
    ],
    [
      "the second note has no semaphore that the first has not",
      (s) => (copy, image) => copy.writeUInt8(8, notesOf(image, s)[1].locationOffset + 16),
    ],
  ])("of which verify finds another in: %s", (_what, change) => {
    for (const name of ["leaf", "twice"]) {
      const found = verdictsAfter(made, change(siteNamed(made, name)));
      expect(found.length, name).toBeGreaterThan(0);
      expect(found.join("\n"), name).toMatch(/different|notes of probes|loaded|agree|offset|address/);
    }
  });

  it("whose second place reads another argument are different", () => {
    const site = siteNamed(made, "leaf");
    const found = verdictsAfter(made, (copy, image) => {
      const [first, second] = notesOf(image, site);
      const text = second.argumentText;
      expect(text).not.toBe(first.argumentText);
      copy.write(
        text.replace(/(\d+)\(%rsp\)/, (all, n: string) => all.replace(n, `${Number(n) - 8}`.padStart(n.length, "0"))),
        second.argumentOffset,
        "latin1",
      );
    });
    expect(found.join("\n")).toContain("different universal:leaf: the argument");
  });

  describe("where flags are needed", () => {
    /** Every case of flags.S, by what its comment says. */
    const cases = [...readFileSync(flagsSource, "utf8").matchAll(/^\s*probe\s+(\w+)\s+# (alive|dead)/gm)].map(
      ([, name, word]) => [name!, word!] as const,
    );

    it("are proved as they are written", () => {
      expect(cases.length).toBeGreaterThan(10);
      const verdicts = new Map(held(flags.bytes).sites.map((s) => [s.name, s.verdict] as const));
      for (const [name] of cases) expect([name, verdicts.get(name)]).toEqual([name, "equivalent"]);
    });

    /** The frame, the kept rcx, the question; both places with rcx loaded again. */
    const FORM_B = { question: 21, five: 25, zero: 36, size: 55 };

    it("and are not proved where the question destroys them", () => {
      let tried = 0;
      for (const [name, word] of cases) {
        const site = flags.report.sites.find((s) => s.name === name)!;
        if (word !== "alive" || site.twin === null) continue;
        const start = site.twin - FORM_B.five;
        const bytes = changed(flags.bytes, (copy, image) => {
          const from = at(image, start);
          const selector = start + 19 + copy.readInt32LE(from + 15);
          const code = Buffer.alloc(FORM_B.size, 0xcc);
          code.set([0x80, 0x3d, 0, 0, 0, 0, 0, 0x75, 13, 0x90], 0);
          code.writeInt32LE(selector - (start + 7), 2);
          code.set(NOP10, 10);
          code.set([0xeb, 5], 20);
          code.set(NOP5, 22);
          code.set([0xeb, FORM_B.size - 29], 27);
          copy.set(code, from);
          const [first, second] = notesOf(image, site);
          setLocation(copy, first, start + 9);
          setLocation(copy, second, start + 22);
        });
        const verdict = held(bytes, flags.original).sites.find((s) => s.name === name)!;
        expect([name, verdict.verdict === "equivalent"], verdict.reason ?? "").toEqual([name, false]);
        expect(verdict.reason).toContain("flags");
        tried++;
      }
      expect(tried).toBeGreaterThan(5);
    });

    it.each<[what: string, change: (start: number) => Change]>([
      ["rcx is not loaded again where the selector is set", (s) => fill(s + 21, 4)],
      ["rcx is not loaded again where it is 0", (s) => fill(s + 32, 4)],
      ["rcx is not kept", (s) => fill(s + 8, 4)],
      ["the frame is lowered by less", (s) => byte(s + 4, 0x80)],
      ["the frame is raised by more", (s) => byte(s + 51, 0x90)],
      ["the question's sense", (s) => byte(s + 19, 0xe2)],
      ["the byte is read with its sign", (s) => byte(s + 13, 0xbe)],
      ["the byte goes to another register", (s) => byte(s + 14, 0x15)],
    ])("verify finds that %s", (_what, change) => {
      const site = flags.report.sites.find((s) => s.name === "jump_after")!;
      const found = verdictsAfter(flags, change(site.twin! - FORM_B.five));
      expect(found.join("\n")).toMatch(/different flags:jump_after/);
    });

    const fill =
      (address: number, size: number): Change =>
      (copy, image) =>
        copy.set(Buffer.from("0f1f4000", "hex").subarray(0, size), at(image, address));
    const byte =
      (address: number, value: number): Change =>
      (copy, image) =>
        copy.writeUInt8(value, at(image, address));
  });
});

const bump = (copy: Buffer, offset: number, by: number): void => {
  copy.writeInt8(copy.readInt8(offset) + by, offset);
};
