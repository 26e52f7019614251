/**
 * A child handler, or all that covers a file's forks, and nothing else, as a file of its own: the shortest way through
 * the plan, and the order in which a rewrite takes the same steps. The output carries what revert needs.
 */

import type { ElfImage } from "../../../elf/image.js";
import type { SparseContent } from "../../../sparse-content.js";
import { assemble } from "../../assemble.js";
import type { NewCode } from "../../new-code.js";
import type { Place } from "../../place.js";
import { symbolEdits } from "../../symbols.js";
import { type ChildHandlerPlan, planChildHandler } from "./child-handler.js";
import { type CoverCode, coverChanges, coverCode, coverPlaces, type ForkCoverPlan } from "./fork-cover.js";
import type { ChildCode } from "./fork-handlers.js";

export interface Installed {
  readonly content: SparseContent;
  readonly place: Place;
  readonly code: CoverCode;
}

/**
 * The file with a handler that the C library runs in every forked child, or why it cannot have one.
 * @throws InputError where the file is damaged
 */
export function installChildHandler(
  image: ElfImage,
  child: ChildCode,
): (Installed & { readonly plan: ChildHandlerPlan }) | string {
  const plan = planChildHandler(image);
  if (typeof plan === "string") return plan;
  const made = installForkCover(image, { image: plan.image, handler: plan, detours: [] }, child);
  return typeof made === "string" ? made : { ...made, plan };
}

/** The file with all that `plan` covers, likewise; or why there is no place for it. */
export function installForkCover(
  input: ElfImage,
  plan: ForkCoverPlan,
  child: ChildCode,
  tableAtEnd = false,
): Installed | string {
  const { places, obstacle } = coverPlaces(plan, { tableAtEnd, keepOffsets: true });
  for (const place of places) {
    const code = coverCode(plan, place.start, child);
    if (typeof code === "string") return code;
    if (code.bytes.length > place.capacity) continue;
    const { edits, tails, addedSections } = coverChanges(plan, code);
    const { bytes, named } = code;
    const newCode: NewCode = { start: place.start, bytes, chunks: [], named, failed: new Map() };
    const moved = place.kind === "new segment" ? place.growth.moved : [];
    const content = assemble(plan.image, {
      edits: [...edits, ...symbolEdits(plan.image, moved, [])],
      replaced: new Map(),
      code: { place, newCode },
      tails,
      addedSections,
      probeName: () => "",
      memo: Buffer.from("{}"),
      certificates: new Uint8Array(0),
      original: input,
    });
    return { content, place, code };
  }
  return obstacle;
}
