/**
 * The command line: what may be said, and which module does it.
 *
 * commander knows the syntax; each command's module is loaded when the command runs, so that `list` does not pay for a
 * rewriter.
 */
import { createRequire } from "node:module";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { OPTIONAL_ATTRIBUTES, type OptionalAttribute } from "../files/attribute-names.js";
import { rangesWhere } from "../kernel/kernels.js";
import { HAZARD_CODES, type HazardCode } from "../rewritten/hazard-codes.js";
import { type Expectation, parseExpectation } from "../usdt/expected.js";
import { type ProbePattern, parsePattern } from "../usdt/pattern.js";
import type { BenchOptions } from "./bench.js";
import type { CheckOptions } from "./check.js";
import type { EmulateOptions } from "./emulate.js";
import { anyKernel, oneKernel, rangesOf } from "./kernel-option.js";
import type { LiveOptions } from "./live.js";
import type { OutputOptions } from "./output-options.js";
import type { RewriteCommandOptions } from "./rewrite.js";
import type { StatusOptions } from "./status.js";
import { complain, complainAbout, type Streams } from "./streams.js";
import type { VerifyOptions } from "./verify.js";

const USAGE = 2;
/** The built-in programs of `emulate`. */
const SCENARIOS = [
  "plain",
  "redzone",
  "fork",
  "signal",
  "seccomp",
  "far",
  "vfork",
  "semaphore",
  "return",
  "session",
  "universal",
];

/**
 * Parses the arguments and runs the command that they name.
 * @returns the exit status: 0 done, 1 it could not be done, 2 wrong usage, 3 done and what was asked does not hold
 */
export async function runProgram(argv: readonly string[], streams: Streams): Promise<number> {
  let status = 0;
  const program = makeProgram(streams, (result) => {
    status = result;
  });
  try {
    await program.parseAsync(argv, { from: "user" });
    return status;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    throw error;
  }
}

