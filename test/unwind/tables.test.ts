/**
 * Unwind tables as linkers and people write them: whatever the input's are like, the output's lead from every function, and
 * from every piece of new code, to its record. readelf says which there are.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { readSections } from "../judges/headers.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { build, canRun, program, steadily } from "./pairs.js";

interface Record {
  readonly offset: number;
  readonly start: bigint;
  readonly cie: number;
}

/** The FDEs and CIEs of a file, as readelf has them; offsets are from the start of the section. */
async function records(file: string): Promise<{ fdes: readonly Record[]; augmentations: ReadonlyMap<number, string> }> {
  const dump = await must("readelf", ["--debug-dump=frames", file]);
  const fdes = [...dump.matchAll(/^([0-9a-f]{8}) [0-9a-f]{16} [0-9a-f]{8} FDE cie=(\w+) pc=([0-9a-f]+)\.\./gm)].map(
    ([, offset, cie, pc]) => ({
      offset: Number.parseInt(offset!, 16),
      start: BigInt(`0x${pc}`),
      cie: Number.parseInt(cie!, 16),
    }),
  );
  const cies = [...dump.matchAll(/^([0-9a-f]{8}) [0-9a-f]{16} [0-9a-f]{8} CIE\n.*\n +Augmentation: +"(\w*)"/gm)];
  return { fdes, augmentations: new Map(cies.map(([, offset, text]) => [Number.parseInt(offset!, 16), text!])) };
}

/** The search table of a file: where functions begin, and where it says that their FDEs are. */
async function searchTable(file: string): Promise<readonly (readonly [bigint, bigint])[]> {
  const hdr = (await readSections(file)).find((s) => s.name === ".eh_frame_hdr")!;
  const bytes = readFileSync(file).subarray(Number(hdr.offset), Number(hdr.offset + hdr.size));
  expect([...bytes.subarray(0, 4)]).toEqual([1, 0x1b, 0x03, 0x3b]);
  const count = bytes.readUInt32LE(8);
  expect(bytes.length).toBe(12 + 8 * count);
  return Array.from({ length: count }, (_, i) => [
    hdr.address + BigInt(bytes.readInt32LE(12 + 8 * i)),
    hdr.address + BigInt(bytes.readInt32LE(16 + 8 * i)),
  ]);
}

/** Whether the table is sorted, and has every FDE that readelf finds. */
async function expectComplete(file: string): Promise<void> {
  const table = await searchTable(file);
  const frames = (await readSections(file)).find((s) => s.name === ".eh_frame")!;
  expect(table.every(([start], i) => i === 0 || start > table[i - 1]![0])).toBe(true);
  const { fdes } = await records(file);
  const known = new Map(table);
  for (const { start, offset } of fdes)
    expect(known.get(start), start.toString(16)).toBe(frames.address + BigInt(offset));
}

const linkers: readonly (readonly [string, ...string[]])[] = [
  ["gcc"],
  ["gcc", "-fuse-ld=gold"],
  ["gcc", "-fuse-ld=lld"],
  ["gcc", "-no-pie", "-fno-PIC"],
  ["gcc", "-static-pie"],
  ["gcc", "-mcmodel=large", "-O1", "-no-pie", "-fno-PIC"],
  ["gcc", "-mcmodel=medium", "-fPIC"],
  ["gcc", "-Wl,-z,noseparate-code"],
  ["gcc", "-fuse-ld=lld", "-ffunction-sections", "-Wl,--gc-sections", "-Wl,--icf=all"],
  ["clang"],
];

const LONG = process.env.LONG === "1";

const tables = [".eh_frame_hdr", ".eh_frame"] as const;

/** Changes the bytes of one of the input's tables. */
const changed =
  (name: (typeof tables)[number], change: (bytes: Buffer) => void) =>
  async (file: string): Promise<void> => {
    const section = (await readSections(file)).find((s) => s.name === name)!;
    const bytes = readFileSync(file);
    change(bytes.subarray(Number(section.offset), Number(section.offset + section.size)));
    writeFileSync(file, bytes);
  };

/** The first of two neighbours in the search table becomes the second. */
const swap = (bytes: Buffer): void => {
  const [a, b] = [Buffer.from(bytes.subarray(12, 20)), Buffer.from(bytes.subarray(28, 36))];
  bytes.set(b, 12);
  bytes.set(a, 28);
};

