/**
 * The programs that are damaged: small real ones, of several compilers, linkers and ways of linking, so that each kind of
 * table is in some of them; and the same after a rewrite, with what such a file carries.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseElf } from "../../src/elf/image.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteOptions } from "../../src/rewritten/contract.js";
import { type BuildSpec, build } from "../fixtures/build.js";
import { contentOf } from "./content.js";

/** How its output is had: it is run, or loaded by a program that calls `fixture_main`. */
export type Runs = "program" | "library" | "not";

export interface Base {
  readonly name: string;
  readonly bytes: Buffer;
  readonly runs: Runs;
}

interface Recipe extends Omit<BuildSpec, "output"> {
  readonly name: string;
  readonly runs: Runs;
}

const path = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url));
const sample = path("sample/probes.c");
const fixture = (name: string): string => path(`fixtures/programs/${name}`);
const library = ["-shared", "-fPIC", "-Dmain=fixture_main"];

/** A recipe: compiler, source, options. */
const of = (name: string, compiler: string, source: string, flags: string, runs: Runs = "program"): Recipe => ({
  name,
  compiler,
  sources: [source],
  flags: [...flags.split(" ").filter((flag) => flag !== ""), ...(runs === "library" ? library : [])],
  runs,
});

const recipes: readonly Recipe[] = [
  of("pie", "gcc", sample, "-O2"),
  of("fixed addresses", "gcc", sample, "-O2 -no-pie"),
  of("library", "gcc", sample, "-O2", "library"),
  of("static musl", "musl-gcc", sample, "-O2 -static -idirafter/usr/include -idirafter/usr/include/x86_64-linux-gnu"),
  of("musl", "musl-gcc", sample, "-O2 -idirafter/usr/include -idirafter/usr/include/x86_64-linux-gnu"),
  of("lld", "clang", sample, "-O2 -fuse-ld=lld"),
  of("mold", "clang", sample, "-O2 -fuse-ld=mold"),
  of("gold", "gcc", sample, "-O1 -fuse-ld=gold"),
  of("relr of bfd", "gcc", fixture("switch.c"), "-O2 -Wl,-z,pack-relative-relocs"),
  of("relr of lld", "clang", fixture("switch.c"), "-O2 -fuse-ld=lld -Wl,--pack-dyn-relocs=relr", "library"),
  of("exceptions", "g++", fixture("exceptions.cc"), "-O2"),
  of("exceptions of lld", "clang++", fixture("exceptions.cc"), "-O2 -fuse-ld=lld -no-pie"),
  of("exceptions in a library", "g++", fixture("exceptions.cc"), "-O2 -s -lstdc++", "library"),
  of("forks", "gcc", fixture("forks.c"), "-O2"),
  of("forks in fixed places", "clang", fixture("forks.c"), "-O2 -no-pie -fuse-ld=lld"),
  of("threads", "gcc", fixture("threads.c"), "-O2 -pthread -Wl,-z,now"),
  of("leaves", "clang", fixture("leaf.c"), "-O2 -fuse-ld=mold"),
  of("leaves with protection", "gcc", fixture("leaf.c"), "-O2 -fcf-protection=full -Wl,-z,noseparate-code"),
  of("ifunc", "gcc", fixture("ifunc.c"), "-O2 -Wl,--emit-relocs"),
  of("frugal", "gcc", fixture("constructors.c"), "-O2 -Wl,--build-id=none -Wl,--hash-style=sysv -Wl,-z,norelro -s"),
  of("versions", "gcc", fixture("loop.c"), `-O2 -Wl,--version-script=${path("fuzz/programs/versions")}`, "library"),
  of(
    "static pie",
    "musl-gcc",
    fixture("loop.c"),
    "-O2 -static-pie -idirafter/usr/include -idirafter/usr/include/x86_64-linux-gnu",
  ),
  of("neighbours", "clang", fixture("neighbours.c"), "-O2 -g -Wl,--hash-style=both"),
  of("rust", "rustc", path("fuzz/programs/small.rs"), "-Cpanic=abort -Copt-level=2"),
  of("an object file", "gcc", sample, "-O2 -c", "not"),
];

/** With a fork guard where one can be had: its tables are carried by no other file. */
const guarded: RewriteOptions = {
  kernel: "6.18",
  layout: "auto",
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: false,
  forkGuard: true,
};

/** All of them, each as it is and rewritten. What this machine cannot build is named. */
export async function bases(): Promise<{ readonly all: readonly Base[]; readonly missing: readonly string[] }> {
  const all: Base[] = [];
  const missing: string[] = [];
  for (const { name, runs, ...spec } of recipes) {
    const built = await build({ ...spec, output: "base" });
    if (!built.ok) {
      missing.push(`${name}: ${built.because}`);
      continue;
    }
    const bytes = readFileSync(built.path);
    all.push({ name, bytes, runs });
    if (runs === "not") continue;
    const { content } = rewrite(parseElf(bytes), guarded);
    if (content === null) throw new Error(`${name}: nothing of it is rewritten`);
    all.push({ name: `${name}, rewritten`, bytes: contentOf(content), runs });
  }
  return { all, missing };
}
