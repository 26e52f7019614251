/** What a rewritten file has for the sake of a fork guard and a selector, as one to who compares the rest of it. */
import { readDynamicTags } from "../elf/dynamic.js";
import type { ElfImage } from "../elf/image.js";
import { union } from "../intervals.js";
import type { Guard } from "./guard/guard.js";
import type { Selector } from "./selector/selector.js";

const nothing: Guard = {
  findings: [],
  code: [],
  named: [],
  words: undefined,
  tagValues: new Map(),
  addedTags: [],
  spared: new Set(),
  sizes: new Map(),
  judged: [],
};

/** Both together; undefined where there is neither. The words are the guard's own. */
export function additionsOf(
  rewritten: ElfImage,
  guard: Guard | undefined,
  selector: Selector | undefined,
): Guard | undefined {
  if (selector === undefined) return guard;
  const own = guard ?? nothing;
  const place = (tag: number): number => readDynamicTags(rewritten).findIndex((t) => t.d_tag === tag);
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
