/**
 * The dynamic section: every tag says the same, but for those that told where a section was which stands elsewhere now;
 * these tell its new place.
 */
import { hex } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type ElfImage, read64 } from "../../elf/image.js";
import { atAddress, type FileStretch, type Finding, finding, loadedBytes, type Ruling } from "./findings.js";
import { movedPairs, sectionTags } from "./moved.js";
import type { SectionPairs } from "./sections.js";

const TAG_SIZE = 16;

export function judgeDynamic(original: ElfImage, rewritten: ElfImage, pairs: SectionPairs): Ruling {
  const segment = original.programHeaders.find((p) => p.p_type === elf.PT_DYNAMIC);
  const now = segment && loadedBytes(rewritten, segment.p_vaddr, segment.p_filesz);
  if (segment === undefined || now === undefined) return { findings: [], judged: [] };
  const findings: Finding[] = [];
  const view = new DataView(now.buffer, now.byteOffset, now.byteLength);
  const movedTo = new Map(
    movedPairs(pairs).map(({ original: o, rewritten: r }) => [o.sh_addr as number, r.sh_addr as number]),
  );
  const whole = segment.p_filesz - (segment.p_filesz % TAG_SIZE);
  let ended = false;
  for (let at = 0; at < whole; at += TAG_SIZE) {
    const tag = read64(original.view, segment.p_offset + at);
    const value = read64(original.view, segment.p_offset + at + 8);
    const where = atAddress(segment.p_vaddr + at);
    if (read64(view, at) !== tag) {
      findings.push(finding("loaded", where, `a dynamic tag is ${hex(read64(view, at))}, not ${hex(tag)}`));
      continue;
    }
    const expected = (!ended && sectionTags.has(tag) ? movedTo.get(value) : undefined) ?? value;
    const is = read64(view, at + 8);
    if (is !== expected)
      findings.push(
        finding(
          "loaded",
          where,
          `${sectionTags.get(tag) ?? `dynamic tag ${hex(tag)}`} is ${hex(is)}, not ${hex(expected)}`,
        ),
      );
    ended ||= tag === elf.DT_NULL;
  }
  const judged: FileStretch[] = [{ start: segment.p_offset, end: segment.p_offset + whole }];
  return { findings, judged };
}
