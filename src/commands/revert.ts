/** `usdt-nop5 revert FILE`: the original of a rewritten file, byte for byte. */
import { parseElf } from "../elf/image.js";
import { readInput } from "../files/input.js";
import { choosePlace, writeOutput } from "../files/output.js";
import { document, printable } from "../report/text.js";
import { revert as revertImage } from "../rewrite/revert.js";
import { destinationOf, type OutputOptions, writeOptions } from "./output-options.js";
import { print, type Streams } from "./streams.js";

/**
 * Gives back the original of a rewritten file.
 * @returns the exit status
 * @throws InputError where the file is not exactly what rewrite wrote; then nothing was written
 */
export async function revert(path: string, options: OutputOptions, streams: Streams): Promise<number> {
  const input = readInput(path);
  const image = parseElf(input.bytes, input.holes);
  const place = await choosePlace(input, destinationOf(path, options, ".orig"), writeOptions(options));
  const content = revertImage(image);
  await writeOutput(input, content, place, writeOptions(options));
  const size = { input: input.bytes.length, output: content.size };
  const text = options.json
    ? document({ schemaVersion: 1, input: path, output: place.path, size })
    : `${printable(path)}: reverted (${size.input} -> ${size.output} bytes)\nwritten: ${printable(place.path)}\n`;
  await print(streams, text);
  return 0;
}
