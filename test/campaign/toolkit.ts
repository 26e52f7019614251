/**
 * The parts of usdt-nop5 that the campaign uses, from whichever built version it is to judge: the same programs can be given
 * to two of them.
 */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

type Modules = {
  readonly image: typeof import("../../src/elf/image.js");
  readonly rewrite: typeof import("../../src/rewrite/rewrite.js");
  readonly verify: typeof import("../../src/verify/verify.js");
  readonly original: typeof import("../../src/verify/original.js");
  readonly uprobes: typeof import("../../src/live/uprobes.js");
  readonly tracefs: typeof import("../../src/live/tracefs.js");
  readonly tracedFile: typeof import("../../src/live/traced-file.js");
};
export type Toolkit = Modules;

/** @param dist what `npm run build` makes, here or in another checkout */
export async function loadToolkit(dist: string): Promise<Toolkit> {
  if (!existsSync(join(dist, "rewrite/rewrite.js"))) throw new Error(`${dist}: nothing is built there (npm run build)`);
  const load = (path: string): Promise<unknown> => import(pathToFileURL(resolve(dist, path)).href);
  return {
    image: await load("elf/image.js"),
    rewrite: await load("rewrite/rewrite.js"),
    verify: await load("verify/verify.js"),
    original: await load("verify/original.js"),
    uprobes: await load("live/uprobes.js"),
    tracefs: await load("live/tracefs.js"),
    tracedFile: await load("live/traced-file.js"),
  } as Toolkit;
}
