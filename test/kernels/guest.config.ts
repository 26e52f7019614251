/** Tests that run on a test kernel: what they need of the build was made outside, and they are, in the folder GUEST_TESTS. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  root: process.env.GUEST_TESTS ?? fileURLToPath(new URL("../..", import.meta.url)),
  test: {
    // Emulated, and beside other work, compilers take minutes.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    maxWorkers: 1,
    fileParallelism: false,
    include: ["*.test.mjs"],
    // An emulated CPU takes a second and more to start a process.
    pool: "threads",
    // One line on stdout, whatever the tests say.
    reporters: ["json"],
    silent: true,
  },
});
