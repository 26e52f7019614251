import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { SparseContent } from "./contract.js";

export function revert(_image: ElfImage): SparseContent {
  throw new InputError("not implemented yet");
}
