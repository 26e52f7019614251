import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

/**
 * Tests that take times, or hold counts against each other that depend on how quickly a server got its turn: what others do at the
 * same time would be measured as well. They run one by one, after all others.
 */
const alone = [
  "test/forks/{cost,postgres}.test.ts",
  "test/guard/cost.test.ts",
  "test/live/bench.test.ts",
  "test/packages/{loads,postgres}.test.ts",
];

/**
 * Tests that attach to the kernel. Each has files, events and trace instances of its own, so that nothing of another's is counted:
 * they run side by side, after those that only compute. They wait for the kernel and for programs half of the time, so there may be one
 * more of them than there are processors.
 */
const traced = [
  "test/forks/**/*.test.ts",
  "test/guard/**/*.test.ts",
  "test/live/**/*.test.ts",
  "test/packages/{interpreters,java,jni,libstdcxx}.test.ts",
  "test/patching/conformance/*.test.ts",
  "test/unwind/tracers.test.ts",
  "test/imports/forks-traced.test.ts",
  "test/traced.test.ts",
];

export default defineConfig({
  test: {
    // Some tests run the program as its users do, which needs it built.
    globalSetup: ["test/build-first.ts", "test/nothing-left.ts"],
    // Where the machine has other work as well: one that hangs is ended all the same.
    testTimeout: 300_000,
    hookTimeout: 600_000,
    // A failure is to be found in the output of a run with thousands of tests: what passes says nothing, figures aside that
    // somebody asked for.
    silent: process.env.LONG === "1" ? false : "passed-only",
    slowTestThreshold: 20_000,
    setupFiles: ["test/each-file.ts"],
    projects: [
      {
        extends: true,
        test: {
          name: "side by side",
          include: ["test/**/*.test.ts"],
          exclude: [...alone, ...traced],
          globalSetup: [],
          maxWorkers: availableParallelism(),
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "traced",
          include: traced,
          exclude: alone,
          globalSetup: [],
          maxWorkers: availableParallelism() + 1,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: { name: "one by one", include: alone, globalSetup: [], maxWorkers: 1, sequence: { groupOrder: 2 } },
      },
    ],
  },
});
