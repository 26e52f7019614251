/**
 * Whole static programs, from their start to their end: what they do in the emulator against what they do on this machine.
 * Output on both streams and exit status or signal must be the same.
 *
 * Where a program needs what is not implemented, the outcome must say so: `notImplemented` lists these cases with what
 * they are to say, and such a program's output up to there must be the same.
 *
 * LONG=1 takes more ways to build each program.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { runProgram } from "../../src/emulate/linux/run.js";
import { build } from "../fixtures/build.js";
import { emulate, runNatively, type Surroundings, seen } from "./both.js";

const source = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));

interface Way {
  readonly name: string;
  readonly compiler: string;
  readonly flags: readonly string[];
}

const exists = (tool: string): boolean => spawnSync(tool, ["--version"]).error === undefined;

const usual: readonly Way[] = [
  { name: "gcc -O0 static", compiler: "gcc", flags: ["-O0", "-static"] },
  { name: "gcc -O2 static-pie", compiler: "gcc", flags: ["-O2", "-static-pie", "-fPIE"] },
  { name: "clang -O2 static", compiler: "clang", flags: ["-O2", "-static"] },
  { name: "musl-gcc -O2 static", compiler: "musl-gcc", flags: ["-O2", "-static"] },
];
const further: readonly Way[] = [
  { name: "gcc -O3 static", compiler: "gcc", flags: ["-O3", "-static"] },
  { name: "clang -O0 static-pie", compiler: "clang", flags: ["-O0", "-static-pie", "-fPIE"] },
  { name: "musl-gcc -O0 static", compiler: "musl-gcc", flags: ["-O0", "-static"] },
];
const ways = [...usual, ...(process.env.LONG === undefined ? [] : further)].map((way) => ({
  ...way,
  flags: [...way.flags, "-g0", "-w", "-DDOUBLES"],
}));

const programs: readonly string[] = [
  ...["digests", "floating", "heap", "jumps", "mathematics", "printing", "recursion", "signals", "sorting", "strings"],
  ...["wide"],
];

/** Outcomes that are to be explicit, by program and way. */
const notImplemented: readonly { readonly program: string; readonly way: RegExp; readonly says: RegExp }[] = [
  // exp, pow and others of glibc save MXCSR with its exception flags, which are not tracked.
  { program: "mathematics", way: /^(gcc|clang)/, says: /stmxcsr/ },
  // musl computes decimals of doubles in long double.
  { program: "printing", way: /^musl/, says: /^not implemented: fld/ },
];

/** Instructions by program, over all ways to build it. */
const ran = new Map<string, number>();
const count = (program: string, instructions: number): void => {
  ran.set(program, (ran.get(program) ?? 0) + instructions);
};
afterAll(() => {
  const total = [...ran.values()].reduce((a, b) => a + b, 0);
  console.log(`${total.toLocaleString("en")} instructions emulated`);
  for (const [program, instructions] of ran) console.log(`  ${program}: ${instructions.toLocaleString("en")}`);
  for (const { program, way, says } of notImplemented) console.log(`not implemented: ${program}, ${way}: ${says}`);
});

async function compiled(program: string, { compiler, flags }: Way): Promise<string> {
  const built = await build({ output: program, compiler, sources: [source(`${program}.c`)], flags: [...flags, "-lm"] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

function compare(program: string, file: string, surroundings: Surroundings = {}): void {
  const emulated = emulate(file, surroundings);
  count(program, emulated.instructions);
  expect(seen(emulated)).toEqual(seen(runNatively(file, surroundings)));
}

for (const way of ways) {
  describe.skipIf(!exists(way.compiler))(way.name, () => {
    it.each(programs)("%s", async (program) => {
      const file = await compiled(program, way);
      const expected = notImplemented.find((one) => one.program === program && one.way.test(way.name));
      if (expected === undefined) return compare(program, file);
      const emulated = emulate(file, {});
      count(program, emulated.instructions);
      expect(emulated.end).toMatch(expected.says);
      const native = runNatively(file, {});
      expect(native.end).toMatch(/^exit/);
      expect(native.stdout.startsWith(emulated.stdout)).toBe(true);
    });

    it("arguments, environment, auxiliary vector, input", async () => {
      const surroundings = {
        arguments: ["one", "", "three 3"],
        environment: ["A=1", "LONG=x y"],
        input: "a bc\n def\n",
      };
      compare("surroundings", await compiled("surroundings", way), surroundings);
    });

    const endings =
      "exit quick return abort null divide undefined breakpoint privileged noncanonical misaligned execute";
    it.each(endings.split(" "))("ends by: %s", async (ending) => {
      compare("ends", await compiled("ends", way), { arguments: [ending] });
    });
  });
}

describe.skipIf(!exists("gcc"))("without a C library", () => {
  it("starts, writes and exits", async () => {
    const built = await build({
      output: "freestanding",
      compiler: "gcc",
      sources: [source("freestanding.S")],
      flags: ["-nostdlib", "-static"],
    });
    if (!built.ok) throw new Error(built.because);
    compare("freestanding", built.path);
    expect(emulate(built.path, {})).toMatchObject({ end: "exit 9", stdout: "6765\n" });
  });
});

describe("the SHA-256 program", () => {
  it.skipIf(!exists("gcc"))("computes what FIPS 180-2 says of abc", async () => {
    const file = await compiled("digests", ways[0]!);
    const digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    expect(emulate(file, {}).stdout).toContain(`abc ${digest}\n`);
  });
});

describe.skipIf(!exists("gcc"))("what is not a static program, or has no end", () => {
  const endsBuilt = (flags: readonly string[]): Promise<string> =>
    compiled("ends", { name: "", compiler: "gcc", flags });

  it("a dynamic program is refused", async () => {
    const file = await endsBuilt(["-O1"]);
    expect(() => emulate(file, {})).toThrow("needs a dynamic linker: only static programs can be run");
  });

  it("a limit of instructions is kept exactly", async () => {
    const image = parseElf(readFileSync(await endsBuilt(["-O1", "-static"])));
    for (const limit of [0, 1, 777, 5000]) {
      expect(runProgram(image, { limit })).toMatchObject({ end: { kind: "limit" }, instructions: limit });
    }
  });

  it("a run can be repeated: it takes the same instructions", async () => {
    const file = await endsBuilt(["-O1", "-static"]);
    expect(emulate(file, {})).toEqual(emulate(file, {}));
  });
});
