/**
 * iced-x86, loaded by require: an `import` would have Node look for export names in its 900 KB of generated code first,
 * which costs more than the loading itself.
 */
import { createRequire } from "node:module";
import type * as Iced from "iced-x86";

export const iced = createRequire(import.meta.url)("iced-x86") as typeof Iced;
export type { Instruction } from "iced-x86";
