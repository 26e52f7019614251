/**
 * What `rewrite` makes of a package, for tests that run it, trace it or unwind it: each input is rewritten once with the same options,
 * whichever test comes first, and kept under .cache/ by a hash of everything that went in: the input, the options, the
 * program's source, the packages it uses.
 *
 * Tests of rewriting itself rewrite for themselves: coverage.test.ts, which holds what is kept against that as well, and verify's.
 */
import { createHash } from "node:crypto";
import {
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { usdtNop5 } from "./tool.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const cache = path.join(root, ".cache/rewritten");
/** What an earlier source made goes away when nobody has asked for it for so long, in milliseconds: each is 170 MB. */
const KEPT = 3_600_000;

/** The folder for this source of the program. */
let folder: string | undefined;

function folderOfSource(): string {
  if (folder !== undefined) return folder;
  const hash = createHash("sha256").update(process.version);
  const source = readdirSync(path.join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
  for (const file of [...source.sort(), "package-lock.json"])
    hash.update(`${file}\0`).update(readFileSync(path.join(root, file)));
  folder = path.join(cache, hash.digest("hex").slice(0, 24));
  mkdirSync(folder, { recursive: true });
  utimesSync(folder, new Date(), new Date());
  for (const name of readdirSync(cache)) {
    const other = path.join(cache, name);
    const { mtimeMs } = statSync(other, { throwIfNoEntry: false }) ?? {};
    if (mtimeMs !== undefined && mtimeMs < Date.now() - KEPT) rmSync(other, { recursive: true, force: true });
  }
  return folder;
}

/**
 * Puts what `rewrite INPUT OPTIONS` writes where `output` says, as a copy of its own.
 * @returns the document, whose paths are those of the first time
 */
export async function rewriteOnce<T>(input: string, output: string, ...options: readonly string[]): Promise<T> {
  const key = createHash("sha256")
    .update(readFileSync(input))
    .update(JSON.stringify(options))
    .digest("hex")
    .slice(0, 24);
  const kept = path.join(folderOfSource(), key);
  const document = path.join(kept, "document.json");
  if (!existsSync(document)) await make(kept, input, options);
  copyFileSync(path.join(kept, "output"), output, constants.COPYFILE_FICLONE);
  return JSON.parse(readFileSync(document, "utf8")) as T;
}

/** Two that make the same at the same time both make it, and the second finds it there. */
async function make(kept: string, input: string, options: readonly string[]): Promise<void> {
  const making = `${kept}.${process.pid}`;
  mkdirSync(making);
  try {
    const r = await usdtNop5("rewrite", input, "-o", path.join(making, "output"), "--json", ...options);
    if (r.status !== 0) throw new Error(`rewrite ${input} ${options.join(" ")}: exit ${r.status}\n${r.stderr}`);
    writeFileSync(path.join(making, "document.json"), r.stdout);
    renameSync(making, kept);
  } catch (error) {
    rmSync(making, { recursive: true, force: true });
    if (!existsSync(path.join(kept, "document.json"))) throw error;
  }
}
