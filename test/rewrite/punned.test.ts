/**
 * A probe in a function that may be entered anywhere: its nop becomes a jump whose distance is the bytes after it. The
 * program enters these bytes, so that whoever changes one of them breaks it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../../src/address.js";
import { type ElfImage, offsetOf, parseElf, sectionNamed } from "../../src/elf/image.js";
import { revert } from "../../src/rewrite/revert.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteOptions, RewriteReport } from "../../src/rewritten/contract.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { verify } from "../../src/verify/verify.js";
import { overwriteCarelessly } from "../fixtures/careless.js";
import { must, run } from "../run.js";
import { plain } from "../verify/held.js";
import { canCompile, scratch } from "./compile.js";

const source = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const [assembly, main] = [source("punned.S"), source("punned-main.c")];

const options: RewriteOptions = { ...plain, forkGuard: true };

interface Program {
  /** What is rewritten. */
  readonly file: string;
  /** What is run; it may be another file, that loads the first one. */
  readonly run: string;
}

async function program(...flags: readonly string[]): Promise<Program> {
  const file = scratch("program");
  await must("gcc", ["-O2", ...flags, main, assembly, "-o", file]);
  return { file, run: file };
}

async function library(): Promise<Program> {
  const file = scratch("libpunned.so");
  await must("gcc", ["-shared", "-fPIC", assembly, "-o", file]);
  const runner = scratch("runner");
  await must("gcc", ["-O2", main, file, "-o", runner]);
  return { file, run: runner };
}

function rewritten(
  file: string,
  layout: "nop5" | "nop,nop10" = "nop5",
  others: Partial<RewriteOptions> = {},
): { bytes: Buffer; report: RewriteReport } {
  const { content, report } = rewrite(parseElf(readFileSync(file)), { ...options, layout, ...others });
  const bytes = content === null ? readFileSync(file) : Buffer.alloc(content.size);
  for (const piece of content?.pieces ?? []) bytes.set(piece.bytes, piece.offset);
  return { bytes, report };
}

/** Another file in the place of one that is run, or loaded, and what the program prints then. */
async function outcome({ file, run: runner }: Program, bytes: Buffer): Promise<string> {
  const before = readFileSync(file);
  writeFileSync(file, bytes);
  try {
    return await must(runner, []);
  } finally {
    writeFileSync(file, before);
  }
}

function judged(original: Buffer, bytes: Buffer): { verdict: string; findings: number } {
  const { sites, findings } = verify(parseElf(bytes), { image: parseElf(original), findings: [], asLaidOut: true });
  return { verdict: sites[0]!.verdict, findings: findings.length };
}

const farOf = (image: ElfImage) => sectionNamed(image, ".text.nop5.far")!;

