/**
 * The rest of the file: everything in the rewritten file that differs from the original is explained, or it is a
 * finding.
 *
 * The rules know what rewriting may do to a file; they trust neither its plan nor what it wrote down about itself. Code
 * is explained by the sites (see sites.ts). Of everything else each rule below judges one part, header by header and
 * table by table, and says which bytes of the original it has judged. What is left must be the same, byte for byte: in
 * memory by address, in sections that are not loaded by content, and between all of that.
 *
 * A file that another tool changed since is compared as far as it is loaded; what else differs is told as not compared.
 */

import { type FileOffset, fileOffset, type Interval, interval, type Vaddr } from "../address.js";
import { type BuildId, readBuildId } from "../elf/build-id.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, offsetOf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { union } from "../intervals.js";
import { derivedBuildId } from "../rewritten/derived-build-id.js";
import { additionsOf } from "./additions.js";
import type { FileFinding } from "./contract.js";
import type { Guard } from "./guard/guard.js";
import { judgeDynamic } from "./rest/dynamic.js";
import type { Finding, Ruling } from "./rest/findings.js";
import { judgeFrames } from "./rest/frames.js";
import { judgeHeader } from "./rest/header.js";
import { compareLoaded, judgeAdded, judgeFill } from "./rest/loaded.js";
import { judgeMoved } from "./rest/moved.js";
import { judgeNotes } from "./rest/notes.js";
import { judgeSections, pairSections } from "./rest/sections.js";
import { judgeSegments, pairSegments } from "./rest/segments.js";
import { judgeNames, judgeSymbols } from "./rest/symbols.js";
import { compareUnloaded, judgeUndescribed } from "./rest/unloaded.js";
import type { FrameOrigin } from "./same-code.js";
import type { Selector } from "./selector/selector.js";

interface RestReport {
  readonly findings: readonly FileFinding[];
  /** What could not be held against the original, since the file was changed after it was rewritten. */
  readonly uncompared: readonly string[];
}

/**
 * Compares everything but the code of the sites.
 * @param explained the code that sites account for, as link-time addresses: of what the original has, and of what is
 * new
 * @param origins for each instruction of new code, where the original is then
 * @param guard what there is for a fork guard's sake, where there is one
 * @param selector likewise
 * @param asLaidOut whether the file has the layout that rewrite gave it
 */
export function compareRest(
  rewritten: ElfImage,
  original: ElfImage,
  explained: readonly Interval<Vaddr>[],
  origins: readonly FrameOrigin[],
  guard: Guard | undefined,
  selector: Selector | undefined,
  asLaidOut: boolean,
): RestReport {
  const additions = additionsOf(rewritten, guard, selector);
  const code = union(explained);
  const sections = pairSections(original, rewritten);
  const segments = pairSegments(original, rewritten);
  const buildId = acceptedBuildId(original, rewritten);

  const frames = judgeFrames(original, rewritten, sections, code, origins, asLaidOut);
  const symbols = judgeSymbols(original, rewritten, sections, frames.growths, code, additions);
  const names = asLaidOut ? judgeNames(rewritten, sections, symbols.addedNames) : nothing;
  const notes = judgeNotes(original, rewritten, sections);
  const dynamic = judgeDynamic(original, rewritten, sections, additions, asLaidOut);
  const added: Ruling = additions ?? nothing;
  const contents = union([buildId, frames, symbols, names, notes, dynamic, added].flatMap(({ judged }) => judged));
  const moved = judgeMoved(original, rewritten, sections, contents, guard?.sizes ?? new Map(), asLaidOut);

  const judged = union([
    ...contents,
    ...moved.judged,
    interval(fileOffset(0), elf.EHDR_SIZE),
    ...code.flatMap(({ start, end }) => {
      const offset = offsetOf(original, start);
      return offset === undefined ? [] : [interval(offset, end - start)];
    }),
  ]);
  const words = union([guard?.words, selector?.word].filter((stretch) => stretch !== undefined));
  const all: Finding[] = [
    ...judgeHeader(original, rewritten, sections, selector?.entry),
    ...judgeSegments(original, rewritten, segments, contents, words, sections.far, asLaidOut),
    ...judgeSections(original, rewritten, sections, guard, selector?.word, asLaidOut),
    ...[frames, symbols, names, notes, dynamic, added, moved].flatMap(({ findings }) => findings),
    ...compareLoaded(original, rewritten, segments, judged),
    ...judgeFill(rewritten, sections, union([...code, ...(additions?.code ?? [])])),
    ...(asLaidOut ? judgeAdded(original, rewritten, segments, sections) : []),
    ...compareUnloaded(original, rewritten, sections, judged, asLaidOut),
    ...judgeUndescribed(original, rewritten),
  ];
  const counts = (f: Finding): boolean => asLaidOut || f.part === "loaded";
  return {
    findings: all.filter(counts).map(({ where, what }) => ({ where, what })),
    uncompared: all.filter((f) => !counts(f)).map(({ where, what }) => `${what} (${where})`),
  };
}

const nothing: Ruling = { findings: [], judged: [] };

/** The build-id's own bytes, where they are those that --new-build-id derives from the original's. */
function acceptedBuildId(original: ElfImage, rewritten: ElfImage): { judged: Interval<FileOffset>[] } {
  const [before, now] = [idOf(original), idOf(rewritten)];
  if (before === null || now === null || before.size !== now.size) return { judged: [] };
  const bytes = rewritten.bytes.subarray(now.offset, now.offset + now.size);
  const derived = derivedBuildId(before);
  if (!bytes.subarray(0, derived.length).equals(derived)) return { judged: [] };
  return { judged: [interval(before.offset, derived.length)] };
}

/** Null where it has none, or none that can be read: then all of its bytes have to be the same. */
function idOf(image: ElfImage): BuildId | null {
  try {
    return readBuildId(image);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return null;
  }
}
