/**
 * gdb's backtrace at every probe of small programs, guarded ones too, and at the instructions of new code behind each: the same
 * as in the program before. stacks.ts says what is compared.
 *
 * Then the same with faults planted into the output, of which gdb must see each: otherwise it took its stacks from
 * somewhere else, such as a guess about prologues.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { rewrite } from "../command.js";
import { options } from "../fixtures/head.js";
import { allFixtures } from "../fixtures/matrix.js";
import { copyWithSemaphoresRaised } from "../packages/sites.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { newRecords } from "./faults.js";
import { build, canRun, DENSE, type Pair } from "./pairs.js";
import {
  comparable,
  comparableStops,
  framesIn,
  gdbStacksMissing,
  type Stop,
  type Subject,
  stacksAt,
} from "./stacks.js";

const LONG = process.env.LONG === "1";
const skip = skipBecause("backtraces of programs, by gdb", canCompile ? gdbStacksMissing() : "no compiler");

interface Program {
  readonly source: string;
  readonly ways: readonly (readonly [string, ...string[]])[];
  readonly arguments?: string;
  readonly options?: readonly string[];
}

const fixture = (name: string): string => join("../../fixtures/programs", name);

/** Those whose threads may come to a probe in any order, or that are built as libraries alone, are not for this. */
const ordered = (file: string): boolean => !/threads|cancel|forks|ifunc|xray|patchable|signals|large-data/.test(file);

