/**
 * What is found out about a file as a whole, when somebody first asks: where its functions begin and end, and where
 * computed jumps lead. Whoever asks more than one question of a file makes one of these and hands it on, so that what
 * one question has decoded the next need not. It lives as long as whoever made it keeps it.
 */
import type { ElfImage } from "../elf/image.js";
import { type Asked, ComputedTargets } from "./computed-targets.js";
import { FunctionIndex } from "./functions.js";

export class FileFacts {
  #functions: FunctionIndex | undefined;
  readonly #computed = new Map<Asked, ComputedTargets>();

  constructor(readonly image: ElfImage) {}

  /** @throws InputError where .eh_frame or a symbol table is damaged, or headers contradict each other */
  get functions(): FunctionIndex {
    this.#functions ??= FunctionIndex.of(this.image);
    return this.#functions;
  }

  /** @throws InputError where tables of the file are damaged */
  computed(asked: Asked): ComputedTargets {
    const found = this.#computed.get(asked) ?? new ComputedTargets(this.image, this.functions, asked);
    this.#computed.set(asked, found);
    return found;
  }
}
