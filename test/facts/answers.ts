/** The stack facts of every probe of a file, as the pipeline asks for them. */
import type { Vaddr } from "../../src/address.js";
import type { ElfImage } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { gatherFacts } from "../../src/facts/program.js";
import { type StackFact, StackFacts } from "../../src/facts/stack.js";
import { parseArguments } from "../../src/usdt/arguments.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { stackReads } from "../../src/usdt/stack-reads.js";
import type { StackRead } from "../../src/x86/stack-read.js";

export interface Answer extends StackFact {
  readonly provider: string;
  readonly name: string;
  readonly location: Vaddr;
}

export function answersOf(image: ElfImage): readonly Answer[] {
  const notes = readUsdtNotes(image);
  const reads = new Map<Vaddr, StackRead[]>();
  for (const { location, argumentText } of notes)
    reads.set(location, [
      ...(reads.get(location) ?? []),
      ...parseArguments(argumentText).arguments.flatMap(stackReads),
    ]);
  const stack = new StackFacts(gatherFacts(new FileFacts(image), [...reads.keys()]));
  return notes.map(({ provider, name, location }) => ({
    provider,
    name,
    location,
    ...stack.redZone(location, reads.get(location)!),
  }));
}
