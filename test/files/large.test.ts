/**
 * Large files: a sparse one of 4 GB takes no more memory than a small one, and its holes are kept; holes elsewhere than at the end
 * come back as well; what is not sparse becomes the same.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { bin, startNop5 } from "../command.js";
import { folder, sample } from "../sample/sample.js";

const MB = 1_000_000;
/** Whether the temporary folder's file system keeps holes. */
const hasHoles = ((): boolean => {
  const probe = `/tmp/usdt-nop5-holes-${process.pid}`;
  closeSync(openSync(probe, "w"));
  truncateSync(probe, 10 * MB);
  const { blocks } = statSync(probe);
  execFileSync("rm", ["-f", probe]);
  return blocks < 100;
})();

interface Cost {
  readonly status: number;
  readonly said: string;
  /** Peak memory in bytes, and user and system time in seconds. */
  readonly memory: number;
  readonly seconds: number;
}

/** Runs a command and says what it took, by what the kernel counted of it. */
function cost(command: string, ...args: readonly string[]): Cost {
  const program = [
    "import json, resource, subprocess, sys",
    "p = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)",
    "r = resource.getrusage(resource.RUSAGE_CHILDREN)",
    "print(json.dumps([p.returncode, r.ru_maxrss, r.ru_utime + r.ru_stime, p.stderr.decode()]))",
  ].join("\n");
  const { stdout, error } = spawnSync("python3", ["-c", program, command, ...args], { encoding: "utf8" });
  if (error !== undefined) throw error;
  const [status, memory, seconds, said] = JSON.parse(stdout) as [number, number, number, string];
  return { status, memory: memory * 1024, seconds, said };
}

const onDisk = (path: string): number => statSync(path).blocks * 512;
const same = (a: string, b: string): boolean => spawnSync("cmp", ["-s", a, b]).status === 0;

describe.skipIf(!hasHoles)("a sparse file of 4 GB", () => {
  it("takes at most 300 MB, little more time than to read it, and its holes stay", async () => {
    const path = join(folder(), "large");
    copyFileSync(await sample(), path);
    truncateSync(path, 4000 * MB);
    const small = onDisk(path);
    cost("cat", path);
    const read = cost("cat", path);
    const [out, back] = [`${path}.out`, `${path}.back`];
    for (const args of [
      ["list", path],
      ["rewrite", path, "-o", out],
      ["verify", out],
      ["revert", out, "-o", back],
    ]) {
      const { status, said, memory, seconds } = cost(process.execPath, bin, ...args);
      expect(status, said).toBe(0);
      console.log(
        `${args[0]}: ${Math.round(memory / MB)} MB, ${seconds.toFixed(2)} s; cat ${read.seconds.toFixed(2)} s (user and system)`,
      );
      expect(memory).toBeLessThan(300 * MB);
      // Node takes some time to start, whatever the file; verify disassembles as well.
      if (args[0] !== "verify") expect(seconds).toBeLessThan(2 * read.seconds + 0.6);
    }
    expect(onDisk(out)).toBeLessThan(small + 100_000);
    expect(onDisk(back)).toBeLessThanOrEqual(small + 4096);
    expect(same(path, back)).toBe(true);
    // Zeros at the end count: whoever adds or takes some has changed the file.
    truncateSync(out, statSync(out).size + 1);
    expect((await startNop5("revert", out)).stderr).toMatch(/changed since it was rewritten/);
    expect((await startNop5("verify", out)).status).not.toBe(0);
  });
});

describe.skipIf(!hasHoles)("holes", () => {
  it("before what is appended come back", async () => {
    const path = join(folder(), "large");
    copyFileSync(await sample(), path);
    truncateSync(path, 600 * MB);
    appendFileSync(path, "the end");
    const [out, back] = [`${path}.out`, `${path}.back`];
    expect((await startNop5("rewrite", path, "-o", out)).status).toBe(0);
    expect((await startNop5("verify", out)).status).toBe(0);
    expect((await startNop5("revert", out, "-o", back)).status).toBe(0);
    expect(same(path, back)).toBe(true);
    expect(onDisk(out)).toBeLessThan(onDisk(path) + 150_000);
    // A byte in the hole is a change.
    const fd = openSync(out, "r+");
    writeSync(fd, Buffer.from([1]), 0, 1, 300 * MB);
    closeSync(fd);
    expect((await startNop5("revert", out)).stderr).toMatch(/changed since it was rewritten/);
    expect((await startNop5("verify", out)).status).not.toBe(0);
  });

  it("make no difference: the same bytes, stored whole, give the same output", async () => {
    const place = folder();
    const [sparse, full, debug] = ["sparse", "full", "debug"].map((name) => join(place, name)) as [
      string,
      string,
      string,
    ];
    closeSync(openSync(debug, "w"));
    truncateSync(debug, 30 * MB);
    appendFileSync(debug, "some debug information");
    execFileSync("objcopy", ["--add-section", `.debug_large=${debug}`, await sample(), full]);
    execFileSync("cp", ["--sparse=always", full, sparse]);
    for (const file of [sparse, full]) expect((await startNop5("rewrite", file)).status).toBe(0);
    expect(onDisk(sparse)).toBeLessThan(onDisk(full));
    expect(readFileSync(`${sparse}.nop5`).equals(readFileSync(`${full}.nop5`))).toBe(true);
    expect((await startNop5("revert", `${full}.nop5`, "-o", join(place, "back"))).status).toBe(0);
    expect(same(join(place, "back"), full)).toBe(true);
  });
});

describe.skipIf(!hasHoles)("what is too large", () => {
  it("is refused in one line", async () => {
    const path = join(folder(), "large");
    copyFileSync(await sample(), path);
    truncateSync(path, 2 ** 36 + 1);
    const { status, stderr } = await startNop5("rewrite", path);
    expect([status, stderr.trimEnd()]).toEqual([1, `usdt-nop5: ${path}: files of more than 64 GiB are not supported`]);
  });
});