function makeProgram(streams: Streams, finish: (status: number) => void): Command {
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  const program = new Command("usdt-nop5")
    .description("Turns the one-byte USDT nops of finished x86-64 ELF programs and libraries into nop5 sites.")
    .version(version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void streams.stdout.write(text, () => {}),
      writeErr: (text) => void streams.stderr.write(text, () => {}),
      outputError: (text) => void complain(streams, usageError(text)),
    })
    .addHelpText(
      "after",
      `
Exit status:
  0  done; also where a file is written and the report on it cannot be printed
  1  it could not be done: bad or unsupported input, I/O error; nothing was written
  2  wrong usage
  3  done, and what was asked does not hold: verify found a difference, emulate a violation, check a probe
     that is not as expected; --strict with a probe skipped or unproved, or a pattern that matches none`,
    );

  program
    .command("list")
    .description("show which USDT probes files have, and what stands there")
    .argument("<file...>", "ELF programs or shared libraries")
    .option("--json", "print one JSON document")
    .action(async (files: string[], options: { json?: boolean }) => {
      const { list } = await import("./list.js");
      finish(await list(files, options, streams));
    });

  program
    .command("check")
    .description("find out whether files have the probes that they should have; if not, exit with 3")
    .argument("<file...>", "ELF programs or shared libraries")
    .option(
      "--expect <provider:name[=count]>",
      "each file has this probe, * as wildcard, and all of them in code; with a count: so many or more (repeatable)",
      collect(expectation),
    )
    .addOption(
      new Option("--baseline <list.json>", "each file has the probes that `list --json` printed of it").argParser(
        notEmpty,
      ),
    )
    .option("--fast", "and each of these becomes a call on a kernel, and is nowhere slower than the one-byte nop")
    .addOption(
      new Option(
        "--kernel <version>",
        `with --fast, the kernels that count: any (default), running, or a version (${rangesOf(["6.18", "7.2"])})`,
      ).argParser(anyKernel),
    )
    .option("--json", "print one JSON document")
    .action(async (files: string[], options: CheckOptions) => {
      const { check } = await import("./check.js");
      finish(await check(files, options, streams));
    });

  withOutputOptions(program.command("rewrite"), "FILE.nop5")
    .description("make the probes of a file fast")
    .addOption(
      new Option(
        "--kernel <version>",
        `the kernels this file will be traced on: any, running, or a version (${rangesOf(["6.18", "7.2"])})`,
      )
        .argParser(anyKernel)
        .default("any"),
    )
    .addOption(
      new Option("--layout <layout>", "what to put at a probe")
        .choices(["auto", "universal", "nop5", "nop,nop5", "nop,nop10"])
        .default("auto"),
    )
    .option("--only <provider:name>", "only these probes, * as wildcard (repeatable)", collect(pattern))
    .option("--explain <provider:name>", "also say what was tried for these probes (repeatable)", collect(pattern))
    .addOption(
      new Option("--plan-json", "print the whole plan as one JSON document; the report goes to stderr").conflicts(
        "json",
      ),
    )
    .option("--strict", "if any probe cannot be rewritten, or --only matches none, write nothing and exit with 3")
    .option(
      "--accept <hazard>",
      `a hazard that is known and not told again, in JSON it is: ${HAZARD_CODES.join(", ")} (repeatable)`,
      collect(hazard),
    )
    .option("--dry-run", "report only, write nothing")
    .option("--new-build-id", "derive a new build-id (perf: drop the cached probes of the old file)")
    .option(
      "--no-fork-guard",
      `leave out the code that keeps forked children alive on Linux ${rangesWhere((k) => k.killsForkedChildren)}`,
    )
    .option("--keep-offsets", "let perf find probes after a large .bss, which is a hole in the file then")
    .option("--table-at-end", "allow the program header table at the file's end (strip breaks such files)")
    .action(async (file: string, options: RewriteCommandOptions) => {
      finish(
        await onFile(streams, file, async () => {
          const { rewrite } = await import("./rewrite.js");
          return rewrite(file, options, streams);
        }),
      );
    });

  withOutputOptions(program.command("revert"), "FILE.orig")
    .description("give back the original of a rewritten file, byte for byte")
    .action(async (file: string, options: OutputOptions) => {
      finish(
        await onFile(streams, file, async () => {
          const { revert } = await import("./revert.js");
          return revert(file, options, streams);
        }),
      );
    });

  program
    .command("verify")
    .description("check that a rewritten file is still the same program")
    .argument("<file>", "a rewritten program or shared library")
    .addOption(
      new Option("--original <file>", "the original; without it, the one that the file carries").argParser(notEmpty),
    )
    .option("--strict", "exit with 3 also if anything could not be proved")
    .option("--live", "run the program, too, without and with uprobes: same output and exit status? (root)")
    .option("--json", "print one JSON document")
    .action(async (file: string, options: VerifyOptions) => {
      finish(
        await onFile(streams, file, async () => {
          const { verify } = await import("./verify.js");
          return verify(file, options, streams);
        }),
      );
    });

  program
    .command("emulate")
    .description("check on a model of kernel and CPUs that patching a probe is safe while threads run")
    .argument("[file]", "a rewritten program or shared library: run the code around a probe of it")
    .option("--site <provider:name>", "which probe of the file, * as wildcard", pattern)
    .addOption(
      new Option(
        "--kernel <version>",
        `running, legacy, or a version (default: 6.18; ${rangesOf(["legacy", "6.18", "7.2"])})`,
      ).argParser(oneKernel),
    )
    .addOption(new Option("--threads <number>", "how many threads pass the probe (default: 2)").argParser(positive))
    .addOption(
      new Option("--toggles <number>", "how often it is attached and detached (default: 1)").argParser(positive),
    )
    .option("--exhaustive", "search everything that can happen (default)")
    .addOption(new Option("--random <seed>", "draw runs at random instead").argParser(whole))
    .addOption(new Option("--steps <number>", "how many steps to draw (default: 1000000)").argParser(positive))
    .option("--fault <name>", "build a fault into the protocol; `list` shows them")
    .addOption(new Option("--scenario <program>", "the built-in program that runs (default: plain)").choices(SCENARIOS))
    .option("--guard", "move rsp out of the red zone around the probe (default: where the program needs it)")
    .option("--no-guard", "leave the red zone unguarded")
    .option("--fork-guard", "a forked child repairs the probes that it has inherited")
    .option("--no-fork-guard", "it does not (default)")
    .option("--json", "print one JSON document")
    .action(async (file: string | undefined, options: EmulateOptions) => {
      const { emulate } = await import("./emulate.js");
      finish(await emulate(file, options, streams));
    });

  program
    .command("bench")
    .description("measure what a probe costs here: a hit and an idle pass, as nop and rewritten")
    .argument("[file]", "an ELF program or shared library: measure the form that a probe of it has")
    .option("--site <provider:name>", "which probe of the file, * as wildcard", pattern)
    .addOption(
      new Option("--layout <layout>", "what to rewrite to (default: what rewrite --kernel running chooses)").choices([
        "universal",
        "nop5",
        "nop,nop5",
        "nop,nop10",
      ]),
    )
    .addOption(
      new Option(
        "--selector <value>",
        "of --layout universal: 0 leaves it 0, as on kernels that do not patch nop5 (default: what the kernel makes of it)",
      ).choices(["0"]),
    )
    .addOption(new Option("--rounds <number>", "how often everything runs").default(15).argParser(positive))
    .option("--json", "print one JSON document")
    .action(async (file: string | undefined, options: BenchOptions) => {
      const { bench } = await import("./bench.js");
      finish(await bench(file, options, streams));
    });

  program
    .command("doctor")
    .description("find out what this machine does with USDT probes")
    .option("--json", "print one JSON document")
    .action(async (options: { json?: boolean }) => {
      const { doctor } = await import("./doctor.js");
      finish(await doctor(options, streams));
    });

  program
    .command("live")
    .description("run a command with a real uprobe on every probe of its binary (root, a kernel with uprobes)")
    .usage("[options] -- <command> [args...]")
    .argument("<command...>", "the command with its arguments, after --")
    .option("--file <file>", "trace the probes of this file, too (repeatable)", collect(notEmpty))
    .addOption(
      new Option("--behind <nop>", "where this nop stands after the one-byte nop, attach there").choices([
        "nop5",
        "nop10",
      ]),
    )
    .option("--json", "print one JSON document; the command's standard output goes to stderr")
    .action(async (command: string[], options: LiveOptions) => {
      const { live } = await import("./live.js");
      finish(await live(command, options, streams));
    });

  program
    .command("status")
    .description("show what each probe of running processes is now: untouched, trap, call, torn (reads /proc only)")
    .option("-p, --pid <pid>", "this process (repeatable; default: all)", collect(positive))
    .addOption(new Option("--all", "all processes that can be looked at").conflicts("pid"))
    .option("--json", "print one JSON document")
    .action(async (options: StatusOptions) => {
      const { status } = await import("./status.js");
      finish(await status(options, streams));
    });

  return program;
}

