/** The command under test with any options, on programs compiled into a folder that goes away with the tests. */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { behindFile } from "../behind.js";
import { type RewriteDocument, usdtNop5 } from "../command.js";
import { must } from "../run.js";

let folder: string | undefined;
let files = 0;

/** A path that nothing has yet. The folder is made when it is needed: where all tests are skipped nothing would remove it. */
export function scratch(name: string): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), "usdt-live-"));
    folder = made;
    behindFile(() => {
      rmSync(made, { recursive: true, force: true });
      folder = undefined;
    });
  }
  return join(folder, `${files++}-${name}`);
}

export const programSource = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));

export async function build(compiler: string, source: string, ...flags: readonly string[]): Promise<string> {
  const output = scratch("program");
  await must(compiler, ["-w", ...flags, source, "-o", output]);
  return output;
}

export interface Rewritten extends RewriteDocument {
  readonly layout: string;
  readonly path: string;
}

export async function rewriteWith(input: string, ...options: readonly string[]): Promise<Rewritten> {
  const path = scratch("rewritten");
  const outcome = await usdtNop5("rewrite", input, "-o", path, "--json", ...options);
  if (outcome.status !== 0)
    throw new Error(`rewrite ${input} ${options.join(" ")}: ${outcome.status}\n${outcome.stderr}`);
  return { ...(JSON.parse(outcome.stdout) as Omit<Rewritten, "path">), path };
}

/** A copy with a path as long: the stack begins below it, so without randomization everything is where it was. */
export function sameLength(path: string, like: string): string {
  const copy = like.replace(/program$/, "another");
  copyFileSync(path, copy);
  return copy;
}
