/** `usdt-nop5 revert FILE`: the original of a rewritten file, byte for byte. */
import { fileSize, parseElf } from "../elf/image.js";
import { withInput } from "../files/input.js";
import { withPlace, writeOutput } from "../files/output.js";
import { extrasOf } from "../files/privileges.js";
import { document, forPeople } from "../report/text.js";
import { revert as revertImage } from "../rewrite/revert.js";
import { destinationOf, newFileHazard, type OutputOptions, writeOptions } from "./output-options.js";
import { complain, print, reportOn, type Streams } from "./streams.js";

/**
 * Gives back the original of a rewritten file.
 * @returns the exit status
 * @throws InputError where the file is not exactly what rewrite wrote; then nothing was written
 */
export function revert(path: string, options: OutputOptions, streams: Streams): Promise<number> {
  return withInput(path, options.follow ?? true, (input) =>
    withPlace(input, destinationOf(path, options, ".orig"), writeOptions(options), async (place) => {
      const content = revertImage(parseElf(input.bytes, input));
      const extras = place.inPlace ? undefined : extrasOf(input);
      await writeOutput(input, content, place, writeOptions(options));
      for (const { message } of extras === undefined ? [] : newFileHazard(await extras))
        await complain(streams, `${path}: ${message}`);
      const size = { input: fileSize(input), output: content.size };
      const text = options.json
        ? document({ schemaVersion: 1, input: path, output: place.path, size })
        : revertText({ input: path, output: place.path, size });
      await reportOn(place.path, streams, () => print(streams, text));
      return 0;
    }),
  );
}

interface Reverted {
  readonly input: string;
  readonly output: string;
  readonly size: { readonly input: number; readonly output: number };
}

const revertText = forPeople(
  ({ input, output, size }: Reverted): string =>
    `${input}: reverted (${size.input} -> ${size.output} bytes)\nwritten: ${output}\n`,
);
