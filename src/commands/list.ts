/** `usdt-nop5 list FILE...`: which probes files have, and what stands there. */
import type { Vaddr } from "../address.js";
import { readBuildId } from "../elf/build-id.js";
import { parseElf } from "../elf/image.js";
import { headerRanges, noteAndSymbolRanges } from "../elf/ranges.js";
import { functionsAt } from "../elf/symbols.js";
import { readParts } from "../files/input.js";
import { type ListedFile, type ListedSite, listDocument, listText } from "../report/list.js";
import { document, makeStyle } from "../report/text.js";
import { splitArguments } from "../usdt/arguments.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { codeFrom, notInCode, probeInstruction } from "../usdt/sites.js";
import { findTwins, twinPlaces } from "../usdt/twins.js";
import { complainAbout, print, type Streams, wantsColours } from "./streams.js";

interface ListOptions {
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

/** Reads of a file what its list needs: of a library of many megabytes that is a small part. */
async function readFile(path: string): Promise<ListedFile> {
  const { buildId, notes, functions, code, twins } = readParts(path, (bytes, need) => {
    for (const { offset, size } of headerRanges(bytes)) need(offset, size);
    const image = parseElf(bytes);
    for (const { offset, size } of noteAndSymbolRanges(image)) need(offset, size);
    const notes = readUsdtNotes(image);
    return {
      buildId: readBuildId(image)?.text ?? null,
      notes,
      functions: functionsAt(
        image,
        notes.map((note) => note.location),
      ),
      code: notes.map((note) => {
        const reason = notInCode(image, note.location);
        if (reason !== null) return reason;
        const code = codeFrom(image, note.location)!.subarray(0, MAX_INSTRUCTION);
        need(code.byteOffset - bytes.byteOffset, code.length);
        return code;
      }),
      twins: twinPlaces(notes, findTwins(image, notes, need)),
    };
  });
  const sites: ListedSite[] = [];
  for (const [i, note] of notes.entries()) {
    sites.push({
      provider: note.provider,
      name: note.name,
      location: note.location,
      base: note.base,
      semaphore: note.semaphore,
      arguments: splitArguments(note.argumentText),
      instruction: await instructionText(code[i]!, note.location),
      function: functions[i] ?? null,
      twin: twins[i] ?? null,
    });
  }
  return { path, buildId, sites };
}

/** Longest instruction of the architecture, in bytes; "nop,nop10" is shorter. */
const MAX_INSTRUCTION = 15;

/**
 * Where there is no code its reason is the text. Most files need no disassembler, and loading it costs more than all the
 * rest: it is loaded for the first that does.
 */
async function instructionText(code: Buffer | string, location: Vaddr): Promise<string> {
  if (typeof code === "string") return code;
  const known = probeInstruction(code);
  if (known !== null) return known;
  const { disassemble } = await import("../x86/relocate.js");
  return disassemble(code, location);
}
