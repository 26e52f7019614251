/** What is not written yet, as it would be in a file. */
import type { SparseContent } from "../../src/sparse-content.js";

export function contentOf({ size, pieces }: SparseContent): Buffer {
  const bytes = Buffer.alloc(size);
  for (const piece of pieces) bytes.set(piece.bytes, piece.offset);
  return bytes;
}
