/**
 * gdb's backtrace at the probes of the five Debian packages that a program of the tests gets to: the same as in the
 * unrewritten file. The files are stripped, so that new code has no name, and that of frame 0 is not compared; names of the
 * frames above are those of .dynsym. stacks.ts says what else is compared: addresses and CFAs of all frames.
 *
 * Semaphores are raised in copies of the files. Stacks of the JVM are told up to the first frame of code that it has made itself,
 * which has no unwind information.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readSections } from "../judges/headers.js";
import {
  type CorpusFile,
  corpus,
  FETCH_TIMEOUT,
  fetchPackages,
  libraryPath,
  packagesRoot,
} from "../packages/corpus.js";
import { compileJava, javaImage } from "../packages/java.js";
import { install } from "../packages/postgres.js";
import { mustRun } from "../packages/scratch.js";
import { skipBecause } from "../packages/skips.js";
import { makeTwins, raiseTwins, type Twins } from "../packages/twins.js";
import { newRecords } from "./faults.js";
import {
  comparable,
  comparableStops,
  framesIn,
  gdbStacksMissing,
  type Stop,
  type Subject,
  stacksAt,
} from "./stacks.js";

const program = (name: string): string => fileURLToPath(new URL(`../packages/programs/${name}`, import.meta.url));
const skip = skipBecause("backtraces of packages, by gdb", gdbStacksMissing());
const noCompiler = skipBecause(
  "backtraces of libraries, by gdb",
  ["gcc", "g++"].every((tool) => spawnSync(tool, ["--version"]).status === 0) ? null : "no gcc or g++",
);

const log: string[] = [];
afterAll(() => {
  if (log.length > 0) console.log(log.join("\n"));
});

const LONG = process.env.LONG === "1";

/** How often a program with threads is run, until each site was come to on the same way before and after. */
const ROUNDS = 4;

/** Stops of the unrewritten program, and of the rewritten one. */
type Stops = readonly [readonly Stop[], readonly Stop[]];

/** For each note that both came to, a stop before and one after: on the same way, if there was one in some round. */
async function onSameWays(title: string, names: boolean, stops: () => Promise<Stops>): Promise<Stops> {
  const same = (a: Stop, b: Stop): boolean => isDeepStrictEqual(...comparablePair(a, b, names));
  let [before, after] = await stops();
  for (let round = 1; ; round++) {
    const notes = [...new Set(before.map((stop) => stop.note))].sort((a, b) => a - b);
    const pairs = notes.flatMap((note) => {
      const [ways, others] = [before, after].map((all) => all.filter((stop) => stop.note === note));
      const all = ways!.flatMap((b) => others!.map((a) => [b, a] as const));
      return all.length === 0 ? [] : [all.find(([b, a]) => same(b, a)) ?? all[0]!];
    });
    const differing = pairs.filter(([b, a]) => !same(b, a)).length;
    if (differing === 0 || round === ROUNDS) return [pairs.map(([b]) => b), pairs.map(([, a]) => a)];
    log.push(`${title}: come to on another way at ${differing} sites, run again`);
    const [more, moreAfter] = await stops();
    [before, after] = [
      [...before, ...more],
      [...after, ...moreAfter],
    ];
  }
}

/** @param threads whether threads may come to some sites or not, and on this way or on that one, as chance has it */
async function expectSame(
  title: string,
  twins: Twins,
  subjects: readonly [Subject, Subject],
  least: number,
  threads = false,
): Promise<readonly Stop[]> {
  const task = (name: string): string => twins.scratch.file(`${name}.task`);
  const names = (await readSections(subjects[0].file)).some((s) => s.name === ".symtab");
  const stops = async (): Promise<Stops> => [
    await stacksAt(subjects[0], task("before")),
    await stacksAt(subjects[1], task("after")),
  ];
  const [before, after] = threads ? await onSameWays(title, names, stops) : await stops();
  const { length } = twins.report.sites;
  log.push(
    `${title}: stopped at ${before.length} of ${length} sites, ${framesIn(after)} frames${names ? ", names in new code" : ""}`,
  );
  expect(before.length).toBeGreaterThanOrEqual(least);
  expect(comparableStops(after, names, before)).toEqual(comparableStops(before, names, after));
  return before;
}

