/** What a file is to hold, told without the zeros between. */

/** The content of a file: pieces in ascending order; what lies between them, and up to `size`, is a hole (zeros). */
export interface SparseContent {
  readonly size: number;
  readonly pieces: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
}
