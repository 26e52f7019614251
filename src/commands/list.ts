/** `usdt-nop5 list FILE...`: which probes files have, and what stands there. */
import { readBuildId } from "../elf/build-id.js";
import { type ElfImage, parseElf } from "../elf/image.js";
import { functionsAt } from "../elf/symbols.js";
import { readInput } from "../files/input.js";
import { type ListedFile, listDocument, listText } from "../report/list.js";
import { document, makeStyle } from "../report/text.js";
import { splitArguments } from "../usdt/arguments.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface ListOptions {
  readonly json?: boolean;
}

/**
 * Lists files. One that cannot be read gets its error line, and the others are listed all the same.
 * @returns the exit status: 1 if any file could not be read
 */
export async function list(paths: readonly string[], options: ListOptions, streams: Streams): Promise<number> {
  const style = makeStyle(wantsColours(streams.stdout));
  const files: ListedFile[] = [];
  let status = 0;
  for (const path of paths) {
    let file: ListedFile;
    try {
      file = await readFile(path);
    } catch (error) {
      await complainAbout(streams, path, error);
      status = 1;
      continue;
    }
    if (options.json) files.push(file);
    else await print(streams, listText(file, style));
  }
  if (options.json) await print(streams, document(listDocument(files)));
  return status;
}

async function readFile(path: string): Promise<ListedFile> {
  const image = parseElf(readInput(path).bytes);
  const notes = readUsdtNotes(image);
  const locations = notes.map((note) => note.location);
  const functions = functionsAt(image, locations);
  const instructions = await instructionsAt(image, locations);
  return {
    path,
    buildId: readBuildId(image)?.text ?? null,
    sites: notes.map((note, i) => ({
      provider: note.provider,
      name: note.name,
      location: note.location,
      base: note.base,
      semaphore: note.semaphore,
      arguments: splitArguments(note.argumentText),
      instruction: instructions[i]!,
      function: functions[i] ?? null,
    })),
  };
}

/** Longest instruction of the architecture, in bytes. */
const MAX_INSTRUCTION = 15;

/** Most files need no disassembler, and loading it costs more than all the rest: it is loaded for the first that does. */
async function instructionsAt(image: ElfImage, locations: readonly ElfImage["header"]["e_entry"][]): Promise<string[]> {
  const instructions: string[] = [];
  for (const location of locations) {
    const code = codeFrom(image, location);
    if (code === null) {
      instructions.push("(in no executable segment)");
      continue;
    }
    const known = probeInstruction(code);
    if (known !== null) instructions.push(known);
    else {
      const { disassemble } = await import("../x86/relocate.js");
      instructions.push(disassemble(code.subarray(0, MAX_INSTRUCTION), location));
    }
  }
  return instructions;
}
