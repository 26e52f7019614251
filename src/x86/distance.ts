/**
 * Instructions that lead or point somewhere by a distance, which counts from their end: what is known of them before
 * they have an address, and their bytes when they have one.
 */

/** An instruction with a distance in it, which counts from its end; and where in it that stands, how wide, in bytes. */
export interface Form {
  readonly bytes: ArrayLike<number>;
  readonly field: number;
  readonly width: 1 | 2 | 4;
}

/** An instruction that ends with its distance. */
const endingWith = (opcode: Iterable<number>, width: 1 | 4): Form => {
  const bytes = [...opcode];
  return { bytes: [...bytes, ...new Array<number>(width).fill(0)], field: bytes.length, width };
};
/** These bytes, then a distance of 32 bits. */
export const near = (opcode: Iterable<number>): Form => endingWith(opcode, 4);
/** These bytes, then a distance of 8 bits. */
export const short = (opcode: Iterable<number>): Form => endingWith(opcode, 1);

/** cmpb $0 of the byte at a distance of 32 bits. */
export const COMPARE_BYTE_WITH_0: Form = { bytes: [0x80, 0x3d, 0, 0, 0, 0, 0], field: 2, width: 4 };

/** What stands in the instruction's field, or undefined where it does not reach: this is the only place that asks. */
export function distanceIn({ bytes, width }: Form, at: number, target: number): number | undefined {
  const distance = target - (at + bytes.length);
  const most = 2 ** (8 * width - 1);
  return distance < -most || distance >= most ? undefined : distance;
}

/** The instruction at an address, in the first form that reaches; undefined where none does. */
export function leading(forms: readonly Form[], at: number, target: number): Uint8Array | undefined {
  const form = forms.find((f) => distanceIn(f, at, target) !== undefined);
  if (form === undefined) return undefined;
  const out = Uint8Array.from(form.bytes);
  out.set(littleEndian(distanceIn(form, at, target)!, form.width), form.field);
  return out;
}

/** The lowest `width` bytes of a number. */
export function littleEndian(value: number | bigint, width: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigInt64(0, BigInt.asIntN(64, BigInt(value)), true);
  return bytes.subarray(0, width);
}

/** An instruction of the input, to be written elsewhere (relocate.ts). */
export interface Movable {
  /** Where it stood. */
  readonly at: number;
  readonly bytes: Uint8Array;
  /**
   * Where it leads or points, and its forms, the shortest first; undefined where it does not depend on where it stands.
   */
  readonly leads: { readonly forms: readonly Form[]; readonly target: number } | undefined;
}
