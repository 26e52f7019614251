/**
 * Where the program begins.
 *
 * `usdt-nop5 list FILE...` is to be about as quick as starting Node is, and scripts call it once a file. Loading the
 * parser of the command line would be a good part of its time, so the plainest form of it goes past that parser:
 * everything that begins with a dash, but --json after `list`, is for the parser.
 */
import { setFlagsFromString } from "node:v8";
import { rawArguments } from "../files/path-bytes.js";
import { complainAbout, processStreams, type Streams } from "./streams.js";

/**
 * Runs one command.
 * @param decoded the arguments after the program's name
 * @returns the exit status: 0 done, 1 it could not be done, 2 wrong usage, 3 done and what was asked does not hold
 */
export async function main(decoded: readonly string[], streams: Streams = processStreams()): Promise<number> {
  try {
    const argv = rawArguments(decoded);
    const [command, ...rest] = argv;
    const files = rest.filter((argument) => argument !== "--json");
    if (command === "list" && files.length > 0 && files.every((file) => !file.startsWith("-"))) {
      const { list } = await import("./list.js");
      return await list(files, { json: files.length < rest.length }, streams);
    }
    // V8's space for new objects begins with 1 MB; each time it is full, what is alive in it is copied. At its limit of
    // 16 MB from the first growth on, the collector takes half the time for a large library (55 ms, not 110), at the
    // same peak.
    setFlagsFromString("--semi-space-growth-factor=16");
    // Left to itself V8 lets garbage grow to several times what is alive before it collects: `verify` of a library of
    // 25 MB took 350 to 430 MB of memory, and takes 300 to 340 so, in the same time.
    setFlagsFromString("--heap-growing-percent=60");
    const { runProgram } = await import("./program.js");
    return await runProgram(argv, streams);
  } catch (error) {
    await complainAbout(streams, "standard output", error);
    return 1;
  }
}