function withOutputOptions(command: Command, fallback: string): Command {
  return command
    .argument("<file>", "an ELF program or shared library")
    .addOption(new Option("-o, --output <file>", `where to write (default: ${fallback})`).argParser(notEmpty))
    .addOption(new Option("--in-place", "replace the file itself").conflicts("output"))
    .option("--no-follow", "refuse a file that is a symbolic link")
    .option("--break-hard-links", "with --in-place: replace a file that has several hard links")
    .option(
      "--drop-attribute <attribute>",
      `with --in-place: an attribute that need not be kept: ${OPTIONAL_ATTRIBUTES.join(", ")} (repeatable)`,
      collect(attribute),
    )
    .option("--json", "print one JSON document");
}

/** Runs a command about one file; what it throws becomes the error line of that file. */
async function onFile(streams: Streams, file: string, run: () => Promise<number>): Promise<number> {
  try {
    return await run();
  } catch (error) {
    await complainAbout(streams, file, error);
    return 1;
  }
}

/** An option that may be given several times. */
const collect =
  <T>(parse: (value: string) => T) =>
  (value: string, previous: readonly T[] | undefined): readonly T[] => [...(previous ?? []), parse(value)];

function notEmpty(value: string): string {
  if (value === "") throw new InvalidArgumentError("a file name cannot be empty");
  return value;
}

function whole(value: string): number {
  if (!/^\d{1,9}$/.test(value)) throw new InvalidArgumentError("it is a whole number of at most nine digits");
  return Number(value);
}

function positive(value: string): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 1) throw new InvalidArgumentError("a number from 1 on");
  return number;
}

function pattern(value: string): ProbePattern {
  try {
    return parsePattern(value);
  } catch {
    throw new InvalidArgumentError("write PROVIDER:NAME, with * as wildcard");
  }
}

function expectation(value: string): Expectation {
  try {
    return parseExpectation(value);
  } catch {
    throw new InvalidArgumentError(
      "write PROVIDER:NAME or PROVIDER:NAME=COUNT, with * as wildcard and a count from 1 on",
    );
  }
}

function attribute(value: string): OptionalAttribute {
  const known = OPTIONAL_ATTRIBUTES.find((name) => name === value);
  if (known === undefined) throw new InvalidArgumentError(`it is one of ${OPTIONAL_ATTRIBUTES.join(", ")}`);
  return known;
}

function hazard(value: string): HazardCode {
  const known = HAZARD_CODES.find((code) => code === value);
  if (known === undefined) throw new InvalidArgumentError(`it is one of ${HAZARD_CODES.join(", ")}`);
  return known;
}

/** commander's own message on one line, without its "error: ". */
const usageError = (text: string): string =>
  text
    .trim()
    .replace(/^error: /, "")
    .replace(/\s*\n\s*/g, " ");
