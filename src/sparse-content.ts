/** What a file is to hold, told without the zeros between. */

/** The content of a file: pieces in ascending order; what lies between them, and up to `size`, is a hole (zeros). */
export interface SparseContent {
  readonly size: number;
  readonly pieces: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
}

/** Whether a file with this content would be `bytes`. */
export function isContent({ size, pieces }: SparseContent, bytes: Buffer): boolean {
  if (bytes.length !== size) return false;
  let at = 0;
  for (const { offset, bytes: piece } of [...pieces, { offset: size, bytes: new Uint8Array(0) }]) {
    if (!bytes.subarray(at, offset).every((byte) => byte === 0)) return false;
    at = offset + piece.length;
    if (Buffer.compare(bytes.subarray(offset, at), piece) !== 0) return false;
  }
  return true;
}
