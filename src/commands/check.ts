/**
 * `usdt-nop5 check FILE...`: are the probes there that should be? For build jobs: linkers and strippers have lost them.
 *
 * Each file is held against all that --expect says, or against its entry in a list of before.
 */
import { parseElf } from "../elf/image.js";
import { headerRanges, noteAndSymbolRanges } from "../elf/ranges.js";
import { InputError } from "../errors.js";
import { FileError } from "../files/file-error.js";
import { readInput, readParts } from "../files/input.js";
import { kernelNamed, kernels } from "../kernel/kernels.js";
import { type CheckedFile, checkDocument, checkText } from "../report/check.js";
import { document, makeStyle } from "../report/text.js";
import type { Kernel } from "../rewritten/contract.js";
import { type Baseline, parseBaseline } from "../usdt/baseline.js";
import { type Expectation, hold, isComplete } from "../usdt/expected.js";
import { type Probe, probesOf } from "../usdt/probes.js";
import { slownessOf } from "../usdt/speed.js";
import { complain, complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface CheckOptions {
  readonly expect?: readonly Expectation[];
  /** A document of `list --json`. */
  readonly baseline?: string;
  readonly fast?: boolean;
  readonly kernel?: Kernel;
  readonly json?: boolean;
}

/**
 * Checks files. One that cannot be read gets its error line, and the others are checked all the same.
 * @returns the exit status: 1 if any could not be read, else 3 if any is not as expected
 */
export async function check(paths: readonly string[], options: CheckOptions, streams: Streams): Promise<number> {
  const wrong = wrongUse(options);
  if (wrong !== null) {
    await complain(streams, wrong);
    return 2;
  }
  let expectedOf: (path: string) => readonly Expectation[];
  try {
    expectedOf = expectations(paths, options);
  } catch (error) {
    await complainAbout(streams, options.baseline ?? "check", error);
    return 1;
  }
  const style = makeStyle(wantsColours(streams.stdout));
  const files: CheckedFile[] = [];
  let unread = false;
  for (const path of paths) {
    let file: CheckedFile;
    try {
      const expected = expectedOf(path);
      if (expected.length === 0) await complain(streams, `${path}: no probe is expected of it`);
      file = checkFile(path, expected, options);
    } catch (error) {
      await complainAbout(streams, path, error);
      unread = true;
      continue;
    }
    files.push(file);
    if (!options.json) await print(streams, checkText(file, style));
  }
  if (options.json) await print(streams, document(checkDocument(files)));
  return unread ? 1 : files.every(({ held, slow }) => isComplete(held) && slow.length === 0) ? 0 : 3;
}

function wrongUse({ expect, baseline, fast, kernel }: CheckOptions): string | null {
  if (expect === undefined && baseline === undefined)
    return "say what is expected: --expect PROVIDER:NAME or --baseline LIST.json";
  if (expect !== undefined && baseline !== undefined) return "--expect and --baseline exclude each other";
  if (kernel !== undefined && !fast) return "--kernel goes with --fast";
  return null;
}

/** What is expected of a file, by its path. */
function expectations(
  paths: readonly string[],
  { expect = [], baseline }: CheckOptions,
): (path: string) => readonly Expectation[] {
  if (baseline === undefined) return () => expect;
  const { files } = readBaseline(baseline);
  // One file and one entry are about each other, wherever the file stands now.
  const [only] = files.size === 1 && paths.length === 1 ? files.values() : [];
  return (path) => {
    const found = files.get(path) ?? only;
    if (found === undefined) throw new FileError(baseline, `has no entry with the path ${path}`);
    return found;
  };
}

function readBaseline(path: string): Baseline {
  try {
    return parseBaseline(readInput(path).bytes);
  } catch (error) {
    throw error instanceof InputError ? new FileError(path, error.message) : error;
  }
}

function checkFile(
  path: string,
  expected: readonly Expectation[],
  { fast, kernel = "any" }: CheckOptions,
): CheckedFile {
  const held = hold(readProbes(path), expected);
  const asked = kernel === "any" ? kernels : [kernelNamed(kernel)];
  const slow = (fast ? held.present : []).flatMap((probe) => {
    const reason = slownessOf(probe, asked);
    return reason === null ? [] : [{ probe, reason }];
  });
  return { path, held, slow };
}

/** Reads of a file what its probes need. */
const readProbes = (path: string): readonly Probe[] =>
  readParts(path, (bytes, need) => {
    for (const { offset, size } of headerRanges(bytes)) need(offset, size);
    const image = parseElf(bytes);
    for (const { offset, size } of noteAndSymbolRanges(image)) need(offset, size);
    return probesOf(image, need);
  });
