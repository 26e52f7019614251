/**
 * Builds the program once before the tests: those that start it must not test an old one. The compiler writes its output
 * in spite of type errors, so these are shown and left to `npm run typecheck` to fail on.
 */
import { fileURLToPath } from "node:url";
import { run } from "./run.js";

export async function setup(): Promise<void> {
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const { status, stdout, stderr } = await run("npm", ["run", "--silent", "build"], { cwd, timeout: 120_000 });
  if (status !== 0) console.warn(`npm run build:\n${stdout}${stderr}`);
}
