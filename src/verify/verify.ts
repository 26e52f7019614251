/**
 * Whether a rewritten file is still the same program: every probe's code, and the rest of the file.
 */
import type { Vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import { FileFacts } from "../facts/file-facts.js";
import { readUsdtNotes, type UsdtNote } from "../usdt/notes.js";
import { compareCode } from "./changed-code.js";
import { CodeReader } from "./code-reader.js";
import type { SiteVerdict, VerifyReport } from "./contract.js";
import { examineGuard, type Guard } from "./guard/guard.js";
import { pairNotes } from "./note-pairs.js";
import type { Original } from "./original.js";
import { compareRest } from "./rest.js";
import { examineSelector } from "./selector/selector.js";
import { examineCode } from "./sites.js";

/**
 * Holds a rewritten file against its original.
 * @throws InputError where a table of the original that has to be trusted is damaged
 */
export function verify(rewritten: ElfImage, { image, findings, asLaidOut }: Original): VerifyReport {
  if (image === undefined)
    return {
      sites: unjudged(rewritten, "the original cannot be restored"),
      findings,
      uncompared: [],
      forkGuard: null,
    };
  // Where the original can be read and the rewritten file cannot, that is a difference and no bad input.
  if (!hasReadableNotes(rewritten)) {
    const sites = unjudged(image, "the notes of the rewritten file cannot be read");
    const rest = compareRest(rewritten, image, [], [], undefined, undefined, asLaidOut);
    return { ...rest, sites, findings: [...findings, ...rest.findings], forkGuard: null };
  }
  try {
    const original = new FileFacts(image);
    const { sites, explained, origins } = examineCode(rewritten, original);
    const code = compareCode(image, rewritten);
    const selector = examineSelector(image, rewritten, code.added);
    const guard = examineGuard(rewritten, original, code, selector, twinsIn(rewritten, image));
    const rest = compareRest(rewritten, image, explained, origins, guard, selector, asLaidOut);
    return { ...rest, sites, findings: [...findings, ...rest.findings], forkGuard: guardVerdict(guard) };
  } catch (error) {
    // What is known not to be the original may have damaged tables: that it is not the original is the answer.
    if (!(error instanceof InputError) || findings.length === 0) throw error;
    return {
      sites: unjudged(rewritten, `the original cannot be restored: ${error.message}`),
      findings,
      uncompared: [],
      forkGuard: null,
    };
  }
}

/** The second places of universal probes. */
function twinsIn(rewritten: ElfImage, original: ElfImage): ReadonlySet<Vaddr> {
  const pairs = pairNotes(readUsdtNotes(original), readUsdtNotes(rewritten), new CodeReader(rewritten));
  return new Set(pairs.flatMap(({ twin }) => twin?.location ?? []));
}

/** What is said of the guard alone; what is wrong with it is among the findings as well. */
function guardVerdict(guard: Guard | undefined): VerifyReport["forkGuard"] {
  if (guard === undefined) return null;
  const [problem] = guard.findings;
  return { verdict: problem === undefined ? "equivalent" : "different", reason: problem?.what ?? null };
}

function hasReadableNotes(image: ElfImage): boolean {
  try {
    readUsdtNotes(image);
    return true;
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}

/** The probes of a file, none of which could be judged. */
function unjudged(image: ElfImage, reason: string): SiteVerdict[] {
  let notes: readonly UsdtNote[];
  try {
    notes = readUsdtNotes(image);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return [];
  }
  return notes.map(({ provider, name, location }) => ({
    provider,
    name,
    location,
    newLocation: location,
    twin: null,
    verdict: "unproved",
    states: 0,
    reason,
    difference: null,
  }));
}