describe.skipIf(!canCompile)("the input's unwind tables", () => {
  for (const [compiler, ...flags] of linkers)
    it(`of ${compiler} ${flags.join(" ")}: every record is found`, async ({ skip }) => {
      const linker = flags.find((f) => f.startsWith("-fuse-ld="))?.slice(9);
      if (!(await canRun(compiler, ...(linker === undefined ? [] : [`ld.${linker}`])))) skip();
      const { before, after } = await build("steps.c", compiler, ["-O2", "-rdynamic", ...flags], ["--no-fork-guard"]);
      await expectComplete(after);
      expect((await records(after)).fdes.length).toBeGreaterThan((await records(before)).fdes.length);
      expect((await usdtNop5("verify", after, "--original", before)).status).toBe(0);
    });

  it.each([
    ["a record with a 64-bit length, for which the linker makes no search table", "LONG"],
    ["a zero length in the middle", "ZERO"],
    ["the frame of a signal handler", "SIGNAL"],
  ])("with %s", async (_what, define) => {
    const flags = ["-O2", "-rdynamic", `-D${define}`, program("odd-tables.S")];
    const { before, after, report } = await build("steps.c", "gcc", flags, ["--no-fork-guard"]);
    await expectComplete(after);
    const [was, is] = [await steadily(before), await steadily(after)];
    // libgcc finds nothing in the input where it has to walk over a 64-bit length; with a search table it does.
    if (define !== "LONG") expect(is.stdout).toBe(was.stdout);
    expect(is.status).toBe(0);
    expect(is.stdout.trimEnd()).not.toMatch(/^$/m);
    expect((await usdtNop5("verify", after, "--original", before)).status).toBe(0);
    const odd = BigInt(report.sites.find((s) => s.name === "odd")!.newLocation);
    const { fdes, augmentations } = await records(after);
    const own = fdes.filter((f) => f.start <= odd && f.start + 32n > odd).at(-1);
    if (define === "SIGNAL") expect(augmentations.get(own!.cie)).toBe("zRS");
  });

  it("with records of 8-byte distances in the room of the search table", async ({ skip }) => {
    if (!(await canRun("clang"))) skip();
    const flags = ["-O2", "-mcmodel=large", "-fPIC"];
    const { before, after } = await build("many-functions.c", "clang", flags, ["--layout", "nop,nop10"]);
    const frames = (file: string) => readSections(file).then((all) => all.find((s) => s.name === ".eh_frame")!);
    expect((await frames(after)).address).toBeLessThan((await frames(before)).address);
    await expectComplete(after);
    expect((await records(after)).fdes.length).toBeGreaterThan((await records(before)).fdes.length);
    expect((await usdtNop5("verify", after, "--original", before)).status).toBe(0);
  });

  it.each([
    ["is not in order", changed(".eh_frame_hdr", swap)],
    ["is missing", changed(".eh_frame_hdr", (bytes) => bytes.set([0xff, 0xff], 2))],
    ["lacks entries", changed(".eh_frame_hdr", (bytes) => bytes.writeUInt32LE(5, 8))],
    ["is empty", changed(".eh_frame_hdr", (bytes) => bytes.writeUInt32LE(0, 8))],
  ])("a search table that %s is made anew", async (_what, patch) => {
    const { before, after } = await build("steps.c", "gcc", ["-O2", "-rdynamic"], ["--no-fork-guard"], patch);
    await expectComplete(after);
    const is = await steadily(after);
    expect(is.status).toBe(0);
    expect(is.stdout.trimEnd()).not.toMatch(/^$/m);
    expect((await usdtNop5("verify", after, "--original", before)).status).toBe(0);
    expect((await usdtNop5("revert", after, "-o", `${after}.r`)).status).toBe(0);
    expect(readFileSync(`${after}.r`).equals(readFileSync(before))).toBe(true);
  });

  it("damaged: an error of one line, or a file that works as before", async () => {
    const intact = scratch("intact");
    await must("gcc", ["-O2", "-rdynamic", program("steps.c"), "-o", intact]);
    const sections = await readSections(intact);
    let random = 20;
    const next = (below: number): number => {
      random = (random * 1103515245 + 12345) % 2 ** 31;
      return Math.floor((random / 2 ** 31) * below);
    };
    const file = scratch("damaged");
    let refused = 0;
    for (let i = 0; i < (LONG ? 40 : 16); i++) {
      const section = sections.find((s) => s.name === tables[i % 2])!;
      const bytes = readFileSync(intact);
      const at = Number(section.offset) + next(i % 4 < 2 ? 40 : Number(section.size));
      bytes[at] = next(256);
      writeFileSync(file, bytes, { mode: 0o755 });
      const outcome = await usdtNop5("rewrite", file, "-o", `${file}.out`, "--layout", "nop5", "--no-fork-guard");
      expect(outcome.signal).toBeNull();
      if (outcome.status !== 0) {
        expect([outcome.status, outcome.stderr.trimEnd().split("\n").length]).toEqual([1, 1]);
        expect(outcome.stderr).toMatch(/\.eh_frame|exception table|unwind/);
        refused++;
        continue;
      }
      expect((await run(`${file}.out`, ["still"])).stdout).toBe((await run(file, ["still"])).stdout);
    }
    expect(refused).toBeGreaterThan(0);
  }, 300_000);
});