const comparablePair = (a: Stop, b: Stop, names: boolean): [unknown, unknown] => [
  comparableStops([a], names, [b]),
  comparableStops([b], names, [a]),
];

/** A copy without any unwind information for new code: all new records begin far away. */
async function blanked(file: string, copy: string): Promise<void> {
  const bytes = readFileSync(file);
  for (const at of await newRecords(file)) bytes.writeInt32LE(bytes.readInt32LE(at + 8) + 0x4000_0000, at + 8);
  writeFileSync(copy, bytes, { mode: 0o755 });
}

describe.skipIf(skip)("backtraces of packages, by gdb", () => {
  const with_ = (file: CorpusFile, name?: string) => {
    let made: Twins | undefined;
    beforeAll(async () => {
      fetchPackages();
      made = await makeTwins(file, name);
    }, FETCH_TIMEOUT + 60_000);
    afterAll(() => made?.scratch.remove());
    return () => made!;
  };

  describe("python3.11", () => {
    const twins = with_(corpus.python);
    const environment = () => ({ ...libraryPath(), PYTHONHOME: path.join(packagesRoot(), "usr"), PYTHONHASHSEED: "0" });
    const words = `-S -s -B ${program("sites.py")} > /dev/null`;
    const subject = (file: string): Subject => ({ file, environment: environment(), arguments: words });

    it("the same", async () => {
      const raised = raiseTwins(twins());
      const was = await expectSame("python3.11", twins(), [subject(raised.original), subject(raised.rewritten)], 8);
      // They name functions, and end where the program began.
      for (const { stacks } of was) expect(stacks[0]!.map((f) => f.name)).toContain("__libc_start_main_impl");
      // Without the records of new code they are others: gdb has no other source for them.
      const copy = twins().scratch.file("blanked");
      await blanked(raised.rewritten, copy);
      const other = await stacksAt(subject(copy), twins().scratch.file("blanked.task"));
      expect(other.length).toBe(was.length);
      const differ = other.filter(
        ({ stacks }, i) =>
          JSON.stringify(comparable(stacks[0]!, false)) !== JSON.stringify(comparable(was[i]!.stacks[0]!, false)),
      );
      log.push(`python3.11 without records of new code: ${differ.length} of ${was.length} stacks differ`);
      expect(differ.length).toBeGreaterThan(was.length / 2);
    }, 300_000);
  });

  // Another interpreter, and much time for each of 500 sites: with LONG=1.
  describe.runIf(LONG)("php8.2", () => {
    const twins = with_(corpus.php);
    it("the same", async () => {
      const raised = raiseTwins(twins());
      const environment = { ...libraryPath(), USE_ZEND_DTRACE: "1" };
      const words = `-n -d display_errors=1 ${program("sites.php")} > /dev/null`;
      const subject = (file: string): Subject => ({ file, environment, arguments: words });
      await expectSame("php8.2", twins(), [subject(raised.original), subject(raised.rewritten)], 13);
    }, 300_000);
  });

  describe.skipIf(noCompiler)("libstdc++", () => {
    const twins = with_(corpus.libstdcxx, "libstdc++.so.6");
    it("the same", async () => {
      const throws = twins().scratch.file("throws");
      await mustRun("g++", ["-O2", "-pthread", program("throws.cc"), "-o", throws]);
      const subject = (file: string): Subject => ({
        file,
        program: throws,
        environment: libraryPath(path.dirname(file)),
      });
      await expectSame("libstdc++", twins(), [subject(twins().original), subject(twins().rewritten)], 3);
    }, 300_000);
  });

  describe("postgres", () => {
    const twins = with_(corpus.postgres);
    it("the same", async () => {
      const raised = raiseTwins(twins());
      const { scratch } = twins();
      const script = scratch.file("script.sql");
      writeFileSync(script, statements);
      // initdb takes one whose semaphores are not raised: nothing depends on it.
      const homes = [install(scratch, "before", raised.original), install(scratch, "after_", raised.rewritten)];
      const subjects: Subject[] = [];
      for (const { bin, dir, options } of homes) {
        const data = path.join(dir, "work/data");
        await mustRun(
          path.join(bin, "initdb"),
          ["-D", data, "-U", "tester", "-A", "trust", "--no-sync", "--locale=C"],
          {
            ...options,
            timeout: 120_000,
          },
        );
        chmodSync(dir, 0o755);
        const { uid, gid } = options;
        subjects.push({
          file: path.join(bin, "postgres"),
          environment: { ...options.env },
          arguments: `--single -j -D ${data} -c shared_buffers=256kB -c wal_buffers=32kB -c max_prepared_transactions=4 -c fsync=off -c jit=off postgres < ${script} > /dev/null 2>&1`,
          timeout: 120_000,
          ...(uid === undefined ? {} : { as: ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"] }),
        });
      }
      await expectSame("postgres", twins(), [subjects[0]!, subjects[1]!], 30);
    }, 240_000);
  });

  describe.skipIf(noCompiler || !LONG)("libjvm.so", () => {
    const twins = with_(corpus.libjvm);
    it("the same", async () => {
      const { scratch } = twins();
      const images = [
        javaImage(scratch.file("image-original"), twins().original),
        javaImage(scratch.file("image-rewritte"), twins().rewritten),
      ];
      const classes = scratch.file("classes");
      const jni = scratch.file("jni");
      await compileJava(images[0]!, program("Jni.java"), classes);
      const headers = path.join(packagesRoot(), "usr/include/android/nativehelper");
      await mustRun("gcc", ["-O1", `-I${headers}`, program("jni.c"), "-o", jni, "-ldl", "-pthread"]);
      const [before, after] = images.map(
        ({ libjvm }): Subject => ({
          file: libjvm,
          program: jni,
          arguments: `${libjvm} ${classes} > /dev/null`,
          // Sites that are off by default: methods, objects, monitors.
          environment: { ...libraryPath(), JAVA_TOOL_OPTIONS: "-XX:+ExtendedDTraceProbes" },
          settings: ["handle SIGSEGV SIGBUS SIGFPE SIGPIPE SIGILL nostop noprint pass"],
          timeout: 240_000,
        }),
      );
      await expectSame("libjvm.so", twins(), [before!, after!], 480, true);
    }, 480_000);
  });
});

/** One a line, with an empty line behind it: what `postgres --single -j` reads. */
const statements = `${`
create table numbers as select g as n, md5(g::text) as digest, g % 97 as bucket from generate_series(1, 6000) g
alter table numbers add primary key (n)
create index on numbers using btree (digest)
create index on numbers using hash (bucket)
create index on numbers using brin (n)
create index on numbers using gist (point(n, bucket))
cluster numbers using numbers_pkey
analyze numbers
set work_mem = '64kB'
select count(*), min(digest), max(digest) from (select digest from numbers order by bucket, digest desc) s
select bucket, count(distinct digest) from numbers group by bucket order by 2 desc, 1 limit 3
prepare one (int) as select digest from numbers where n = $1
execute one(7)
create view small as select * from numbers where n <= 10
create rule small_insert as on insert to small do instead insert into numbers values (new.n, new.digest, new.bucket)
insert into small values (-1, 'by a rule', 5)
update numbers set bucket = bucket + 1 where n <= 1000
checkpoint
begin
truncate numbers
rollback
begin
insert into numbers values (100001, 'prepared', 1)
prepare transaction 'two'
checkpoint
commit prepared 'two'
select 1 / 0
select pg_switch_wal() is not null
insert into numbers select g, repeat(md5(g::text), 20), 1 from generate_series(200001, 203000) g
vacuum full numbers
select count(*), sum(n), sum(length(digest)) from numbers
checkpoint
drop table numbers cascade
`
  .trim()
  .split("\n")
  .map((line) => `${line};`)
  .join("\n\n")}\n\n`;
