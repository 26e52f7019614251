/**
 * A file that changes, grows or shrinks while it is read: whoever reads it says so in one line and writes nothing, or had read it
 * before. Somebody else writes to it all the time; each command has to notice at least once.
 */
import { fork } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { startNop5 } from "../command.js";
import { folder, sample } from "../sample/sample.js";

const RUNS = process.env.SMOKE === "1" ? 3 : 12;

/** What somebody else does to the file, again and again: a program. */
const meddlers: Readonly<Record<string, string>> = {
  shrinks: `fs.truncateSync(path, 20_000_000); fs.truncateSync(path, 60_000_000);`,
  grows: `fs.appendFileSync(path, "x".repeat(10_000));`,
  "changes in place": `const fd = fs.openSync(path, "r+"); fs.writeSync(fd, Buffer.from([n & 255]), 0, 1, 30_000_000); fs.closeSync(fd);`,
  "changes and gets its times back": `const { atime, mtime } = fs.statSync(path); const fd = fs.openSync(path, "r+");
    fs.writeSync(fd, Buffer.from([n & 255]), 0, 1, 30_000_000); fs.closeSync(fd); fs.utimesSync(path, atime, mtime);`,
};

describe("a file that", () => {
  it.each(Object.entries(meddlers))("%s while it is read", async (_how, act) => {
    const path = join(folder(), "probes");
    copyFileSync(await sample(), path);
    truncateSync(path, 60_000_000);
    // What nobody is led to, and is read all the same.
    writeFileSync(
      join(dirname(path), "meddle.mjs"),
      `import fs from "node:fs"; const path = process.argv[2];
      let n = 0; for (;;) { n++; ${act} await new Promise((r) => setTimeout(r, 1)); }`,
    );
    const meddler = fork(join(dirname(path), "meddle.mjs"), [path], { execArgv: [] });
    onTestFinished(() => void meddler.kill("SIGKILL"));
    let noticed = 0;
    for (let i = 0; i < RUNS; i++) {
      const out = `${path}.out`;
      const { status, stderr } = await startNop5("rewrite", path, "-o", out);
      if (status === 0) {
        // It was read between two changes, and is what a file of that content becomes.
        expect((await startNop5("verify", out)).status).toBe(0);
        continue;
      }
      expect(status).toBe(1);
      expect(stderr.trimEnd().split("\n")).toHaveLength(1);
      expect(stderr).toMatch(/changed while it was (?:read|worked on)|became shorter while it was read/);
      noticed++;
    }
    meddler.kill("SIGKILL");
    console.log(`of ${RUNS} runs ${noticed} noticed that the file changed`);
    expect(noticed).toBeGreaterThan(0);
    expect(readdirSync(dirname(path)).filter((name) => name.startsWith(".usdt"))).toEqual([]);
    expect(readFileSync(path).length).toBeGreaterThan(0);
  });
});
