/**
 * `npm run campaign -- OPTIONS` (main.ts says which). Node 20 runs no TypeScript: the campaign is made into one file first, as
 * bin/ is.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { rolldown } from "rolldown";

const root = fileURLToPath(new URL("../../", import.meta.url));

async function bundled() {
  const bundle = await rolldown({
    input: join(root, "test/campaign/main.ts"),
    platform: "node",
    tsconfig: join(root, "tsconfig.json"),
    resolve: { extensionAlias: { ".js": [".ts", ".js"] } },
  });
  const { output } = await bundle.generate({ format: "esm", codeSplitting: false });
  await bundle.close();
  return output[0].code;
}

const place = mkdtempSync(join(tmpdir(), "usdt-campaign-code-"));
process.on("exit", () => rmSync(place, { recursive: true, force: true }));
const script = join(place, "main.mjs");
const start = join(place, "start.mjs");
writeFileSync(script, await bundled());
// Workers are started with the same file.
writeFileSync(
  start,
  `import { main } from "./main.mjs"; process.exitCode = await main(${JSON.stringify(start)}, process.argv.slice(2));`,
);
process.env.CAMPAIGN_PROGRAMS ??= fileURLToPath(new URL("programs/", import.meta.url));
const { main } = await import(pathToFileURL(script).href);
process.exitCode = await main(start, process.argv.slice(2));
