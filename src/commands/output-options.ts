/** The options of every command that writes a file, and what they mean for the file writer. */
import type { OptionalAttribute } from "../files/attribute-names.js";
import type { Destination, WriteOptions } from "../files/output.js";

export interface OutputOptions {
  readonly json?: boolean;
  readonly output?: string;
  readonly inPlace?: boolean;
  readonly breakHardLinks?: boolean;
  readonly dropAttribute?: readonly OptionalAttribute[];
}

/** Where the output goes: in place, where -o says, or beside the file as the user named it, with a suffix. */
export function destinationOf(path: string, options: OutputOptions, suffix: string): Destination {
  return options.inPlace ? { inPlace: true } : { inPlace: false, path: options.output ?? path + suffix };
}

export const writeOptions = (options: OutputOptions): WriteOptions => ({
  breakHardLinks: options.breakHardLinks ?? false,
  giveUp: options.dropAttribute ?? [],
});
