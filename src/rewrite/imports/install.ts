/**
 * A child handler and nothing else, as a file of its own: the shortest way through the plan, and the order in which a
 * rewrite takes the same steps. The output carries what revert needs.
 */
import { createHash } from "node:crypto";
import type { Vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { assemble } from "../assemble.js";
import type { SparseContent } from "../contract.js";
import type { NewCode } from "../new-code.js";
import type { Place } from "../place.js";
import { symbolEdits } from "../symbols.js";
import {
  type ChildHandlerPlan,
  childHandlerChanges,
  childHandlerCode,
  childHandlerPlaces,
  planChildHandler,
} from "./child-handler.js";
import type { Stubs } from "./stubs.js";

export interface Installed {
  readonly content: SparseContent;
  readonly plan: ChildHandlerPlan;
  readonly place: Place;
  readonly stubs: Stubs;
}

/**
 * The file with a handler that the C library runs in every forked child, or why it cannot have one.
 * @param child makes the handler's code, a function without arguments, for its link-time address
 * @throws InputError where the file is damaged
 */
export function installChildHandler(image: ElfImage, child: (at: Vaddr) => Uint8Array): Installed | string {
  const plan = planChildHandler(image);
  if (typeof plan === "string") return plan;
  const { places, obstacle } = childHandlerPlaces(plan, false);
  for (const place of places) {
    const stubs = childHandlerCode(plan, place.start, child);
    if (stubs.bytes.length > place.capacity) continue;
    const { edits, tails, addedSections } = childHandlerChanges(plan, stubs);
    const newCode: NewCode = {
      start: place.start,
      bytes: stubs.bytes,
      chunks: [],
      named: stubs.named,
      failed: new Map(),
    };
    const moved = place.kind === "new segment" ? place.growth.moved : [];
    const content = assemble(plan.image, {
      edits: [...edits, ...symbolEdits(plan.image, moved, [])],
      replaced: new Map(),
      code: { place, newCode },
      tails,
      addedSections,
      probeName: () => "",
      memo: "{}",
      before: [],
      originalHash: createHash("sha256").update(image.bytes).digest(),
    });
    return { content, plan, place, stubs };
  }
  return obstacle;
}
