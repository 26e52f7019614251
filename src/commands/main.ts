/**
 * Where the program begins.
 *
 * `usdt-nop5 list FILE...` is to be about as quick as starting Node is, and scripts call it once a file. Loading the
 * parser of the command line would be a good part of its time, so the plainest form of it goes past that parser:
 * everything that begins with a dash, but --json behind `list`, is for the parser.
 */
import { complainAbout, processStreams, type Streams } from "./streams.js";

/**
 * Runs one command.
 * @param argv the arguments behind the program's name
 * @returns the exit status: 0 done, 1 it could not be done, 2 wrong usage, 3 done and what was asked does not hold
 */
export async function main(argv: readonly string[], streams: Streams = processStreams()): Promise<number> {
  try {
    const [command, ...rest] = argv;
    const files = rest.filter((argument) => argument !== "--json");
    if (command === "list" && files.length > 0 && files.every((file) => !file.startsWith("-"))) {
      const { list } = await import("./list.js");
      return await list(files, { json: files.length < rest.length }, streams);
    }
    const { runProgram } = await import("./program.js");
    return await runProgram(argv, streams);
  } catch (error) {
    await complainAbout(streams, "standard output", error);
    return 1;
  }
}
