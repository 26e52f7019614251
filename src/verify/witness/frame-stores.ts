/**
 * What a function puts into the slots of its frame that it finds by rbp, where that is plain: every store by rbp, or by
 * rsp, is of a whole register into a place that the instruction says.
 */
import { type Decoder, type Instruction, iced } from "./decode.js";
import type { Part } from "./parts.js";
import { RBP, RSP } from "./state.js";
import { generals } from "./writes.js";

const { Mnemonic, OpKind, Register } = iced;

interface FrameStore {
  readonly at: number;
  /** The distance from rbp. */
  readonly place: number;
  readonly size: number;
  /** The register that is stored; -1: a number or a vector, which is no sum. */
  readonly register: number;
}

export class FrameStores {
  private constructor(private readonly stores: readonly FrameStore[] | undefined) {}

  static of(decoder: Decoder, part: Part): FrameStores {
    const stores: FrameStore[] = [];
    for (let at = part.start; at < part.end; ) {
      const i = decoder.at(at);
      if (i === undefined) return new FrameStores(undefined);
      const length = i.length;
      if (i.opCount > 0 && i.opKind(0) === OpKind.Memory && writesMemory(i)) {
        const store = storeOf(i, at);
        if (store === "unknown") return new FrameStores(undefined);
        if (store !== undefined) stores.push(store);
      }
      at += length;
    }
    return new FrameStores(stores);
  }

  /** The registers that are put into the eight bytes at a distance from rbp; undefined where that is not plain. */
  into(place: number): readonly FrameStore[] | undefined {
    const own = this.stores?.filter((s) => s.place < place + 8 && s.place + s.size > place);
    if (own === undefined || own.some((s) => s.register >= 0 && (s.place !== place || s.size !== 8))) return undefined;
    return own.filter((s) => s.register >= 0);
  }
}

/** A load of a whole register from a slot that is found by rbp. */
export const isSlotLoad = (i: Instruction): boolean =>
  i.mnemonic === Mnemonic.Mov &&
  i.opKind(1) === OpKind.Memory &&
  generals[i.opRegister(0)]?.size === 8 &&
  generals[i.memoryBase]?.index === RBP &&
  i.memoryIndex === Register.None &&
  i.memorySegment !== Register.FS &&
  i.memorySegment !== Register.GS;

const writesMemory = (i: Instruction): boolean => i.mnemonic !== Mnemonic.Cmp && i.mnemonic !== Mnemonic.Test;

/** What is stored; undefined where it is not in the frame. */
function storeOf(i: Instruction, at: number): FrameStore | "unknown" | undefined {
  const base = generals[i.memoryBase]?.index;
  const isIndexed = generals[i.memoryIndex] !== undefined;
  if (base !== RBP && base !== RSP && generals[i.memoryIndex]?.index !== RBP) return undefined;
  const size = iced.MemorySizeExt.size(i.memorySize);
  const from = i.opCount === 2 && i.opKind(1) === OpKind.Register ? generals[i.opRegister(1)] : undefined;
  const isMove = i.mnemonic === Mnemonic.Mov;
  // Fewer than eight bytes are no pointer; numbers and vectors are no sums.
  const isPlain = i.opCount === 2 && (from === undefined ? isMove || isVectorMove(i) : size < 8 && isMove);
  const place = Number(BigInt.asIntN(64, i.memoryDisplacement));
  if (base === RBP && !isIndexed && size > 0) {
    if (isPlain) return { at, place, size, register: -1 };
    if (isMove && from?.size === 8) return { at, place, size, register: from.index };
    // Anything else puts something there that is not told apart: no load from there is plain.
    return { at, place: place - 1, size: size + 2, register: 0 };
  }
  return isPlain ? undefined : "unknown";
}

const isVectorMove = (i: Instruction): boolean =>
  i.opKind(1) === OpKind.Register && generals[i.opRegister(1)] === undefined;
