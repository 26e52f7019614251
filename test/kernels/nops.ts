/** The kinds of nops that each kernel is asked about, and what is seen of one. Shared with what runs in the guest. */

export interface Nop {
  readonly hex: string;
  /** How many bytes of its page are left where it begins; null: in the middle of a page. */
  readonly room: number | null;
}

const nop = (hex: string, room: number | null = null): Nop => ({ hex, room });

export const nops: readonly Nop[] = [
  nop("90"),
  nop("66 90"),
  nop("0f 1f 00"),
  nop("0f 1f 44 00 00"),
  nop("0f 1f 44 00 08"),
  nop("66 66 66 66 90"),
  nop("0f 1f 44 00 00", 5),
  nop("0f 1f 44 00 00", 3),
  nop("2e 0f 1f 40 00"),
  nop("0f 1f 84 00 00 00 00 00"),
  nop("66 2e 0f 1f 84 00 00 00 00 00"),
  nop("66 2e 0f 1f 84 c0 78 56 34 12"),
  nop("66 2e 0f 1f 84 00 00 00 00 00", 10),
  nop("66 2e 0f 1f 84 00 00 00 00 00", 7),
  nop("66 66 0f 1f 84 00 00 00 00 00"),
  nop("2e 66 0f 1f 84 00 00 00 00 00"),
  nop("66 66 2e 0f 1f 84 00 00 00 00 00"),
];

export const nameOf = ({ hex, room }: Nop): string =>
  room === null ? hex : `${hex}, ${room} bytes before a page's end`;

/** Attached before the program starts, or while it runs and has not passed the nop. */
export type When = "before" | "running";

export interface Seen {
  readonly nop: Nop;
  readonly when: When;
  /** Why attaching failed, or null. */
  readonly refusal: string | null;
  readonly passes: number;
  readonly hits: number;
  /** The bytes at the nop: when the program has started; after some passes; after more; after detaching and more passes. */
  readonly bytes: readonly string[];
  /** How the program ended. */
  readonly end: string;
}
