/** The options of every command that writes a file, and what they mean for the file writer. */
import type { OptionalAttribute } from "../files/attribute-names.js";
import type { Destination, WriteOptions } from "../files/output.js";
import type { Extras } from "../files/privileges.js";
import type { Hazard } from "../rewritten/contract.js";

export interface OutputOptions {
  readonly json?: boolean;
  readonly output?: string;
  readonly inPlace?: boolean;
  readonly breakHardLinks?: boolean;
  readonly dropAttribute?: readonly OptionalAttribute[];
  /** False with --no-follow. */
  readonly follow?: boolean;
}

/** Where the output goes: in place, where -o says, or beside the file as the user named it, with a suffix. */
export function destinationOf(path: string, options: OutputOptions, suffix: string): Destination {
  return options.inPlace ? { inPlace: true } : { inPlace: false, path: options.output ?? path + suffix };
}

export const writeOptions = (options: OutputOptions): WriteOptions => ({
  breakHardLinks: options.breakHardLinks ?? false,
  giveUp: options.dropAttribute ?? [],
});

/** A new file is the caller's, with the rights that the umask leaves: what the input has beyond that is not for it. */
export function newFileHazard({ notForNew }: Extras): Hazard[] {
  if (notForNew.length === 0) return [];
  return [
    {
      code: "attributes",
      message: `the output does not get what the input has of these: ${notForNew.join(", ")} (--in-place keeps them)`,
    },
  ];
}
