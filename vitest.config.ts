import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Some tests run the program as its users do, which needs it built.
    globalSetup: ["test/build-first.ts", "test/nothing-left.ts"],
    testTimeout: 120_000,
    hookTimeout: 300_000,
  },
});
