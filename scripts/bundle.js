/**
 * Part of `npm run build`: the command in a few files, for bin/. Node takes half a millisecond to find, read and link a
 * module, and `rewrite` has more than a hundred. dist/ has them one by one as well, from the compiler, for whoever
 * imports them.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

const bundle = await rolldown({
  input: path("src/commands/main.ts"),
  platform: "node",
  tsconfig: path("tsconfig.build.json"),
  // Imports name what the compiler will have made.
  resolve: { extensionAlias: { ".js": [".ts", ".js"] } },
});
// Names without hashes: a build takes the place of the one before.
const { output } = await bundle.write({ dir: path("dist/bundle"), format: "esm", chunkFileNames: "[name].js" });
await bundle.close();

// Whoever passes the bundle on passes these packages on, whose licences ask for their text beside them.
const modules = output.flatMap((chunk) => (chunk.type === "chunk" ? chunk.moduleIds : []));
const packages = new Set(modules.flatMap((id) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(id)?.[1] ?? []));
const texts = [...packages].sort().map((name) => {
  const folder = path(`node_modules/${name}`);
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined) throw new Error(`${name}: no text of its licence`);
  return `${name} ${version}, ${license}\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
});
writeFileSync(path("dist/bundle/LICENSES.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));
