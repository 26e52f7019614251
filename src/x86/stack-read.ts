/** A read of memory in terms of registers by number (effects.ts): what a probe's arguments make a tracer read. */

/** What a tracer reads when the probe is hit. */
export type StackRead =
  /** `size` bytes at base + index + displacement; registers by number, or NONE. */
  | {
      readonly kind: "memory";
      readonly base: number;
      readonly index: number;
      readonly displacement: number;
      readonly size: number;
    }
  /** The value of a register, which it may take for an address to read from. */
  | { readonly kind: "register"; readonly register: number }
  | { readonly kind: "unknown" };