const programs: readonly Program[] = [
  {
    // With an argument it does not step through itself.
    source: "steps.c",
    arguments: "quiet > /dev/null",
    ways: [
      ["gcc", "-O2"],
      ["clang", "-O0"],
      ["gcc", "-O1", "-fno-omit-frame-pointer", "-no-pie", "-fno-PIC"],
      ...(LONG
        ? ([
            ["gcc", "-O0"],
            ["gcc", "-Os", "-fomit-frame-pointer"],
            ["gcc", "-O2", "-fuse-ld=gold"],
            ["gcc", "-O2", "-fuse-ld=lld"],
            ["clang", "-O2"],
            ["clang", "-O0", "-fomit-frame-pointer"],
          ] as const)
        : []),
    ],
  },
  // Calls that moved: return addresses in new code are on the stack.
  {
    source: "leaving.cc",
    arguments: "stay < /dev/null > /dev/null",
    ways: [["g++", "-O2", ...DENSE], ...(LONG ? ([["clang++", "-O2"]] as const) : [])],
  },
  {
    source: "throwing.cc",
    ways: [["g++", "-O2", "-std=c++14", ...DENSE], ...(LONG ? ([["clang++", "-O2"]] as const) : [])],
  },
  { source: fixture("exceptions.cc"), ways: [["g++", "-O2"]] },
  { source: fixture("neighbours.c"), ways: [["gcc", "-O2"]] },
  ...(LONG
    ? allFixtures()
        .filter(({ file, head }) => ordered(file) && head.links === undefined)
        .map(({ file, head }): Program => {
          const [c, cc] = file.endsWith(".cc") ? ["g++", "clang++"] : ["gcc", "clang"];
          const more = options(head.flags);
          return {
            source: fixture(file.replace(/.*\//, "")),
            ways: [
              [c, "-O2", ...more],
              [c, "-O0", ...more],
              [cc, "-O1", ...more.filter((word) => word !== "-fcoroutines")],
            ],
          };
        })
    : []),
];

const STEPS = 12;

async function compared(subject: Subject, after: string): Promise<readonly [readonly Stop[], readonly Stop[]]> {
  const [was, is] = await Promise.all([
    stacksAt(subject, scratch("task")),
    stacksAt({ ...subject, file: after, steps: STEPS }, scratch("task")),
  ]);
  return [was, is];
}

/** A fixture may have sites that are left, and some behind semaphores: those are raised. */
async function buildFixture(source: string, compiler: string, flags: readonly string[]): Promise<Pair> {
  const folder = scratch("fixture");
  mkdirSync(folder);
  const [idle, before, after, raised] = ["idle__", "before", "after_", "raised"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
    string,
  ];
  const file = fileURLToPath(new URL(`programs/${source}`, import.meta.url));
  await must(compiler, [...flags, file, "-o", idle, "-w"]);
  const report = await rewrite(idle, after);
  const raise = (from: string, to: string): unknown =>
    source.includes("semaphores") ? copyWithSemaphoresRaised(from, to) : copyFileSync(from, to);
  raise(idle, before);
  raise(after, raised);
  return { before, after: raised, report };
}

let [sites, frames, instructions, guarded, above, left] = [0, 0, 0, 0, 0, 0];

describe.skipIf(skip)("backtraces of programs, by gdb", () => {
  for (const { source, ways, arguments: words = "> /dev/null" } of programs)
    for (const [compiler, ...flags] of ways)
      it(`${source.replace(/.*\//, "")} ${compiler} ${flags.join(" ")}`, async ({ skip: leave }) => {
        const linker = flags.find((f) => f.startsWith("-fuse-ld="))?.slice(9);
        if (!(await canRun(compiler, ...(linker === undefined ? [] : [`ld.${linker}`])))) return leave();
        const isFixture = source.includes("/");
        const { before, after, report } = await (isFixture ? buildFixture : build)(source, compiler, flags);
        const [was, is] = await compared({ file: before, arguments: words }, after);
        expect(was.length).toBeGreaterThan(isFixture ? 1 : 4);
        expect(comparableStops(is, true, was)).toEqual(comparableStops(was, true, is));
        for (const { stacks, note } of is) {
          // One at each instruction until new code is left: what called is the same at all of them, and so is the CFA.
          const first = comparable(stacks[0]!, true);
          for (const stack of stacks) expect([note, ...comparable(stack, true)]).toEqual([note, ...first]);
          instructions += stacks.length;
          left += report.sites[note]!.status === "skipped" ? 1 : 0;
          if (report.sites[note]!.guard) guarded++;
          above += stacks[0]!.filter((frame, i) => i > 0 && frame.isNew).length;
        }
        sites += is.length;
        frames += framesIn(is);
      });

  it("stopped at sites, at guarded ones too", () => {
    console.log(
      `gdb: ${sites} sites, ${guarded} guarded, ${left} not rewritten, ${instructions} instructions, ${frames} frames, ${above} of them in new code above`,
    );
    expect(guarded).toBeGreaterThan(0);
    expect(instructions).toBeGreaterThan(sites);
    expect(above).toBeGreaterThan(1);
  });

  describe("with a fault planted", () => {
    const faults: Readonly<Record<string, (bytes: Buffer, at: number) => void>> = {
      "records that begin elsewhere": (bytes, at) => bytes.writeInt32LE(bytes.readInt32LE(at + 8) + 0x10000, at + 8),
      "a CFA that is 8 too low": (bytes, at) => {
        // DW_CFA_def_cfa_offset N, DW_CFA_def_cfa rsp N.
        const end = at + 4 + bytes.readUInt32LE(at);
        for (let i = at + 17; i + 2 < end; i++) {
          if (bytes[i] === 0x0e) bytes[i + 1]! ^= 8;
          if (bytes[i] === 0x0c && bytes[i + 1] === 7) bytes[i + 2]! ^= 8;
        }
      },
    };
    let pair: Pair;
    for (const [name, plant] of Object.entries(faults))
      it(name, async () => {
        pair ??= await build("steps.c", "gcc", ["-O2"]);
        const records = await newRecords(pair.after);
        expect(records.length).toBeGreaterThan(5);
        const bytes = readFileSync(pair.after);
        for (const record of records) plant(bytes, record);
        const path = scratch("planted");
        writeFileSync(path, bytes, { mode: 0o755 });
        const [was, is] = await compared({ file: pair.before, arguments: "quiet > /dev/null" }, path);
        expect(is.length).toBe(was.length);
        const differ = is.filter(({ stacks: [stack] }, i) => {
          return JSON.stringify(comparable(stack!, true)) !== JSON.stringify(comparable(was[i]!.stacks[0]!, true));
        });
        expect(differ.length).toBeGreaterThan(is.length / 3);
      });
  });
});
