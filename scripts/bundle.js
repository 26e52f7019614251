/**
 * Part of `npm run build`: the command in a few files, for bin/. Node takes half a millisecond to find, read and link a
 * module, and `rewrite` has more than a hundred. dist/ has them one by one as well, from the compiler, for whoever
 * imports them.
 */
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
await bundle.write({ dir: path("dist/bundle"), format: "esm", chunkFileNames: "[name].js" });
await bundle.close();