describe.skipIf(!canCompile)("punned", () => {
  let made: Readonly<Record<string, Program>>;
  beforeAll(async () => {
    const [pie, fixed, shared] = await Promise.all([program("-pie", "-fPIE"), program("-no-pie"), library()]);
    made = { "a position-independent program": pie, "a program with fixed addresses": fixed, "a library": shared };
  });
  const kinds = ["a position-independent program", "a program with fixed addresses", "a library"];

  it("has programs that break where other bytes change", async () => {
    const { file } = await program("-DPADDING");
    const careless = scratch("careless");
    await overwriteCarelessly(
      file,
      careless,
      "displace",
      BigInt(readUsdtNotes(parseElf(readFileSync(file)))[0]!.location),
    );
    expect((await run(careless, [])).stdout).not.toBe(await must(file, []));
  });

  it.each(kinds)("makes the nop of %s a jump, and changes no byte behind it", async (kind) => {
    const one = made[kind]!;
    const original = readFileSync(one.file);
    const before = await must(one.run, []);
    for (const layout of ["nop5", "nop,nop10"] as const) {
      const { bytes, report } = rewritten(one.file, layout);
      const [site] = report.sites;
      expect(site).toMatchObject({ status: "rewritten", tactic: "punned", redZone: "unknown", displaced: [] });
      const [was, is] = [parseElf(original), parseElf(bytes)];
      const at = offsetOf(was, site!.location)!;
      expect(bytes.toString("hex", at, at + 5)).toBe(`e9${original.toString("hex", at + 1, at + 5)}`);
      expect(bytes.subarray(at + 5, at + 12)).toEqual(original.subarray(at + 5, at + 12));
      expect(await outcome(one, bytes)).toBe(before);
      expect(judged(original, bytes)).toEqual({ verdict: "equivalent", findings: 0 });
      expect(Buffer.concat(revert(is).pieces.map((p) => p.bytes))).toEqual(original);
    }
  });

  it("says what it costs: how much further the file reaches, and the page", () => {
    const { file } = made[kinds[0]!]!;
    const { bytes, report } = rewritten(file);
    const [was, is] = [readFileSync(file), bytes].map((b) => parseElf(b));
    const reach = (image: ElfImage): number =>
      Math.ceil(
        Math.max(...image.programHeaders.filter((p) => p.p_type === 1).map((p) => p.p_vaddr + p.p_memsz)) / PAGE_SIZE,
      ) * PAGE_SIZE;
    expect(report.sites[0]!.cost).toEqual({ addressSpace: reach(is!) - reach(was!), pages: 1 });
    expect(report.hazards.map((h) => h.code)).toContain("punned");
    // In the file it takes no page of its own.
    expect(bytes.length - was!.bytes.length).toBeLessThan(6 * PAGE_SIZE);
  });

  it.each(["-pie", "-no-pie"])("serves several probes of a file, and maps a page for each place (%s)", async (how) => {
    const one = await program(how, ...(how === "-pie" ? ["-fPIE"] : []), "-DSEVERAL");
    const original = readFileSync(one.file);
    const { bytes, report } = rewritten(one.file);
    expect(report.sites.map((s) => [s.tactic, s.cost?.pages])).toEqual([
      ["punned", 1],
      ["punned", 1],
      ["punned", 1],
      ["punned", 1],
      ["punned", 0],
      ["punned", 1],
      ["punned", 1],
    ]);
    const image = parseElf(bytes);
    expect(image.sections.filter((s) => s.name === ".text.nop5.far").length).toBe(6);
    expect(await outcome(one, bytes)).toBe(await must(one.run, []));
    const { sites, findings } = verify(image, { image: parseElf(original), findings: [], asLaidOut: true });
    expect([sites.map((s) => s.verdict), findings]).toEqual([report.sites.map(() => "equivalent"), []]);
    expect(Buffer.concat(revert(image).pieces.map((p) => p.bytes))).toEqual(original);
  });

  it("makes room for any number of program headers, whatever has to move for it", async () => {
    const { file } = await program("-no-pie", "-DSEVERAL");
    const original = parseElf(readFileSync(file));
    const only: string[] = [];
    for (const name of ["walk", "three", "four", "five", "six", "seven"]) {
      only.push(`punned:${name}`);
      const { bytes, report } = rewritten(file, "nop5", { only, forkGuard: false });
      expect(report.sites.filter((s) => s.tactic === "punned").length).toBe(only.length);
      expect(verify(parseElf(bytes), { image: original, findings: [], asLaidOut: true }).findings).toEqual([]);
    }
  });

  it("goes by padding nearby where one byte leads there, which costs nothing", async () => {
    const one = await program("-DPADDING");
    const original = readFileSync(one.file);
    const { bytes, report } = rewritten(one.file);
    expect(report.sites[0]).toMatchObject({ status: "rewritten", tactic: "punned", cost: null });
    const at = offsetOf(parseElf(original), report.sites[0]!.location)!;
    expect(bytes.toString("hex", at, at + 5)).toBe(`eb${original.toString("hex", at + 1, at + 5)}`);
    expect(await outcome(one, bytes)).toBe(await must(one.run, []));
    expect(judged(original, bytes)).toEqual({ verdict: "equivalent", findings: 0 });
    for (const fault of [1, 2 + 0x48]) {
      const faulty = Buffer.from(bytes);
      faulty[at + fault]! ^= 0x10;
      expect(judged(original, faulty).verdict).toBe("different");
    }
  });

  it("reaches as far as jumps do in a program with fixed addresses, where nothing is reserved", async () => {
    const far = "-DFIRST=lea 0x7f(%rax),%rax";
    const one = await program("-no-pie", far);
    const { bytes, report } = rewritten(one.file);
    expect(report.sites[0]).toMatchObject({ status: "rewritten", tactic: "punned" });
    expect(await outcome(one, bytes)).toBe(await must(one.run, []));
    expect(judged(readFileSync(one.file), bytes)).toEqual({ verdict: "equivalent", findings: 0 });
  });

  it("finds no room in a static program, unless the table of program headers may stand elsewhere", async () => {
    const one = await program("-static");
    const original = readFileSync(one.file);
    expect(rewritten(one.file).report.sites[0]!.reason).toMatch(
      /^the jump at \S+ may lead anywhere .*; there is no room for another program header/,
    );
    const { bytes, report } = rewritten(one.file, "nop5", { tableAtEnd: true, forkGuard: false });
    expect(report.sites.find((s) => s.provider === "punned")).toMatchObject({ tactic: "punned" });
    expect(await outcome(one, bytes)).toBe(await must(one.run, []));
    expect(judged(original, bytes)).toEqual({ verdict: "equivalent", findings: 0 });
  });

  describe("verify sees", () => {
    const faulty = (plant: (bytes: Buffer, image: ElfImage) => void): ReturnType<typeof judged> => {
      const { file } = made[kinds[0]!]!;
      const { bytes } = rewritten(file);
      plant(bytes, parseElf(bytes));
      return judged(readFileSync(file), bytes);
    };
    /** Loaded bytes do not move in the file. */
    const site = (): number => {
      const original = parseElf(readFileSync(made[kinds[0]!]!.file));
      return offsetOf(original, readUsdtNotes(original)[0]!.location)!;
    };

    it.each([1, 2, 3, 4])("that byte %i behind the nop is another", (behind) => {
      const { verdict } = faulty((bytes) => {
        bytes[site() + behind]! ^= 0x10;
      });
      expect(verdict).toBe("different");
    });

    it("that a byte further behind is another", () => {
      const { verdict, findings } = faulty((bytes) => {
        bytes[site() + 7]! ^= 0x08;
      });
      expect(verdict === "equivalent" && findings === 0).toBe(false);
    });

    it("that the far jump leads elsewhere, or is none", () => {
      for (const at of [0, 1]) {
        const { verdict } = faulty((bytes, image) => {
          bytes[farOf(image).sh_offset + at]! ^= 0x10;
        });
        expect(verdict).toBe("different");
      }
    });

    it("that the far jump stands at another address", () => {
      const { verdict } = faulty((bytes, image) => {
        const far = image.programHeaders.find((p) => p.p_vaddr === farOf(image).sh_addr)!;
        bytes.writeBigUInt64LE(BigInt(far.p_vaddr + PAGE_SIZE), image.header.e_phoff + far.index * 56 + 16);
      });
      expect(verdict).toBe("different");
    });

    it("that a segment which is said to hold far jumps holds more", () => {
      const { findings } = faulty((bytes, image) => {
        const far = image.programHeaders.find((p) => p.p_vaddr === farOf(image).sh_addr)!;
        for (const field of [32, 40])
          bytes.writeBigUInt64LE(BigInt(far.p_filesz + 16), image.header.e_phoff + far.index * 56 + field);
      });
      expect(findings).toBeGreaterThan(0);
    });
  });

  const skipped = async (...flags: readonly string[]): Promise<readonly string[]> => {
    const file = scratch("program");
    await must("gcc", ["-O2", "-c", ...flags, assembly, "-o", `${file}.o`]);
    await must("gcc", ["-O2", main, `${file}.o`, "-o", file]);
    const { report } = rewritten(file);
    return report.sites.map((s) => (s.status === "skipped" ? s.reason! : `${s.status} ${s.tactic}`));
  };

  it.each([
    ["where the jump would lead too far", ["-DFIRST=lea 0x20(%rax),%rax"], "MiB after the file's segments"],
    ["where it would lead into the file", ["-DFIRST=.byte 0x48,0,0,0"], "where the file's own segments are"],
    ["where it would lead to below the file", ["-DFIRST=lea -8(%rax),%rax"], "in front of the file's first segment"],
    ["where another probe is among the bytes behind", ["-DSECOND_PROBE"], "another probe at"],
    ["where a function begins among them", ["-DFUNCTION_BEHIND"], "a function begins at"],
    ["where rsp may be no stack pointer", ["-DDATA_POINTER"], "rsp may be no stack pointer"],
    ["where the bytes are read as data", ["-DREADS_CODE"], "as data"],
  ])("leaves the nop alone %s", async (_where, flags, reason) => {
    const reasons = await skipped(...flags);
    expect(reasons.join("\n")).toContain(reason);
  });
});
