/** `usdt-nop5 verify FILE`: whether a rewritten file is still the same program. */
import { parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { FileError } from "../files/file-error.js";
import { readInput } from "../files/input.js";
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
}

/**
 * Holds a rewritten file against its original.
 * @returns the exit status: 3 where anything is different, and with --strict where anything is unproved
 * @throws InputError where a file cannot be read, or the two do not belong together
 */
export async function verify(path: string, options: VerifyOptions, streams: Streams): Promise<number> {
  const rewritten = parseElf(readInput(path).bytes);
  const original =
    options.original === undefined
      ? carriedOriginal(rewritten)
      : givenOriginal(rewritten, readOriginal(options.original));
  const run: VerifyRun = { input: path, report: verifyImage(rewritten, original) };
  await print(
    streams,
    options.json ? document(verifyDocument(run)) : verifyText(run, makeStyle(wantsColours(streams.stdout))),
  );
  const { different, unproved } = summaryOf(run.report);
  return different > 0 || (options.strict === true && unproved > 0) ? 3 : 0;
}

/** The original as the user has it. What is wrong with that file is said of that file. */
function readOriginal(path: string): Buffer {
  try {
    const { bytes } = readInput(path);
    parseElf(bytes);
    return bytes;
  } catch (error) {
    if (error instanceof InputError) throw new FileError(path, error.message);
    throw error;
  }
}
