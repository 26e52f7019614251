/**
 * Python and PHP, rewritten, run scripts through every site that a script can pass: plain, with the semaphores set in a
 * copy of the file (no tracer, no kernel in between), and with real uprobes whose hits are compared site by site.
 */
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CorpusFile, corpus, FETCH_TIMEOUT, fetchPackages, libraryPath, packagesRoot } from "./corpus.js";
import { type RunResult, run } from "./scratch.js";
import { coverage } from "./sites.js";
import { skipBecause } from "./skips.js";
import { counted, makeTwins, printHits, raiseTwins, type Twins, visible } from "./twins.js";
import { uprobesMissing } from "./uprobes.js";

interface Interpreter {
  readonly title: string;
  readonly file: CorpusFile;
  readonly script: string;
  readonly args: readonly string[];
  readonly env: () => Record<string, string>;
  /** The script ends with an uncaught exception on purpose where that is a site. */
  readonly status: number;
  /** A line that the script prints at its end: without it a run that stopped early would compare equal. */
  readonly lastWords: string;
  /** Sites that no script gets to. */
  readonly unreachable: readonly string[];
}

const interpreters: readonly Interpreter[] = [
  {
    title: "python3.11",
    file: corpus.python,
    script: "sites.py",
    args: ["-S", "-s", "-B"],
    env: () => ({ PYTHONHOME: path.join(packagesRoot(), "usr"), PYTHONHASHSEED: "0" }),
    status: 0,
    lastWords: "at the bottom",
    unreachable: [],
  },
  {
    title: "php8.2",
    file: corpus.php,
    script: "sites.php",
    args: ["-n", "-d", "display_errors=1"],
    // Without it PHP goes through its ordinary functions, which have no sites.
    env: () => ({ USE_ZEND_DTRACE: "1" }),
    status: 255,
    lastWords: "shut down",
    // PHP 8.2 prints errors without calling the function that holds this site (a breakpoint on it is never reached).
    unreachable: ["php:error"],
  },
];

const uncounted = skipBecause("hits of Python and PHP", uprobesMissing());

describe.each(interpreters)(
  "$title, rewritten",
  ({ title, file, script, args, env, status, lastWords, unreachable }) => {
    let twins: Twins;
    beforeAll(async () => {
      fetchPackages();
      twins = await makeTwins(file);
    }, FETCH_TIMEOUT + 60_000);
    afterAll(() => twins?.scratch.remove());

    const scriptPath = fileURLToPath(new URL(`programs/${script}`, import.meta.url));
    const runScript = (binary: string): Promise<RunResult> =>
      run(binary, [...args, scriptPath], { env: { ...libraryPath(), ...env() } });
    const expectRan = (r: RunResult): void => {
      expect(r.status, r.stderr).toBe(status);
      expect(r.stdout).toContain(lastWords);
    };

    it("prints what the unrewritten one prints", async () => {
      const before = await runScript(twins.original);
      expectRan(before);
      expect(visible(await runScript(twins.rewritten))).toEqual(visible(before));
    });

    it("does so with all semaphores raised in a copy", async () => {
      const raised = raiseTwins(twins);
      expect(raised.semaphores).toBeGreaterThan(0);
      const before = await runScript(raised.original);
      expectRan(before);
      expect(visible(await runScript(raised.rewritten))).toEqual(visible(before));
    });

    it.skipIf(uncounted)("passes the same sites as often, counted by uprobes", async () => {
      const before = await counted(twins.original, () => runScript(twins.original));
      const after = await counted(twins.rewritten, () => runScript(twins.rewritten));
      expectRan(before.result);
      expect(visible(after.result)).toEqual(visible(before.result));
      printHits(title, before.hits, after.hits);
      // The script is written to reach its sites: if it no longer does, the comparison above is worth nothing.
      expect(coverage(before.hits).never).toEqual(unreachable);
      expect(after.hits).toEqual(before.hits);
    });
  },
);
