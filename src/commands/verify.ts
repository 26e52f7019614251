/** `usdt-nop5 verify FILE`: whether a rewritten file is still the same program. */
import { type ElfImage, parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { FileError } from "../files/file-error.js";
import { type InputFile, readInput } from "../files/input.js";
import type { LiveComparison } from "../live/compare.js";
import { document, makeStyle } from "../report/text.js";
import { summaryOf, type VerifyRun, verifyDocument, verifyText } from "../report/verify.js";
import { carriedOriginal, givenOriginal } from "../verify/original.js";
import { verify as verifyImage } from "../verify/verify.js";
import { print, type Streams, wantsColours } from "./streams.js";

export interface VerifyOptions {
  readonly json?: boolean;
  readonly strict?: boolean;
  /** The original, where the user has it; else the file's own. */
  readonly original?: string;
  /** Run the program as well, without and with uprobes on its probes. */
  readonly live?: boolean;
}

/**
 * Holds a rewritten file against its original.
 * @returns the exit status: 3 where anything is different, and with --strict where anything is unproved; a program that
 * is
 *   not the same from run to run proves nothing
 * @throws InputError where a file cannot be read, or the two do not belong together
 */
export async function verify(path: string, options: VerifyOptions, streams: Streams): Promise<number> {
  const input = readInput(path);
  const rewritten = parseElf(input.bytes, input);
  const original =
    options.original === undefined
      ? carriedOriginal(rewritten)
      : givenOriginal(rewritten, readOriginal(options.original));
  const live = options.live ? await runLive(path, rewritten) : null;
  const run: VerifyRun = { input: path, report: verifyImage(rewritten, original), live };
  await print(
    streams,
    options.json ? document(verifyDocument(run)) : verifyText(run, makeStyle(wantsColours(streams.stdout))),
  );
  const { different, unproved } = summaryOf(run.report);
  const fails = different > 0 || live?.same === false;
  return fails || (options.strict === true && (unproved > 0 || live?.same === null)) ? 3 : 0;
}

/** What a run on this kernel shows. Loaded when it is asked for: most verifications run nothing. */
async function runLive(path: string, image: ElfImage): Promise<LiveComparison> {
  const [{ compareTraced }, { requireTracefs }] = await Promise.all([
    import("../live/compare.js"),
    import("../live/tracefs.js"),
  ]);
  return compareTraced(requireTracefs(), path, image);
}

/** The original as the user has it. What is wrong with that file is said of that file. */
function readOriginal(path: string): InputFile {
  try {
    const file = readInput(path);
    parseElf(file.bytes, file);
    return file;
  } catch (error) {
    if (error instanceof InputError) throw new FileError(path, error.message);
    throw error;
  }
}
