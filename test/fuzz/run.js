/**
 * `npm run fuzz -- OPTIONS` (main.ts says which). Node 20 runs no TypeScript: the fuzzer and what it tries, as the source is now,
 * are made into one file first. What a module finds beside itself is beside its source.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { rolldown } from "rolldown";

const root = fileURLToPath(new URL("../../", import.meta.url));

async function bundled() {
  const bundle = await rolldown({
    input: join(root, "test/fuzz/main.ts"),
    platform: "node",
    tsconfig: join(root, "tsconfig.json"),
    resolve: { extensionAlias: { ".js": [".ts", ".js"] } },
    plugins: [
      {
        name: "beside its source",
        transform: (code, id) =>
          id.endsWith(".ts") ? code.replaceAll("import.meta.url", JSON.stringify(pathToFileURL(id).href)) : null,
      },
    ],
  });
  const { output } = await bundle.generate({ format: "esm", codeSplitting: false });
  await bundle.close();
  return output[0].code;
}

const place = mkdtempSync(join(tmpdir(), "usdt-fuzz-code-"));
process.on("exit", () => rmSync(place, { recursive: true, force: true }));
const script = join(place, "main.mjs");
const start = join(place, "start.mjs");
writeFileSync(script, await bundled());
// Workers are started with the same file.
writeFileSync(
  start,
  `import { main } from "./main.mjs"; process.exitCode = await main(${JSON.stringify(start)}, process.argv.slice(2));`,
);
const { main } = await import(pathToFileURL(script).href);
process.exitCode = await main(start, process.argv.slice(2));
