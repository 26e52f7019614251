/**
 * Files that other tools have laid out anew, or that somebody appended data to: notes follow wherever their section lies, what is
 * appended is found from the start and from the end, and a large .bss makes no long file.
 */
import { appendFileSync, copyFileSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { bin, usdtNop5 } from "../command.js";
import { readNotes } from "../judges/notes.js";
import { must, type Outcome, run } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

const source = `
#include <sys/sdt.h>
#include <stdio.h>
__attribute__((noinline)) int leaf(int n) {
  volatile int a[8];
  int s = 0;
  for (int i = 0; i < 8; i++) a[i] = n * i;
  DTRACE_PROBE2(app, leaf, n, a[3]);
  for (int i = 0; i < 8; i++) s += a[i];
  return s;
}
__attribute__((noinline)) int two(int x) { DTRACE_PROBE1(app, two, x); DTRACE_PROBE1(app, two2, x + 1); return x * 3; }
int main(void) {
  int r = 0;
  for (int i = 0; i < 10; i++) r += leaf(i) + two(i);
  printf("%d\\n", r);
}
`;

interface Document {
  readonly sites: readonly { name: string; newLocation: string; twin: string | null; status: string }[];
  readonly hazards: readonly { code: string; message: string }[];
  readonly size: { readonly input: number; readonly output: number };
}

const isThere = async (tool: string): Promise<boolean> =>
  (await run(tool, ["--version"]).catch(() => null))?.status === 0;
const hasPatchelf = await isThere("patchelf");
const hasLint = await isThere("eu-elflint");

/** Rewrites, and holds the output to all that is expected of one: notes by readelf, verify, the way back, what it prints. */
async function rewritten(file: string, ...options: readonly string[]): Promise<Document & { output: string }> {
  const output = scratch("out");
  const outcome: Outcome = await usdtNop5("rewrite", file, "-o", output, "--json", ...options);
  expect(outcome.status, outcome.stderr).toBe(0);
  const document = JSON.parse(outcome.stdout) as Document;
  const places = (await readNotes(output)).map((note) => `0x${note.location.toString(16)}`);
  expect(places).toEqual(document.sites.flatMap((s) => [s.newLocation, ...(s.twin === null ? [] : [s.twin])]));
  const verified: Outcome = await usdtNop5("verify", "--strict", output);
  expect(verified.status, verified.stdout + verified.stderr).toBe(0);
  const back = scratch("back");
  await usdtNop5("revert", output, "-o", back);
  expect(readFileSync(back).equals(readFileSync(file))).toBe(true);
  const [before, now] = [await run(file, []), await run(output, [])];
  expect(now).toEqual(before);
  return { ...document, output };
}

/** The complaints of eu-elflint, without the numbers by which sections and segments are told. */
async function lint(file: string): Promise<string[]> {
  const { stdout } = await run("eu-elflint", ["--gnu-ld", file]);
  return stdout.split("\n").map((line) => line.replace(/\[ *\d+\]|entry \d+|note type 3 .* at offset \d+/g, ""));
}

/** A copy of the dynamic loader whose path is longer than what the linker wrote. */
function interpreter(): string {
  const copy = scratch("a-dynamic-loader-with-a-name-that-is-longer-than-the-one-which-the-linker-wrote.so");
  copyFileSync(realpathSync("/lib64/ld-linux-x86-64.so.2"), copy);
  return copy;
}

describe.skipIf(!canCompile)("files in another order than a linker leaves", () => {
  describe.skipIf(!hasPatchelf)("patchelf", () => {
    const changes: readonly (readonly [option: string, value: () => string])[] = [
      ["--set-interpreter", interpreter],
      ["--set-rpath", () => "/a/path/that/is/so/long/that/the/strings/have/to/move/to/another/place"],
      ["--add-needed", () => "libm.so.6"],
    ];

    it.each(changes)("%s first", async (option, value) => {
      for (const pie of ["-pie", "-no-pie"]) {
        const file = await compile(source, "-g", pie);
        await must("patchelf", [option, value(), file]);
        const { sites } = await rewritten(file);
        expect(sites.map((s) => s.status)).toEqual(["rewritten", "rewritten", "rewritten"]);
        await rewritten(file, "--layout", "nop,nop10");
      }
    });

    it("and objcopy behind it, which leaves PT_GNU_PROPERTY at a wrong offset", async () => {
      const file = await compile(source, "-no-pie");
      await must("patchelf", ["--set-rpath", "/a/path/that/is/so/long/that/the/strings/have/to/move", file]);
      await must("objcopy", [file]);
      await rewritten(file);
    });
  });

  it("objcopy: a section behind all others, and debug information that is compressed", async () => {
    const file = await compile(source, "-g");
    const added = scratch("added");
    writeFileSync(added, "something of ours");
    await must("objcopy", ["--add-section", `.ours=${added}`, "--compress-debug-sections", file]);
    const { output } = await rewritten(file);
    const dumped = scratch("dumped");
    await must("objcopy", ["--dump-section", `.ours=${dumped}`, output, scratch("copy")]);
    expect(readFileSync(dumped, "utf8")).toBe("something of ours");
  });

  it("the table that finds frame records has a null pointer", async () => {
    const file = await compile(source, "-no-pie");
    const bytes = readFileSync(file);
    const headers = await must("readelf", ["-SW", file]);
    const [, offset] = /\.eh_frame_hdr +PROGBITS +[0-9a-f]+ ([0-9a-f]+)/.exec(headers)!;
    bytes.writeUInt32LE(0, Number.parseInt(offset!, 16) + 12 + 4);
    writeFileSync(file, bytes);
    await rewritten(file);
  });
});

const payload = `
#include <stdio.h>
#include <string.h>
#include <sys/sdt.h>
volatile unsigned long pos[2] = {0x1122334455667788, 0};
static int is_there(FILE *f, long at, int whence) {
  char b[6] = {0};
  fseek(f, at, whence);
  return fread(b, 1, 6, f) == 6 && !memcmp(b, "BUNDLE", 6);
}
int main(void) {
  FILE *f = fopen("/proc/self/exe", "rb");
  DTRACE_PROBE1(ax, pos, pos[0]);
  printf("from the start %d, from the end %d\\n", is_there(f, pos[0], SEEK_SET), is_there(f, -5006, SEEK_END));
}
`;

describe.skipIf(!canCompile)("appended data", () => {
  it.each([[], ["-g"], ["-s"], ["-no-pie"], ["-static"]])(
    "is found from the start and from the end: %s",
    async (...flags) => {
      const file = await compile(payload, ...flags);
      const bytes = readFileSync(file);
      bytes.writeBigUInt64LE(BigInt(bytes.length), bytes.indexOf(Buffer.from("8877665544332211", "hex")));
      writeFileSync(file, bytes);
      appendFileSync(file, `BUNDLE${"x".repeat(5000)}`);
      expect((await run(file, [])).stdout).toBe("from the start 1, from the end 1\n");
      const { hazards } = await rewritten(file);
      expect(hazards.find((h) => h.code === "appended-data")?.message).toContain("stay at their offset");
    },
  );
});

const large = `
#include <sys/sdt.h>
#include <stdio.h>
static char big[1UL << 30];
int main(int c, char **v) { big[c] = 1; DTRACE_PROBE1(app, hit, c); printf("%d\\n", big[c] + big[c + 4096]); }
`;

describe.skipIf(!canCompile)("a large .bss", () => {
  it("makes no long file, and the report says what perf misses then", async () => {
    const file = await compile(large);
    const { size, hazards, output } = await rewritten(file);
    expect(size.output).toBeLessThan(3 * size.input);
    expect(statSync(output).size).toBe(size.output);
    expect(hazards.find((h) => h.code === "perf")?.message).toMatch(
      /cannot find 1 probe: .*--keep-offsets changes that/,
    );
  });

  it("makes one with --keep-offsets: a hole, and verify's memory does not follow it", async () => {
    const file = await compile(large);
    const output = scratch("kept");
    const outcome = await usdtNop5("rewrite", file, "-o", output, "--json", "--keep-offsets");
    const { size, hazards } = JSON.parse(outcome.stdout) as Document;
    expect(hazards.map((h) => h.code)).not.toContain("perf");
    expect(size.output).toBeGreaterThan(2 ** 30);
    expect(statSync(output).blocks * 512).toBeLessThan(2 ** 20);
    const { status, stderr } = await run("/usr/bin/time", [
      "-f",
      "%M",
      process.execPath,
      bin,
      "verify",
      "--strict",
      output,
    ]);
    expect(status, stderr).toBe(0);
    expect(Number(stderr.trim()) / 1024).toBeLessThan(400);
  });

  it.skipIf(!hasLint)("in a segment of its own gives eu-elflint nothing new to find", async () => {
    const flags = ["-g", "-no-pie", "-Wl,-Tdata=0x900000", "-Wl,-Tbss=0xa00000"];
    const file = await compile(source, ...flags);
    for (const options of [[], ["--keep-offsets"]]) {
      const { output } = await rewritten(file, ...options);
      const known = await lint(file);
      expect((await lint(output)).filter((line) => !known.includes(line))).toEqual([]);
    }
  });
});
