/** What packaging does to a finished binary: each step makes another file of it. */
import { copyFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { must } from "./run.js";

export interface PackagingStep {
  readonly name: string;
  /** Static programs have no dynamic section. */
  readonly dynamicOnly: boolean;
  run(input: string, output: string): Promise<unknown>;
}

export const packagingSteps: readonly PackagingStep[] = [
  { name: "strip", dynamicOnly: false, run: (input, output) => must("strip", ["-o", output, input]) },
  { name: "strip -g", dynamicOnly: false, run: (input, output) => must("strip", ["-g", "-o", output, input]) },
  {
    name: "debuglink",
    dynamicOnly: false,
    run: async (input, output) => {
      const debug = join(dirname(output), "split.debug");
      await must("objcopy", ["--only-keep-debug", input, debug]);
      await must("objcopy", ["--strip-unneeded", `--add-gnu-debuglink=${debug}`, input, output]);
    },
  },
  { name: "eu-strip", dynamicOnly: false, run: (input, output) => must("eu-strip", ["-o", output, input]) },
  {
    name: "patchelf",
    dynamicOnly: true,
    run: async (input, output) => {
      copyFileSync(input, output);
      await must("patchelf", [
        "--set-rpath",
        "/nonexistent/a/path/of/some/length/so/that/the/string/table/grows",
        output,
      ]);
    },
  },
];
