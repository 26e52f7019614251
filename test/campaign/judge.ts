/**
 * One program, judged: run as it is, rewritten, run again, verified, and now and then run with a uprobe on every site. The
 * machine's own CPU says whether it is still the same program.
 */

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Layout, RewriteReport } from "../../src/rewritten/contract.js";
import type { SparseContent } from "../../src/sparse-content.js";
import type { VerifyReport } from "../../src/verify/contract.js";
import type { GeneratedFunction, Kinds } from "./function.js";
import { type Built, buildProgram, generate, type Program } from "./program.js";
import { Random } from "./random.js";
import type { Toolkit } from "./toolkit.js";

export interface FunctionRecord {
  readonly program: number;
  readonly name: string;
  readonly kinds: Kinds;
  readonly unusual: number;
  readonly assumption: string | null;
  readonly link: string;
  readonly cfi: boolean;
  readonly stripped: boolean;
  readonly layout: Layout;
  readonly sites: number;
  readonly rewritten: number;
  readonly tactics: readonly string[];
  /** Why sites were left as they were. */
  readonly skipped: readonly string[];
  /** What the rewritten function did, untraced; null where nothing in its program was rewritten. */
  readonly untraced: "same" | "wrong" | null;
  /** Traced; null where it was not. */
  readonly traced: "same" | "wrong" | null;
  readonly equivalent: number;
  readonly unproved: number;
  readonly different: number;
  /** What is wrong, or why verify says different. */
  readonly detail: string;
}

export interface ProgramRecord {
  readonly program: number;
  readonly functions: readonly FunctionRecord[];
  /** Functions that the compiler refused, or that do not run as they are. */
  readonly impossible: number;
  readonly broken: readonly string[];
  /** What verify says of the rest of the file. */
  readonly findings: readonly string[];
  /** What was thrown. */
  readonly errors: readonly string[];
}

export interface JudgeOptions {
  readonly seed: number;
  readonly folder: string;
  readonly driver: string;
  readonly tracedShare: number;
  /** Copies of programs that are not the same any more, or are not proved, go here. */
  readonly keep: string | null;
  readonly layout: Layout | null;
}

/** What a program prints, by function: a hash, or how it died. */
type Results = ReadonlyMap<string, string>;

function runOnce(built: Built, file: string, range: readonly string[]): { lines: string[]; died: string | null } {
  const [command, ...args] = [...built.host, file, ...range];
  const { stdout, status, signal, error } = spawnSync(command!, args, {
    encoding: "latin1",
    stdio: ["ignore", "pipe", "ignore"],
    timeout: 30_000,
    killSignal: "SIGKILL",
  });
  const died = status === 0 ? null : (signal ?? error?.message ?? `exit ${status}`);
  return { lines: stdout.split("\n").filter((line) => line !== ""), died };
}

/** Runs all functions; behind one that dies the program is started again. */
function runAll(built: Built, file: string): Results {
  const results = new Map<string, string>();
  for (let first = 0; first < built.functions.length; ) {
    const { lines, died } = runOnce(built, file, [`${first}`]);
    for (const line of lines) {
      const [name, result] = line.split(" ");
      results.set(name!, result === "" || result === undefined ? `died ${died}` : line.slice(name!.length + 1));
    }
    // It may not even begin.
    if (died === null || lines.length === 0) break;
    first += lines.length;
  }
  return results;
}

