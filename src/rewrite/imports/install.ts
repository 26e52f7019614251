/**
 * A child handler, or all that covers a file's forks, and nothing else, as a file of its own: the shortest way through the
 * plan, and the order in which a rewrite takes the same steps. The output carries what revert needs.
 */

import type { ElfImage } from "../../elf/image.js";
import type { SparseContent } from "../../sparse-content.js";
import { assemble } from "../assemble.js";

import type { NamedCode, NewCode } from "../new-code.js";
import type { Place } from "../place.js";
import { symbolEdits } from "../symbols.js";
import {
  type ChildHandlerChanges,
  type ChildHandlerPlan,
  childHandlerChanges,
  childHandlerCode,
  childHandlerPlaces,
  planChildHandler,
} from "./child-handler.js";
import { type CoverCode, coverChanges, coverCode, coverPlaces, type ForkCoverPlan } from "./fork-cover.js";
import type { MakeChild, Stubs } from "./stubs.js";

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
export function installChildHandler(image: ElfImage, child: MakeChild): Installed | string {
  const plan = planChildHandler(image);
  if (typeof plan === "string") return plan;
  const made = install(image, childHandlerPlaces(plan, { tableAtEnd: false, keepOffsets: true }), (place) => {
    const code = childHandlerCode(plan, place.start, child);
    return { code, image: plan.image, changes: () => childHandlerChanges(plan, code) };
  });
  return typeof made === "string" ? made : { content: made.content, plan, place: made.place, stubs: made.code };
}

export interface Covered {
  readonly content: SparseContent;
  readonly place: Place;
  readonly code: CoverCode;
}

/** The file with all that `plan` covers, likewise; or why there is no place for it. */
export function installForkCover(
  image: ElfImage,
  plan: ForkCoverPlan,
  child: MakeChild,
  tableAtEnd = false,
): Covered | string {
  return install(image, coverPlaces(plan, { tableAtEnd, keepOffsets: true }), (place) => {
    const code = coverCode(plan, place.start, child);
    return { code, image: plan.image, changes: () => coverChanges(plan, code) };
  });
}

interface Encoded<Code> {
  readonly code: Code;
  readonly image: ElfImage;
  changes(): ChildHandlerChanges;
}

function install<Code extends { readonly bytes: Uint8Array; readonly named: readonly NamedCode[] }>(
  input: ElfImage,
  { places, obstacle }: ReturnType<typeof childHandlerPlaces>,
  encode: (place: Place) => Encoded<Code>,
): { content: SparseContent; place: Place; code: Code } | string {
  for (const place of places) {
    const { code, image, changes } = encode(place);
    if (code.bytes.length > place.capacity) continue;
    const { edits, tails, addedSections } = changes();
    const newCode: NewCode = {
      start: place.start,
      bytes: code.bytes,
      chunks: [],
      named: code.named,
      failed: new Map(),
    };
    const moved = place.kind === "new segment" ? place.growth.moved : [];
    const content = assemble(image, {
      edits: [...edits, ...symbolEdits(image, moved, [])],
      replaced: new Map(),
      code: { place, newCode },
      tails,
      addedSections,
      probeName: () => "",
      memo: "{}",
      certificates: new Uint8Array(0),
      original: input.bytes,
    });
    return { content, place, code };
  }
  return obstacle;
}
