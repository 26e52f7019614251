/**
 * Where a command prints. Results go to stdout, errors and warnings to stderr, each error on one line.
 *
 * A reader that closes the pipe (`| head`) is no error: the rest of the text is dropped, the command's work and its
 * exit status stay what they are. A stdout that cannot take the text, a full disk say, is one, unless a file was what was
 * asked for, and is there.
 */
import { debuglog } from "node:util";
import { InputError } from "../errors.js";
import { describe, FileError } from "../files/file-error.js";
import { onTerminal, printable } from "../report/text.js";

/** A stream as this program uses it: process.stdout, or a collector in a test. */
export interface Output {
  readonly isTTY?: boolean | undefined;
  write(text: string, done: (error?: Error | null) => void): unknown;
  on?(event: "error", listener: (error: Error) => void): unknown;
}

export interface Streams {
  readonly stdout: Output;
  readonly stderr: Output;
}

/** The process's own streams. Their errors are handled where they are written to. */
export function processStreams(): Streams {
  for (const stream of [process.stdout, process.stderr])
    if (stream.listenerCount("error") === 0) stream.on("error", () => {});
  return process;
}

/**
 * Prints to stdout and waits until the text has been taken.
 * @throws FileError where it cannot be written for another reason than a closed pipe
 */
export function print(streams: Streams, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    streams.stdout.write(onTerminal(text), (error) => {
      if (!error || (error as NodeJS.ErrnoException).code === "EPIPE") resolve();
      else reject(new FileError("standard output", `cannot be written: ${describe(error)}`));
    });
  });
}

/**
 * Reports what was done with a file. Where the file is written and the report cannot be, what was asked for is done: one
 * line on stderr says so.
 * @param written the file, or null where none was written
 * @throws FileError as `print`, where nothing was written
 */
export async function reportOn(written: string | null, streams: Streams, report: () => Promise<void>): Promise<void> {
  try {
    await report();
  } catch (error) {
    if (written === null || !(error instanceof FileError)) throw error;
    await complain(streams, `${error.file}: ${error.message}; ${written} is written`);
  }
}

/** Prints one line to stderr, `usdt-nop5: TEXT`; whether it arrives changes nothing. */
export function complain(streams: Streams, text: string): Promise<void> {
  return new Promise((resolve) => {
    streams.stderr.write(`usdt-nop5: ${printable(text)}\n`, () => resolve());
  });
}

/**
 * The error line for anything that was thrown while `file` was worked on. A defect of this program gets one line too.
 */
export async function complainAbout(streams: Streams, file: string, error: unknown): Promise<void> {
  if (error instanceof FileError) return complain(streams, `${error.file}: ${error.message}`);
  if (error instanceof InputError) return complain(streams, `${file}: ${error.message}`);
  debuglog("usdt-nop5")("%o", error);
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return complain(
    streams,
    `${file}: a defect in usdt-nop5, please report it: ${message} (NODE_DEBUG=usdt-nop5 shows more)`,
  );
}

/** Colours are for terminals, and only where nobody asked for none. */
export const wantsColours = (stream: Output): boolean =>
  stream.isTTY === true && !process.env.NO_COLOR && process.env.CI !== "true" && process.env.TERM !== "dumb";
