/**
 * Note sections with probes. The same notes stand there in the same order, and say the same but for the location and
 * the arguments of a probe that moved; whether those are right is judged site by site, elsewhere. A universal probe has
 * a second note, directly after the first, that says the same; and no two places of its name agree modulo 4096, by which
 * alone bcc tells them apart.
 */
import { alignUp, type FileOffset, hex, type Interval, interval, PAGE_SIZE } from "../../address.js";
import type { ElfImage, Section } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { groupBy } from "../../grouped.js";
import { firstNonZero } from "../../sparse-content.js";
import { readUsdtNotes, type UsdtNote } from "../../usdt/notes.js";
import { CodeReader } from "../code-reader.js";
import { type NotePair, pairNotes } from "../note-pairs.js";
import { atOffset, type Finding, finding, type Ruling, shown } from "./findings.js";
import { differingRuns } from "./runs.js";
import type { SectionPairs } from "./sections.js";

export function judgeNotes(original: ElfImage, rewritten: ElfImage, { pairs }: SectionPairs): Ruling {
  const findings: Finding[] = [];
  const judged: Interval<FileOffset>[] = [];
  const before = readUsdtNotes(original);
  let now: readonly UsdtNote[];
  try {
    now = readUsdtNotes(rewritten);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { findings: [finding("loaded", error.where ?? ".note.stapsdt", error.what)], judged };
  }
  const doubles = pairNotes(before, now, new CodeReader(rewritten));
  const twinOf = new Map(doubles.map(({ original: note, twin }) => [note, twin]));
  findings.push(...closePlaces(doubles, now));
  for (const { original: o, rewritten: r } of pairs) {
    const notes = before.filter((n) => n.section === o);
    if (notes.length === 0) continue;
    judged.push(interval(o.sh_offset, o.sh_size));
    const own = now.filter((n) => n.section === r);
    const expected = notes.flatMap((note) => (twinOf.get(note) === undefined ? [note] : [note, note]));
    if (own.length !== expected.length) {
      findings.push(finding("loaded", atOffset(r.sh_offset), `${own.length} notes of probes, not ${expected.length}`));
      continue;
    }
    let [a, b]: [number, number] = [o.sh_offset, r.sh_offset];
    const between = (aEnd: number, bEnd: number): void => {
      const same = original.bytes.subarray(a, aEnd).equals(rewritten.bytes.subarray(b, bEnd));
      if (!same) findings.push(finding("loaded", atOffset(b), "what stands between the notes of probes is another"));
    };
    expected.forEach((note, i) => {
      const other = own[i]!;
      if (note === expected[i - 1]) between(a, other.offset);
      else between(note.offset, other.offset);
      for (const what of noteProblems(original, note, rewritten, other))
        findings.push(finding("loaded", atOffset(other.offset), `the note of ${note.provider}:${note.name} ${what}`));
      a = note.offset + note.size;
      b = other.offset + other.size;
    });
    between(end(o), end(r));
  }
  return { findings, judged };
}

/** Places of universal probes that agree, modulo 4096, with others of their name. */
function closePlaces(doubles: readonly NotePair[], now: readonly UsdtNote[]): Finding[] {
  const nameOf = ({ provider, name }: UsdtNote): string => `${provider}:${name}`;
  const universal = new Set(doubles.flatMap(({ original, twin }) => (twin === undefined ? [] : [nameOf(original)])));
  const found: Finding[] = [];
  for (const [name, notes] of groupBy(now, nameOf)) {
    if (!universal.has(name)) continue;
    const taken = new Set<number>();
    for (const { location, offset } of notes) {
      if (taken.has(location % PAGE_SIZE))
        found.push(finding("loaded", atOffset(offset), `two places of ${name} agree modulo 4096, at ${hex(location)}`));
      taken.add(location % PAGE_SIZE);
    }
  }
  return found;
}

const end = (s: Section): number => s.sh_offset + s.sh_size;

function* noteProblems(original: ElfImage, o: UsdtNote, rewritten: ElfImage, r: UsdtNote): Generator<string> {
  const [before, now] = [original.bytes, rewritten.bytes];
  const moved = !before
    .subarray(o.locationOffset, o.locationOffset + 8)
    .equals(now.subarray(r.locationOffset, r.locationOffset + 8));
  if (!moved && o.argumentText === r.argumentText) {
    const [a, b] = [before.subarray(o.offset, o.offset + o.size), now.subarray(r.offset, r.offset + r.size)];
    if (a.length !== b.length) yield `has ${b.length} bytes, not ${a.length}`;
    else
      for (const { start, end } of differingRuns(a, b))
        yield `has other bytes: ${shown(b.subarray(start, end))}, not ${shown(a.subarray(start, end))}`;
    return;
  }
  if (!before.subarray(o.offset, o.offset + 4).equals(now.subarray(r.offset, r.offset + 4))) yield "has another namesz";
  if (!before.subarray(o.offset + 8, o.locationOffset).equals(now.subarray(r.offset + 8, r.locationOffset)))
    yield "has another type or owner";
  const words = before
    .subarray(o.locationOffset + 8, o.locationOffset + 24)
    .equals(now.subarray(r.locationOffset + 8, r.locationOffset + 24));
  if (!words) yield "names another base or semaphore";
  if (
    !before
      .subarray(o.locationOffset + 24, o.argumentOffset)
      .equals(now.subarray(r.locationOffset + 24, r.argumentOffset))
  )
    yield "names another probe";
  if (o.argumentText === r.argumentText) {
    const [a, b] = [
      before.subarray(o.argumentOffset, o.offset + o.size),
      now.subarray(r.argumentOffset, r.offset + r.size),
    ];
    if (!a.equals(b) || before.readUInt32LE(o.offset + 4) !== now.readUInt32LE(r.offset + 4))
      yield "ends in another way";
    return;
  }
  // New arguments: nothing after them but padding, and the sizes say so.
  const textEnd = r.argumentOffset + Buffer.byteLength(r.argumentText, "utf8") + 1;
  const descsz = textEnd - r.locationOffset;
  const noteEnd = r.offset + r.size;
  if (now.readUInt32LE(r.offset + 4) !== descsz || noteEnd - r.locationOffset !== alignUp(descsz, 4))
    yield "has another size than what it says";
  if (firstNonZero(now.subarray(textEnd, noteEnd)) >= 0) yield "has bytes after its arguments";
}