const wholeContent = ({ size, pieces }: SparseContent): Buffer => {
  const bytes = Buffer.alloc(size);
  for (const piece of pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
};

/** Auto as most use it; the layouts that it chooses from are asked for as well. */
function layoutOf(random: Random, traced: boolean): Layout {
  const value = random.next();
  // On request nop5 is written where values below rsp are lost while somebody traces: that is known and told.
  if (traced) return value < 0.4 ? "universal" : value < 0.6 ? "auto" : "nop,nop10";
  return value < 0.4 ? "universal" : value < 0.5 ? "auto" : value < 0.75 ? "nop5" : "nop,nop10";
}

/** Kinds of functions that keep something where a traced site may write. */
const shownTraced = new Set(["rsp is a data pointer", "red zone", "reads below rsp between site and call"]);

const text = (error: unknown): string => (error instanceof Error ? `${error.name}: ${error.message}` : String(error));

/** Generates, builds and judges program `index`; null where it cannot be built. */
export function judge(toolkit: Toolkit, index: number, options: JudgeOptions): ProgramRecord {
  const program = generate(options.seed, index);
  const folder = join(options.folder, `p${index}`);
  mkdirSync(folder, { recursive: true });
  try {
    const built = buildProgram(program, folder, options.driver);
    if (built === null)
      return {
        program: index,
        functions: [],
        impossible: program.functions.length,
        broken: [],
        findings: [],
        errors: [],
      };
    return judgeBuilt(toolkit, program, built, folder, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function judgeBuilt(
  toolkit: Toolkit,
  program: Program,
  built: Built,
  folder: string,
  options: JudgeOptions,
): ProgramRecord {
  const { index } = program;
  const random = Random.of(options.seed, index, 0x10ad);
  // What only shows while somebody traces is traced more often.
  const shows = program.functions.some(({ kinds }) => shownTraced.has(kinds.special));
  const traces = random.chance(options.tracedShare * (shows ? 2 : 0.5));
  const layout = options.layout ?? layoutOf(random, traces);
  const native = runAll(built, built.file);
  const works = (f: GeneratedFunction): boolean => /^[0-9a-f]{16}$/.test(native.get(f.name) ?? "");
  const functions = built.functions.filter(works);
  const broken = built.functions
    .filter((f) => !works(f))
    .map((f) => `${index} ${f.name} ${native.get(f.name) ?? "not run"} ${JSON.stringify(f.kinds)}`);
  const errors: string[] = [];
  const base = { program: index, impossible: program.functions.length - built.functions.length, broken, errors };

  const output = join(folder, "rewritten");
  let report: RewriteReport;
  let changed = false;
  try {
    const { image, rewrite } = toolkit;
    const result = rewrite.rewrite(image.parseElf(readFileSync(built.file)), {
      // What the command takes where nobody says anything: with it auto writes nop5, of which a traced one is a call.
      kernel: "6.18",
      layout,
      only: [],
      newBuildId: false,
      tableAtEnd: false,
      keepOffsets: false,
      forkGuard: true,
    });
    report = result.report;
    if (result.content !== null) {
      writeFileSync(output, wholeContent(result.content), { mode: 0o755 });
      changed = true;
    }
  } catch (error) {
    errors.push(`program ${index}, rewrite: ${text(error)}`);
    if (options.keep !== null) keep(options.keep, options.seed, program, folder);
    return { ...base, functions: [], findings: [] };
  }
  const after = changed ? runAll(built, output) : null;
  const verified = changed ? verifyFile(toolkit, output, errors, index) : null;
  const traced = changed && traces ? runTraced(toolkit, built, output, errors, index) : null;

  const records = functions.map((f) =>
    record(f, program, layout, { native, after, traced, report, verified, built, output }),
  );
  const isNotable = (r: FunctionRecord): boolean =>
    r.untraced === "wrong" || r.traced === "wrong" || r.different > 0 || r.unproved > 0;
  const findings = (verified?.findings ?? []).map(({ where, what }) => `program ${index}: ${where}: ${what}`);
  const isWorthKeeping = records.some(isNotable) || findings.length > 0 || errors.length > 0;
  if (options.keep !== null && isWorthKeeping) keep(options.keep, options.seed, program, folder);
  return { ...base, functions: records, findings };
}

function verifyFile(toolkit: Toolkit, file: string, errors: string[], index: number): VerifyReport | null {
  try {
    const image = toolkit.image.parseElf(readFileSync(file));
    return toolkit.verify.verify(image, toolkit.original.carriedOriginal(image));
  } catch (error) {
    errors.push(`program ${index}, verify: ${text(error)}`);
    return null;
  }
}

function runTraced(toolkit: Toolkit, built: Built, file: string, errors: string[], index: number): Results | null {
  try {
    const { places } = toolkit.tracedFile.readTracedFile(file);
    const uprobes = toolkit.uprobes.attachUprobes(toolkit.tracefs.requireTracefs(), places);
    try {
      return runAll(built, file);
    } finally {
      uprobes.detach();
    }
  } catch (error) {
    errors.push(`program ${index}, traced: ${text(error)}`);
    return null;
  }
}

interface Seen {
  readonly native: Results;
  readonly after: Results | null;
  readonly traced: Results | null;
  readonly report: RewriteReport;
  readonly verified: VerifyReport | null;
  readonly built: Built;
  readonly output: string;
}

function record(f: GeneratedFunction, program: Program, layout: Layout, seen: Seen): FunctionRecord {
  const own = <T extends { name: string }>(sites: readonly T[]): T[] =>
    sites.filter(({ name }) => name.slice(0, name.lastIndexOf("_")) === f.name);
  const sites = own(seen.report.sites);
  const verdicts = own(seen.verified?.sites ?? []);
  const expected = seen.native.get(f.name)!;
  const compare = (results: Results | null): "same" | "wrong" | null =>
    results === null ? null : results.get(f.name) === expected ? "same" : "wrong";
  let untraced = compare(seen.after);
  let traced = compare(seen.traced);
  let detail = "";
  if (untraced === "wrong") {
    detail = `${expected} became ${seen.after!.get(f.name) ?? "not run"}`;
    // One that went wrong before may have damaged what this one works with: alone it shows what itself does.
    const order = [...seen.native.keys()].indexOf(f.name);
    const alone = runOnce(seen.built, seen.output, [`${order}`, `${order + 1}`]);
    if (alone.lines[0] === `${f.name} ${expected}`) untraced = "same";
  } else if (traced === "wrong") {
    detail = `traced ${expected} became ${seen.traced!.get(f.name) ?? "not run"}`;
  }
  // Without probes of its own that are traced, what it does traced is what it does.
  if (untraced === "wrong") traced = null;
  const different = verdicts.filter((v) => v.verdict === "different");
  if (detail === "" && different.length > 0) detail = `verify: ${different[0]!.reason}`;
  const unproved = verdicts.filter((v) => v.verdict === "unproved");
  if (detail === "" && unproved.length > 0) detail = `verify, unproved: ${unproved[0]!.reason}`;
  return {
    program: program.index,
    name: f.name,
    kinds: f.kinds,
    unusual: f.unusual,
    assumption: f.assumption,
    link: program.flavour.link,
    cfi: program.flavour.cfi,
    stripped: program.flavour.stripped,
    layout,
    sites: sites.length,
    rewritten: sites.filter((s) => s.status === "rewritten").length,
    tactics: sites.flatMap((s) => (s.status === "rewritten" ? [s.tactic ?? "-"] : [])),
    skipped: sites.flatMap((s) => (s.status === "skipped" ? [s.reason ?? "-"] : [])),
    untraced,
    traced,
    equivalent: verdicts.length - different.length - unproved.length,
    unproved: unproved.length,
    different: different.length,
    detail,
  };
}

function keep(where: string, seed: number, { index, build }: Program, folder: string): void {
  const to = join(where, `${seed}-p${index}`);
  mkdirSync(to, { recursive: true });
  const source = build === null ? "program.s" : build.compiler === "g++" ? "program.cc" : "program.c";
  for (const name of [source, "program", "rewritten"].filter((name) => existsSync(join(folder, name))))
    copyFileSync(join(folder, name), join(to, name));
}
