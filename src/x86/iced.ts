/**
 * iced-x86, loaded by require: an `import` would have Node look for export names in its 900 KB of generated code first,
 * which costs more than the loading itself.
 */
import { createRequire } from "node:module";
import { setFlagsFromString } from "node:v8";
import type * as Iced from "iced-x86";

// V8 would compile the WebAssembly a second time, optimized, while we run; on two cores that takes more than it gives.
setFlagsFromString("--liftoff-only");

export const iced = createRequire(import.meta.url)("iced-x86") as typeof Iced;
export type { Instruction } from "iced-x86";
