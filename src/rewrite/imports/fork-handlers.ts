/** What stubs and wrappers know of each other: where the code that they lead to stands. */
import type { Vaddr } from "../../address.js";

export interface Wrapper {
  readonly name: string;
  readonly wrapper: Vaddr;
  readonly resolver: Vaddr;
}

/** The functions that belong to a fork; the first two may be missing. */
export interface ForkHandlers {
  readonly prepare: Vaddr | undefined;
  readonly parent: Vaddr | undefined;
  readonly child: Vaddr;
}
