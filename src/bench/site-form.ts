/**
 * Which form a probe of a file has once it is rewritten, and which function of the sample has the same. The code around
 * a probe needs the program around it to run, so what is measured is its form: where the nop5 stands, how control gets
 * there and back, and the guard.
 */

import { type ElfImage, parseElf, sectionNamed } from "../elf/image.js";
import { InputError } from "../errors.js";
import { readInput } from "../files/input.js";
import { revert } from "../rewrite/revert.js";
import { rewrite } from "../rewrite/rewrite.js";
import type { SiteReport } from "../rewritten/contract.js";
import { CARRY_SECTION } from "../rewritten/section-names.js";
import type { SparseContent } from "../sparse-content.js";

import { type FileLayout, formAt } from "../usdt/forms.js";
import type { ProbePattern } from "../usdt/pattern.js";
import { codeFrom } from "../usdt/sites.js";
import { benchRewrite } from "./measure.js";
import type { SampleFunction } from "./sample.js";

export interface SiteForm {
  readonly site: SiteReport;
  /** The function of the sample that stands for it, or null where the probe cannot be rewritten. */
  readonly measuredAs: SampleFunction | null;
}

const byTactic: Readonly<Record<string, SampleFunction>> = {
  "in-place": "in-place",
  shift: "shift",
  "call-through": "call-through",
};

/**
 * The probes of a file that match, rewritten or not, as `rewrite` with this layout would make them.
 * @throws InputError where none does, or the file cannot be read
 */
export function siteForms(path: string, pattern: ProbePattern, layout: FileLayout): readonly SiteForm[] {
  const file = readInput(path);
  const image = parseElf(file.bytes, file);
  const original = sectionNamed(image, CARRY_SECTION) === undefined ? image : parseElf(contentBytes(revert(image)));
  const sites = rewrite(original, benchRewrite(layout)).report.sites.filter(pattern.matches);
  if (sites.length === 0) throw new InputError(`has no probe ${pattern.text}`);
  return sites.map((site) => ({ site, measuredAs: standsFor(original, site) }));
}

/** All other tactics lead out of line and back, as displace does. */
function standsFor(image: ElfImage, { location, status, tactic, guard }: SiteReport): SampleFunction | null {
  if (status === "already") {
    const code = codeFrom(image, location);
    return (code === null ? undefined : formAt(code))?.nop ?? "nop5";
  }
  if (tactic === null) return null;
  return guard ? "guarded" : (byTactic[tactic] ?? "displace");
}

function contentBytes(content: SparseContent): Buffer {
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
}
