/**
 * What verification makes of a file with a fault: of the file alone and held against its original, and which of the ways in
 * which it looks would have been enough.
 */
import { type ElfImage, parseElf } from "../../../src/elf/image.js";
import { InputError } from "../../../src/errors.js";
import type { FileFacts } from "../../../src/facts/file-facts.js";
import { readUsdtNotes } from "../../../src/usdt/notes.js";
import type { VerifyReport } from "../../../src/verify/contract.js";
import { carriedOriginal, givenOriginal, type Original } from "../../../src/verify/original.js";
import { compareRest } from "../../../src/verify/rest.js";
import { gatherEvidence } from "../../../src/verify/sites.js";
import { judge } from "../../../src/verify/verdicts.js";
import { verify } from "../../../src/verify/verify.js";
import { type Fault, plant } from "./fault.js";

export interface Finding {
  readonly fault: Fault;
  /** Reported as different: with the original that the file carries, and with the one given. */
  readonly alone: boolean;
  readonly given: boolean;
  /** By the proof of the code, without any run; by a run, without the proof; by the notes' and the file's other rules. */
  readonly byProof: boolean;
  readonly byRuns: boolean;
  readonly byRest: boolean;
  /** What is said of it, for people. */
  readonly says: readonly string[];
}

export const isDifferent = ({ sites, findings }: VerifyReport): boolean =>
  findings.length > 0 || sites.some((s) => s.verdict === "different");

const complaints = ({ sites, findings }: VerifyReport): string[] => [
  ...sites.filter((s) => s.verdict !== "equivalent").map((s) => `${s.verdict} ${s.name}: ${s.reason}`),
  ...findings.map(({ where, what }) => `${where}: ${what}`),
];

/**
 * @param bytes the file with the fault
 * @param asksWays whether to ask which ways would have been enough: as much work again, and as much memory
 */
export function examine(fault: Fault, bytes: Buffer = plant(fault), asksWays = true): Finding {
  const { original, facts } = fault.subject.rewritten;
  const image = parseElf(bytes);
  const [givenFirst, carried] = [givenOriginal(image, original), carriedOriginal(image)];
  const given = verify(image, givenFirst);
  // Where a file with a fault still carries its original whole, both are one question.
  const alone = isSameQuestion(givenFirst, carried) ? given : verify(image, carried);
  return {
    fault,
    given: isDifferent(given),
    alone: isDifferent(alone),
    ...(asksWays ? shares(image, facts) : { byProof: false, byRuns: false, byRest: false }),
    says: complaints(given),
  };
}

const isSameQuestion = (a: Original, b: Original): boolean =>
  a.asLaidOut === b.asLaidOut &&
  a.findings.length + b.findings.length === 0 &&
  a.image !== undefined &&
  b.image?.bytes.equals(a.image.bytes) === true;

/** Which of the ways would have been enough. */
function shares(image: ElfImage, original: FileFacts): Pick<Finding, "byProof" | "byRuns" | "byRest"> {
  if (!canReadNotes(image)) return { byProof: false, byRuns: false, byRest: true };
  const evidence = gatherEvidence(image, original);
  const withoutRuns = judge({ ...evidence, found: evidence.found.map((f) => ({ ...f, runs: [] })) });
  const runs = evidence.found.flatMap((f) => f.runs.flatMap((r) => r.runs));
  const { explained, origins } = judge(evidence);
  return {
    byProof: withoutRuns.sites.some((s) => s.verdict === "different"),
    byRuns: runs.some((r) => r.both.difference !== undefined),
    byRest: compareRest(image, original.image, explained, origins, undefined, undefined, true).findings.length > 0,
  };
}

function canReadNotes(image: ElfImage): boolean {
  try {
    readUsdtNotes(image);
    return true;
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}
