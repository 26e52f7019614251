/** What a rewritten file has for the sake of a fork guard and a selector, as one to who compares the rest of it. */
import { readDynamicTags } from "../elf/dynamic.js";
import type { ElfImage } from "../elf/image.js";
import { union } from "../intervals.js";
import { type Guard, NO_GUARD } from "./guard/guard.js";
import type { Selector } from "./selector/selector.js";

/** Both together; undefined where there is neither. The words are the guard's own. */
export function additionsOf(
  rewritten: ElfImage,
  guard: Guard | undefined,
  selector: Selector | undefined,
): Guard | undefined {
  if (selector === undefined) return guard;
  const own = guard ?? NO_GUARD;
  const tags = readDynamicTags(rewritten);
  const place = (tag: number): number => tags.findIndex((t) => t.d_tag === tag);
  return {
    ...own,
    findings: [...own.findings, ...selector.findings],
    code: union([...own.code, ...selector.code]),
    named: [...own.named, ...selector.named],
    tagValues: new Map([...own.tagValues, ...selector.tagValues]),
    // In the order in which the file has them.
    addedTags: [...own.addedTags, ...selector.addedTags].sort(([a], [b]) => place(a) - place(b)),
    judged: [...own.judged, ...selector.judged],
  };
}
