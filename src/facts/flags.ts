import type { Vaddr } from "../address.js";
import type { ProgramFacts } from "./program.js";

export class FlagFacts {
  constructor(readonly facts: ProgramFacts) {}
  deadAt(_site: Vaddr): { readonly dead: boolean; readonly because: string } {
    return { dead: false, because: "not known" };
  }
}
