/** Test files that run on a test kernel: what they need of the build was made outside. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  root: fileURLToPath(new URL("../..", import.meta.url)),
  test: {
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 1,
    fileParallelism: false,
    setupFiles: ["test/each-file.ts"],
    include: ["test/patching/conformance/conformance.test.ts"],
    // One line on stdout, whatever the tests say.
    reporters: ["json"],
    silent: true,
  },
});
