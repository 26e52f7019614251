/**
 * The smallest assembler that does for built-in programs: each line is a text for people and its bytes, written out;
 * only the displacements of branches are computed. A test compares the texts with what objdump reads in the bytes.
 */

export interface Line {
  readonly text: string;
  /** Bytes in hexadecimal, without the displacement of a branch. */
  readonly bytes: string;
  /** A rel32 to this label follows the bytes. */
  readonly target?: string;
  /** A disp32 relative to the next instruction to this address follows the bytes, then these bytes. */
  readonly relative?: { readonly to: string; readonly rest: string };
}

export interface Listed {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly text: string;
}

export interface Assembled {
  readonly listing: readonly Listed[];
  readonly labels: ReadonlyMap<string, number>;
}

/** Lines, labels (a name with a colon) and addresses at which to go on. */
export type Source = readonly (Line | string | number)[];

export const line = (text: string, bytes: string): Line => ({ text, bytes });
export const branch = (text: string, bytes: string, target: string): Line => ({ text, bytes, target });

export function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex === "" ? [] : hex.split(" "), (byte) => Number.parseInt(byte, 16));
}

/** A displacement of 32 bits, low byte first. */
export function displacement(value: number): Uint8Array {
  return new Uint8Array(Int32Array.of(value).buffer);
}

/**
 * Assembles a source.
 * @param known labels that are defined elsewhere
 */
export function assemble(source: Source, known: ReadonlyMap<string, number> = new Map()): Assembled {
  const labels = new Map(known);
  const sizeOf = (item: Line): number =>
    bytesOf(item.bytes).length +
    (item.target === undefined ? 0 : 4) +
    (item.relative === undefined ? 0 : 4 + bytesOf(item.relative.rest).length);
  let at = 0;
  for (const item of source) {
    if (typeof item === "number") at = item;
    else if (typeof item === "string") labels.set(item.replace(/:$/, ""), at);
    else at += sizeOf(item);
  }
  const listing: Listed[] = [];
  at = 0;
  for (const item of source) {
    if (typeof item === "number") at = item;
    if (typeof item !== "object") continue;
    const size = sizeOf(item);
    const to = labels.get(item.target ?? item.relative?.to ?? "") ?? 0;
    const rest = item.relative === undefined ? [] : bytesOf(item.relative.rest);
    const isRelative = item.target !== undefined || item.relative !== undefined;
    const relative = isRelative ? displacement(to - (at + size)) : [];
    listing.push({ address: at, bytes: Uint8Array.of(...bytesOf(item.bytes), ...relative, ...rest), text: item.text });
    at += size;
  }
  return { listing, labels };
}
