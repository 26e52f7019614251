/**
 * Child handlers in Debian's programs and libraries: each forked child of python, php and postgres shows that it ran; libjvm
 * and libstdc++ in programs that fork. None of the files grows by a table: how much they grow is printed.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findingsOf, newFindings } from "../judges/findings.js";
import { type CorpusFile, corpus, corpusPath, FETCH_TIMEOUT, fetchPackages, libraryPath } from "../packages/corpus.js";
import { javaImage } from "../packages/java.js";
import { install, Server } from "../packages/postgres.js";
import { mustRun, run, type Scratch, scratchDirectory } from "../packages/scratch.js";
import { canCompile } from "../rewrite/compile.js";
import { handle } from "./handled.js";

const count = (text: string, character: string): number => text.split(character).length - 1;

describe("child handlers in packages", () => {
  let scratch: Scratch;
  beforeAll(() => {
    fetchPackages();
    scratch = scratchDirectory("handlers");
  }, FETCH_TIMEOUT);
  afterAll(() => scratch.remove());

  async function handled(file: CorpusFile, name = path.basename(file.path)): Promise<string> {
    const [input, output] = [corpusPath(file), scratch.file(name)];
    const { ways, growth, plan } = handle(input, output);
    console.log(`${name}: ${ways}; ${growth} bytes more`);
    // Most of it is what revert needs: section numbers of symbols change, a byte or two each (libjvm.so has 58,000 of them, in runs).
    expect(growth).toBeLessThan(16_384);
    expect(plan.register.source).not.toBe("appended");
    expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
    return output;
  }

  it("python: os.fork and multiprocessing", async () => {
    const python = await handled(corpus.python);
    const script = `
import multiprocessing, os, threading
def children(n):
    for _ in range(n):
        pid = os.fork()
        if pid == 0: os._exit(5)
        assert os.waitpid(pid, 0)[1] == 5 << 8
children(50)
thread = threading.Thread(target=children, args=(10,)); thread.start(); thread.join()
with multiprocessing.get_context("fork").Pool(4) as pool: print(sum(pool.map(abs, range(100))))
`;
    const r = await run(python, ["-c", script], { env: libraryPath() });
    expect([r.status, r.stdout, r.stderr]).toEqual([0, "4950\n", "G".repeat(64)]);
  });

  it("php: pcntl_fork", async () => {
    const php = await handled(corpus.php);
    const script = `for ($i = 0; $i < 20; $i++) { $p = pcntl_fork(); if ($p == 0) exit(3); pcntl_waitpid($p, $s);
      if (pcntl_wexitstatus($s) != 3) echo "status $s\n"; } echo "done\n";`;
    const r = await run(php, ["-n", "-r", script], { env: libraryPath() });
    expect([r.status, r.stdout, r.stderr]).toEqual([0, "done\n", "G".repeat(20)]);
  });

  it("postgres: its background processes and a backend for each connection", async () => {
    const server = await Server.start(install(scratch, "tree", await handled(corpus.postgres)));
    try {
      const log = (): number =>
        count(
          server.log.replace(/[A-Z]{2,}/g, (word) => word.replace(/^(G*)(LOG|DETAIL|HINT)$/, "$1")),
          "G",
        );
      const before = log();
      expect(before).toBeGreaterThan(4);
      expect((await server.pgbench("-i", "-s", "1", "-q")).status).toBe(0);
      const bench = await server.pgbench("-n", "-S", "-C", "-c", "2", "-t", "50");
      expect(bench.stdout).toContain("number of transactions actually processed: 100/100");
      expect(log() - before).toBeGreaterThanOrEqual(100);
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });

  it.skipIf(!canCompile)("libstdc++ in a program that forks, and throws in its children", async () => {
    await handled(corpus.libstdcxx, "libstdc++.so.6");
    const [source, program] = [scratch.file("throws.cc"), scratch.file("throws")];
    writeFileSync(
      source,
      `#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
int main() {
  for (int i = 0; i < 10; i++) {
    if (fork() == 0) try { throw std::runtime_error(std::string("thrown")); } catch (std::exception &e) { _exit(std::string(e.what()).size()); }
    int status = 0;
    wait(&status);
    if (status != 6 << 8) return 1;
  }
}
`,
    );
    await mustRun("g++", ["-O2", source, "-o", program]);
    const env = libraryPath(scratch.dir);
    expect(await mustRun("ldd", [program], { env })).toContain(scratch.file("libstdc++.so.6"));
    const r = await run(program, [], { env });
    expect([r.status, r.stderr]).toEqual([0, "G".repeat(10)]);
  });

  it.skipIf(!canCompile)("libjvm in java, and in a program that loads it and forks", async () => {
    const file = await handled(corpus.libjvm);
    mkdirSync(scratch.file("java"));
    const image = javaImage(scratch.file("java/home"), file);
    const java = await run(image.java, ["-Xshare:auto", "-version"], { env: libraryPath() });
    expect([java.status, java.stderr]).toEqual([0, expect.stringContaining("OpenJDK 64-Bit Server VM")]);
    const [source, program] = [scratch.file("loads.c"), scratch.file("loads")];
    writeFileSync(
      source,
      `#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  for (int i = 0; i < 10; i++) {
    if (fork() == 0) _exit(dlsym(library, "JNI_CreateJavaVM") ? 5 : 4);
    int status = 0;
    wait(&status);
    if (status != 5 << 8) return 1;
  }
  return 0;
}
`,
    );
    await mustRun("gcc", [source, "-o", program]);
    const r = await run(program, [image.libjvm], { env: libraryPath() });
    expect([r.status, r.stderr]).toEqual([0, "G".repeat(10)]);
  });
});
