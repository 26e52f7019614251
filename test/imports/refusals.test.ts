/** Files that cannot have a child handler, or not all of it: why is said, and nothing is thrown but for damage. */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { PAGE_SIZE, vaddr } from "../../src/address.js";
import { PT_LOAD } from "../../src/elf/constants.js";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import { InputError } from "../../src/errors.js";
import { type ChildHandlerPlan, planChildHandler } from "../../src/rewrite/fork-guard/install/child-handler.js";
import { installChildHandler } from "../../src/rewrite/fork-guard/install/install.js";
import { canCompile, compile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { childOf } from "./handled.js";

const source = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`./programs/${name}`, import.meta.url)), "utf8");
const reason = (file: string): unknown => {
  const plan = planChildHandler(parseElf(readFileSync(file)));
  return typeof plan === "string" ? plan : "none";
};
const library = (...flags: readonly string[]): Promise<string> =>
  compile(source("library.c"), "-shared", "-fPIC", ...flags);
const noMusl = (await run("musl-gcc", ["--version"]).catch(() => ({ status: 1 }))).status !== 0;

describe.skipIf(!canCompile)("no child handler", () => {
  it.each([["-static"], ["-static-pie"]])("in a static program (%s)", async (link) => {
    expect(reason(await compile("int main(void) { return 0; }", link))).toMatch(/^it is static/);
  });

  it("in the C library itself", async () => {
    const libc = (await must("gcc", ["-print-file-name=libc.so.6"])).trim();
    expect(reason(libc)).toBe("it defines __register_atfork itself");
  });

  it("where nothing says which C library it is for", async () => {
    expect(reason(await compile("int value(void) { return 42; }", "-shared", "-fPIC", "-nostdlib"))).toMatch(/glibc/);
  });

  it.skipIf(noMusl)("in a program for musl", async () => {
    const output = scratch("musl");
    await must("musl-gcc", [sourceFile("int main(void) { return 0; }"), "-o", output]);
    expect(reason(output)).toMatch(/musl/);
  });

  it("where there is neither a relocation to spare nor a table of them", async () => {
    const flags = ["-nostartfiles", "-Wl,--spare-dynamic-tags=0", "-Wl,-z,pack-relative-relocs"];
    expect(reason(await library(...flags))).toMatch(/no table of relocations/);
  });

  it("where the section headers say otherwise than the dynamic tags", async () => {
    const bytes = readFileSync(await library());
    const image = parseElf(bytes);
    const strings = image.sections.find((s) => s.name === ".dynstr")!;
    bytes.writeBigUInt64LE(BigInt(strings.sh_size - 1), image.header.e_shoff + strings.index * 64 + 32);
    expect(planChildHandler(parseElf(bytes))).toMatch(/not described alike/);
  });

  it("in a damaged file, which is refused with our own error or a reason", async () => {
    const good = readFileSync(await library("-Wl,--hash-style=both"));
    const image = parseElf(good);
    const tables = image.sections.filter((s) => s.sh_addr > 0 && s.sh_addr < 0x1000 && s.sh_size > 0);
    const dynamic = image.sections.find((s) => s.name === ".dynamic")!;
    let seed = 7;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    let refused = 0;
    for (let round = 0; round < 800; round++) {
      const bytes = Buffer.from(good);
      for (let i = 0; i < 1 + random(3); i++) {
        const target = random(3) === 0 ? dynamic : tables[random(tables.length)]!;
        const at = target.sh_offset + random(target.sh_size);
        bytes[at] = [0, 0xff, 0x80, random(256)][random(4)]!;
      }
      try {
        const installed = installChildHandler(parseElf(bytes), childOf("c3"));
        if (typeof installed === "string") refused++;
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(25);
  });
});

describe.skipIf(!canCompile)("words for signals that are held", () => {
  const planOf = (image: ElfImage): ChildHandlerPlan => {
    const plan = planChildHandler(image);
    if (typeof plan === "string") throw new Error(plan);
    return plan;
  };

  it("are for programs: a library may be unloaded while a handler of it runs", async () => {
    const program = parseElf(readFileSync(await compile("int main(void) { return 0; }")));
    expect(planOf(program).slots).toMatchObject({ count: 8 });
    expect(planOf(parseElf(readFileSync(await library()))).slots).toBeUndefined();
  });

  it("are left out where there is room for the others alone", async () => {
    const image = parseElf(readFileSync(await compile("int main(void) { return 0; }")));
    const loads = image.programHeaders.filter((p) => p.p_type === PT_LOAD);
    const last = loads.at(-1)!;
    const next = Math.ceil((last.p_vaddr + last.p_memsz) / PAGE_SIZE) * PAGE_SIZE;
    // Another segment in the next page, and so many bytes up to it.
    const crowded = (room: number): ElfImage => ({
      ...image,
      programHeaders: [
        ...image.programHeaders.map((p) => (p === last ? { ...p, p_memsz: next - room - p.p_vaddr } : p)),
        { ...last, index: image.programHeaders.length, p_flags: 4, p_vaddr: vaddr(next), p_memsz: 1 },
      ],
    });
    expect(planOf(crowded(19 * 8)).slots).toBeDefined();
    expect(planOf(crowded(18 * 8)).slots).toBeUndefined();
    expect(planOf(crowded(3 * 8)).slots).toBeUndefined();
    expect(planChildHandler(crowded(2 * 8))).toMatch(/no room after its writable segment/);
  });
});

function sourceFile(text: string): string {
  const file = scratch("source.c");
  writeFileSync(file, text);
  return file;
}
