/**
 * Note sections with probes. The same notes stand there in the same order, and say the same but for the location and
 * the arguments of a probe that moved; whether those are right is judged site by site, elsewhere.
 */
import { alignUp, type FileOffset, type Interval, interval } from "../../address.js";
import type { ElfImage, Section } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { firstNonZero } from "../../sparse-content.js";
import { readUsdtNotes, type UsdtNote } from "../../usdt/notes.js";
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
  for (const { original: o, rewritten: r } of pairs) {
    const notes = before.filter((n) => n.section === o);
    if (notes.length === 0) continue;
    judged.push(interval(o.sh_offset, o.sh_size));
    const own = now.filter((n) => n.section === r);
    if (own.length !== notes.length) {
      findings.push(finding("loaded", atOffset(r.sh_offset), `${own.length} probes have notes, not ${notes.length}`));
      continue;
    }
    let [a, b]: [number, number] = [o.sh_offset, r.sh_offset];
    const between = (aEnd: number, bEnd: number): void => {
      const same = original.bytes.subarray(a, aEnd).equals(rewritten.bytes.subarray(b, bEnd));
      if (!same) findings.push(finding("loaded", atOffset(b), "what stands between the notes of probes is another"));
    };
    notes.forEach((note, i) => {
      const other = own[i]!;
      between(note.offset, other.offset);
      for (const what of noteProblems(original, note, rewritten, other))
        findings.push(finding("loaded", atOffset(other.offset), `the note of ${note.provider}:${note.name} ${what}`));
      a = note.offset + note.size;
      b = other.offset + other.size;
    });
    between(end(o), end(r));
  }
  return { findings, judged };
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
