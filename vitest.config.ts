import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { DealtOut } from "./test/sequence.js";

/**
 * Tests that take times, and tests that race a tracer which comes and goes against a program: what others do at the same time would be
 * measured as well, or leave the tracer too few turns. They run one by one, after all others.
 */
const alone = [
  "test/forks/{cost,tracers}.test.ts",
  "test/guard/{cost,traced}.test.ts",
  "test/live/bench.test.ts",
  "test/patching/conformance/race.test.ts",
];

/**
 * Tests that attach to the kernel. Each has files, events and trace instances of its own, so that nothing of another's is counted: they
 * run beside those that only compute.
 */
const traced = [
  "test/forks/**/*.test.ts",
  "test/guard/**/*.test.ts",
  "test/live/**/*.test.ts",
  "test/packages/{interpreters,java,jni,libstdcxx,loads,postgres}.test.ts",
  "test/patching/conformance/*.test.ts",
  "test/unwind/tracers.test.ts",
  "test/imports/forks-traced.test.ts",
  "test/traced.test.ts",
];

/** One more than there are processors: tests wait for compilers, for judges, for the kernel and for what they trace. */
const workers = availableParallelism() + 1;

export default defineConfig({
  test: {
    // Some tests run the program as its users do, which needs it built.
    globalSetup: ["test/build-first.ts", "test/nothing-left.ts", "test/kernels/table.ts"],
    // Where the machine has other work as well: one that hangs is ended all the same.
    testTimeout: 300_000,
    hookTimeout: 600_000,
    // A failure is to be found in the output of a run with thousands of tests: what passes says nothing, figures aside that
    // somebody asked for.
    silent: process.env.LONG === "1" ? false : "passed-only",
    slowTestThreshold: 20_000,
    setupFiles: ["test/each-file.ts"],
    sequence: { sequencer: DealtOut },
    projects: [
      {
        extends: true,
        test: {
          name: "side by side",
          include: ["test/**/*.test.ts"],
          exclude: [...alone, ...traced],
          globalSetup: [],
          maxWorkers: workers,
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
          maxWorkers: workers,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: { name: "one by one", include: alone, globalSetup: [], maxWorkers: 1, sequence: { groupOrder: 1 } },
      },
    ],
  },
});
