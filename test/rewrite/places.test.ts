/** Where new code goes: each place, seen by readelf and by running the program. */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { rewrite, usdtNop5 } from "../command.js";
import { instructionsAt, nop5 } from "../judges/code.js";
import { sha256 } from "../judges/digest.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { readSections, readSegments } from "../judges/headers.js";
import { must } from "../run.js";
import { canCompile, compile, manyProbes, scratch } from "./compile.js";

const PT_NULL = 0;
const PT_GNU_STACK = 0x6474e551;

async function rewritten(input: string, ...options: readonly string[]): Promise<string> {
  const output = scratch("rewritten");
  const { sites } = await rewrite(input, output, ...options);
  const done = sites.filter((s) => s.status === "rewritten");
  expect(done.length).toBeGreaterThan(0);
  const code = await instructionsAt(
    output,
    done.map((s) => BigInt(s.newLocation)),
  );
  for (const s of done) expect(code.get(BigInt(s.newLocation))?.bytes, s.name).toBe(nop5);
  expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
  expect((await usdtNop5("revert", output, "-o", `${output}.back`)).status).toBe(0);
  expect(sha256(`${output}.back`)).toBe(sha256(input));
  return output;
}

const loads = async (file: string) => (await readSegments(file)).filter((s) => s.type === "LOAD");
const programHeaders = (file: string): { offset: bigint; count: number } => {
  const bytes = readFileSync(file);
  return { offset: bytes.readBigUInt64LE(32), count: bytes.readUInt16LE(56) };
};

describe.skipIf(!canCompile)("the place of new code", () => {
  it("is the rest of the last page where it fits and cannot be unwound: no new segment", async () => {
    const input = await compile(manyProbes(4), "-fno-asynchronous-unwind-tables");
    const output = await rewritten(input, "--no-fork-guard");
    expect((await loads(output)).length).toBe((await loads(input)).length);
    expect(programHeaders(output)).toEqual(programHeaders(input));
    expect(await must(output, [])).toBe(await must(input, []));
    const code = (await readSections(output)).find((s) => s.name === ".text.nop5");
    expect(code?.flags).toBe("AX");
  });

  it("is a new segment of two pages with a fork guard, where the rest of the page is not in two", async () => {
    const input = await compile(manyProbes(4));
    const added = (await loads(await rewritten(input))).at(-1)!;
    expect(added.vaddr % 4096n).toBe(0n);
    expect(added.fileSize).toBeGreaterThan(4096n);
    expect(added.memorySize).toBe(added.fileSize);
  });

  it("is a new segment else: the table grows in place, and what stood behind it moves", async () => {
    const input = await compile(manyProbes(600), "-falign-functions=1");
    const output = await rewritten(input);
    expect((await loads(output)).length).toBe((await loads(input)).length + 1);
    expect(programHeaders(output)).toEqual({ offset: 64n, count: programHeaders(input).count + 1 });
    expect(await must(output, [])).toBe(await must(input, []));
    const sections = await readSections(output);
    const added = (await loads(output)).at(-1)!;
    const interp = sections.find((s) => s.name === ".interp")!;
    expect(interp.address).toBeGreaterThanOrEqual(added.vaddr);
    expect(sections.find((s) => s.name === ".note.gnu.build-id")!.offset).toBeLessThan(4096n);
  });

  it("is described by a free program header where the linker left one", async () => {
    const input = await compile(manyProbes(600), "-falign-functions=1");
    const bytes = readFileSync(input);
    const { offset, count } = programHeaders(input);
    for (let at = Number(offset); at < Number(offset) + count * 56; at += 56)
      if (bytes.readUInt32LE(at) === PT_GNU_STACK) bytes.fill(0, at, at + 56).writeUInt32LE(PT_NULL, at);
    writeFileSync(input, bytes);
    const output = await rewritten(input);
    expect(programHeaders(output)).toEqual({ offset, count });
    expect((await loads(output)).length).toBe((await loads(input)).length + 1);
    expect((await readSections(output)).find((s) => s.name === ".interp")!.offset).toBe(
      (await readSections(input)).find((s) => s.name === ".interp")!.offset,
    );
    expect(await must(output, [])).toBe(await must(input, []));
  });

  // Nothing after the table may move here: the code itself stands there, and data in the rest of its last page.
  const crowded = `
    .globl _start
    .text
    _start: mov $60, %eax
            call f
            syscall
    f:      .cfi_startproc
            mov $7, %edi
    990:    nop
            cmp $3, %edi
            ret
            .cfi_endproc
            .size f, . - f
            .type f, @function
    .data
            .fill 5000, 1, 1
    .section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
    .weak _.stapsdt.base
    _.stapsdt.base: .space 1
    .section .note.stapsdt, "", "note"
            .balign 4
            .4byte 992f-991f, 994f-993f, 3
    991:    .asciz "stapsdt"
    992:    .balign 4
    993:    .8byte 990b, _.stapsdt.base, 0
            .asciz "crowded"
            .asciz "probe"
            .asciz "-4@%edi"
    994:    .balign 4
  `;
  const build = (further = ""): Promise<string> =>
    compile(
      crowded + further,
      "-x",
      "assembler-with-cpp",
      "-nostdlib",
      "-static",
      "-Wl,-z,noseparate-code,--build-id=none,-z,norelro",
    );

  it("is nowhere where the table cannot grow: the site is left alone, with the reason", async () => {
    const input = await build();
    const output = scratch("left-alone");
    const { sites } = await rewrite(input, output);
    expect(sites.map((s) => s.status)).toEqual(["skipped"]);
    expect(sites[0]!.reason).toMatch(/no room for another program header/);
    expect(sha256(output)).toBe(sha256(input));
  });

  it("is a table at the end of the file where the user insists", async () => {
    const input = await build();
    const output = scratch("at-end");
    const outcome = await usdtNop5("rewrite", "--layout", "nop5", "--table-at-end", "--json", input, "-o", output);
    expect(outcome.status, outcome.stderr).toBe(0);
    expect((JSON.parse(outcome.stdout) as { summary: { rewritten: number } }).summary.rewritten).toBe(1);
    expect(programHeaders(output).offset).toBeGreaterThan(64n);
    expect((await usdtNop5("revert", output, "-o", `${output}.back`)).status).toBe(0);
    expect(sha256(`${output}.back`)).toBe(sha256(input));
    const { run } = await import("../run.js");
    expect((await run(output, [])).status).toBe((await run(input, [])).status);
  });

  it("is nowhere where it would be out of a jump's reach: behind 2 GiB of .bss", async () => {
    // With half of that the same program gets its new code, so it is the distance that decides.
    for (const [size, status] of [
      [0x50000000, "rewritten"],
      [0x90000000, "skipped"],
    ] as const) {
      const input = await build(`\n.bss\n.skip ${size}\n`);
      const output = scratch("far");
      const outcome = await usdtNop5(
        ...["rewrite", "--layout", "nop5", "--table-at-end", "--dry-run", "--json", input, "-o", output],
      );
      expect(outcome.status, outcome.stderr).toBe(0);
      const [site] = (JSON.parse(outcome.stdout) as { sites: { status: string; reason: string | null }[] }).sites;
      expect(site!.status).toBe(status);
      if (status === "skipped") expect(site!.reason).toMatch(/out of the reach of a jump \(2 GiB\)/);
    }
  });
});
