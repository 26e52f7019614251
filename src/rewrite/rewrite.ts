import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { RewriteOptions, RewriteResult } from "./contract.js";

export function rewrite(_image: ElfImage, _options: RewriteOptions): RewriteResult {
  throw new InputError("not implemented yet");
}
