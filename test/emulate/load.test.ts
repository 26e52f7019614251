/**
 * The loader: what a program finds in its pages, whoever linked it, against what the kernel puts there; the same image
 * seen through link-time addresses against readelf's dump; and that a large library costs next to nothing.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { PAGE_SIZE, runtimeAddress } from "../../src/address.js";
import { PT_LOAD } from "../../src/elf/constants.js";
import { parseElf } from "../../src/elf/image.js";
import { type Loaded, load } from "../../src/emulate/load.js";
import { Memory, Perm } from "../../src/emulate/memory.js";
import { Regions } from "../../src/emulate/regions.js";
import { build } from "../fixtures/build.js";
import { must } from "../run.js";
import { emulate, runNatively, seen } from "./both.js";

const source = fileURLToPath(new URL("programs/segments.c", import.meta.url));
const exists = (tool: string): boolean => spawnSync(tool, ["--version"]).error === undefined;

const links: readonly { readonly name: string; readonly linker?: string; readonly flags: readonly string[] }[] = [
  { name: "ld", flags: [] },
  { name: "ld -z noseparate-code", flags: ["-Wl,-z,noseparate-code"] },
  { name: "ld, static-pie", flags: ["-static-pie", "-fPIE"] },
  { name: "ld, pages of 2 MiB", flags: ["-Wl,-z,max-page-size=0x200000", "-Wl,-z,common-page-size=0x1000"] },
  { name: "ld -N, one segment that is all of RWX", flags: ["-Wl,-N", "-Wl,--defsym=__ehdr_start=0x400000"] },
  { name: "gold", linker: "ld.gold", flags: ["-fuse-ld=gold"] },
  { name: "lld", linker: "ld.lld", flags: ["-fuse-ld=lld"] },
  { name: "mold", linker: "mold", flags: ["-fuse-ld=mold"] },
];

describe.skipIf(!exists("gcc"))("pages of a program", () => {
  for (const { name, linker, flags } of links) {
    it.skipIf(linker !== undefined && !exists(linker))(name, async () => {
      const position = flags.includes("-static-pie") ? [] : ["-static", "-fno-pie"];
      const built = await build({
        output: "segments",
        compiler: "gcc",
        sources: [source],
        flags: ["-O1", "-w", "-nostdlib", "-ffreestanding", "-fno-stack-protector", ...position, ...flags],
      });
      if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
      const emulated = emulate(built.path, {});
      expect(emulated.stdout.split("\n").length).toBeGreaterThan(3);
      expect(seen(emulated)).toEqual(seen(runNatively(built.path, {})));
    });
  }
});

const library = "/usr/lib/x86_64-linux-gnu/libc.so.6";

function loaded(file: string, bias: number): { memory: Memory; regions: Regions; program: Loaded } {
  const memory = new Memory();
  const regions = new Regions(memory);
  return { memory, regions, program: load(regions, parseElf(readFileSync(file)), bias) };
}

describe.skipIf(!existsSync(library))("a library", () => {
  const bias = 0x7f12_3456_7000;

  it.each([".text", ".rodata", ".data.rel.ro", ".dynamic"])("has its %s where readelf says", async (section) => {
    const headers = await must("readelf", ["-SW", library]);
    const [, address, offset, size] = new RegExp(
      `\\] ${section.replaceAll(".", "\\.")} +\\S+ +(\\w+) (\\w+) (\\w+)`,
    ).exec(headers)!;
    const { memory, program } = loaded(library, bias);
    const at = program.toRuntime(Number.parseInt(address!, 16) as Parameters<Loaded["toRuntime"]>[0]);
    expect(at).toBe(Number.parseInt(address!, 16) + bias);
    expect(program.toLinkTime(at)).toBe(Number.parseInt(address!, 16));
    const [from, length] = [Number.parseInt(offset!, 16), Number.parseInt(size!, 16)];
    expect(Buffer.from(memory.peek(at, length)).equals(readFileSync(library).subarray(from, from + length))).toBe(true);
  });

  it("has the permissions of its segments, and nothing beside them", () => {
    const { regions, program } = loaded(library, bias);
    for (const p of program.image.programHeaders.filter((one) => one.p_type === PT_LOAD)) {
      const region = regions.at(runtimeAddress(p.p_vaddr + bias + p.p_memsz - 1));
      expect(region?.permissions).toBe(p.p_flags | Perm.R);
    }
    expect(regions.at(runtimeAddress(program.start - 1))).toBeUndefined();
    expect(regions.at(program.end)).toBeUndefined();
  });

  it("gives a page back as it was in the file once it is unmapped in memory", () => {
    const { memory, program } = loaded(library, bias);
    const at = program.start;
    const before = memory.peek(at, PAGE_SIZE);
    memory.poke(at, new Uint8Array(PAGE_SIZE));
    expect(memory.peek(at, 4)).toEqual(new Uint8Array(4));
    memory.unmap(at, PAGE_SIZE);
    expect(memory.peek(at, PAGE_SIZE)).toEqual(before);
  });
});

const large = "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so";

it.skipIf(!existsSync(large))("a library of 24 MB costs the pages that are touched", () => {
  const image = parseElf(readFileSync(large));
  const times = Array.from({ length: 9 }, () => {
    const begun = performance.now();
    const memory = new Memory();
    const program = load(new Regions(memory), image, 0x7f00_0000_0000);
    memory.peek(program.toRuntime(image.header.e_entry), 64);
    expect(memory.mappedPages().length).toBe(1);
    return performance.now() - begun;
  }).sort((a, b) => a - b);
  console.log(`libjvm.so is loaded in ${times[4]!.toFixed(2)} ms`);
  expect(times[4]).toBeLessThan(10);
});
