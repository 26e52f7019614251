/**
 * What a generated function is, and what is known of it: its kinds, one word a dimension. A function without anything unusual
 * is a control: one in which a rewriter that is only careful enough finds sites to rewrite.
 */
export interface Kinds {
  readonly language: "asm" | "c" | "c++";
  /** What is done to the number by which a table is read. */
  readonly index: string;
  /** How the address comes to be from which the distances in a table count. */
  readonly base: string;
  /** Entries and where they lie. */
  readonly table: string;
  /** How base and entry become one. */
  readonly combine: string;
  /** By what the value travels before it is used. */
  readonly carry: string;
  /** The transfer. */
  readonly leave: string;
  /** Which function the transfer stands in. */
  readonly where: string;
  /** Anything unusual that is no transfer by a table. */
  readonly special: string;
}

export const dimensions = [
  "language",
  "index",
  "base",
  "table",
  "combine",
  "carry",
  "leave",
  "where",
  "special",
] as const;

export const plain: Kinds = {
  language: "asm",
  index: "-",
  base: "-",
  table: "-",
  combine: "-",
  carry: "-",
  leave: "-",
  where: "here",
  special: "-",
};

export interface GeneratedFunction {
  /** fn and a number; its sites are app:NAME_0, app:NAME_1 and so on. */
  readonly name: string;
  readonly kinds: Kinds;
  /** How many unusual things it has. */
  readonly unusual: number;
  /** Which documented assumption it breaks, or null. */
  readonly assumption: string | null;
  /** Its first argument goes from 0 to this, not included; each is one way through it. */
  readonly selectors: number;
  readonly text: string;
}

/** What the functions of one program have in common. */
export interface Flavour {
  readonly link: "pie" | "no-pie" | "shared" | "static";
  /** Call frame information for generated assembly. */
  readonly cfi: boolean;
  readonly stripped: boolean;
}
