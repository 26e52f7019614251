/**
 * One case: an instruction with its bytes, and the state that it starts from. Everything follows from the seed, the
 * form and the number of the case, so that a case that fails can be made again alone.
 *
 * Values are random with a preference for boundaries (random.ts). Then what the instruction needs to do something
 * interesting is arranged: memory operands lead into the scratch memory, a few of them out of it on purpose; shift
 * counts are small, quotients fit, comparisons find equals, repeat counts are small, branches have somewhere to go.
 */
import { placeMemory, placeStack, placeStrings } from "./addresses.js";
import { arrange, placeEquals } from "./arrange.js";
import { CaseState } from "./case-state.js";
import { codeOfBytes, decodeOne } from "./decode-one.js";
import { encode } from "./encode.js";
import type { Form } from "./forms.js";
import { HIGH, type Layout, LOW } from "./layout.js";
import { Random } from "./random.js";
import { NOTHING_UNDEFINED, type Undefined, undefinedResults } from "./undefined-results.js";

export interface Case {
  readonly form: Form;
  readonly number: number;
  readonly layout: Layout;
  readonly bytes: Uint8Array;
  /** "r", "m", ... for each explicit operand: what the coverage table counts. */
  readonly shape: string;
  /** How many instructions it is. */
  readonly count: number;
  /**
   * What it leaves undefined.
   * @param before the state before
   * @param faultAt how many bytes in front of the instruction that faulted, or undefined
   */
  undefinedAfter(before: DataView, faultAt: number | undefined): Undefined;
}

/** The layout of a case: every other one is high. */
export const layoutOf = (number: number): Layout => (number % 2 === 0 ? LOW : HIGH);

/**
 * Makes a case in slot `slot` of the code.
 * @param record receives the state before: RECORD_SIZE bytes
 * @returns undefined where no encoding was found that a decoder takes for this form
 */
export function makeCase(form: Form, seed: number, number: number, slot: number, record: Uint8Array): Case | undefined {
  const random = new Random(seed, form.code, number);
  for (let attempt = 0; attempt < 40; attempt++) {
    const encoded = encode(form, random);
    if (encoded.bytes.length > 15 || codeOfBytes(encoded.bytes) !== form.code) continue;
    const layout = layoutOf(number);
    const state = new CaseState(form, random, encoded, layout, slot, record);
    placeStack(state);
    placeStrings(state);
    placeMemory(state);
    placeEquals(state);
    arrange(state);
    const bytes = Uint8Array.from(encoded.bytes);
    return {
      form,
      number,
      layout,
      bytes,
      shape: shapeOf(state),
      count: 1,
      undefinedAfter: (before, faultAt) =>
        faultAt === undefined ? undefinedResults(decodeOne(bytes), form.mnemonic, before) : NOTHING_UNDEFINED,
    };
  }
  return undefined;
}

function shapeOf({ form, places }: CaseState): string {
  const letters = form.operands.map((kind, i) => {
    const place = places[i];
    if (place === undefined) return kind;
    return place.kind === "memory" ? "m" : place.high ? "h" : place.kind === "xmm" ? "x" : "r";
  });
  return letters.join(",");
}
