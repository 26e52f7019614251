import type { Vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { SELECTOR_SECTION } from "../../rewritten/section-names.js";
import { wordSpace } from "../fork-guard/install/words.js";
import type { OutputSection } from "../sections.js";

export interface SelectorPlan {
  readonly image: ElfImage;
  readonly at: Vaddr;
  readonly section: OutputSection;
}

export function planSelector(image: ElfImage): SelectorPlan | string {
  const space = wordSpace(image, 1);
  if (typeof space === "string") return space;
  const words = space.take(1);
  return { image: words.image, at: space.start, section: { ...words.section, name: SELECTOR_SECTION } };
}
