/** The line behind a link step in a Makefile, with a Makefile and the command on the PATH. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, it } from "vitest";
import { bin } from "./command.js";
import { instructionsAt } from "./judges/code.js";
import { sha256 } from "./judges/digest.js";
import { readNotes } from "./judges/notes.js";
import { type Outcome, run } from "./run.js";

const source = (name: string): string => fileURLToPath(new URL(`./fixtures/${name}`, import.meta.url));
const line = "\tusdt-nop5 rewrite --in-place $@\n";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "usdt-makefile-"));
  mkdirSync(join(folder, "bin"));
  symlinkSync(bin, join(folder, "bin", "usdt-nop5"));
  copyFileSync(source("programs/loop.c"), join(folder, "loop.c"));
  copyFileSync(source("makefile/Makefile"), join(folder, "Makefile"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const make = (...args: readonly string[]): Promise<Outcome> =>
  run("make", args, { cwd: folder, environment: { PATH: `${join(folder, "bin")}:${process.env.PATH}` } });

it("links, rewrites, and has nothing left to do", async () => {
  const makefile = readFileSync(join(folder, "Makefile"), "utf8");
  expect(makefile).toContain(line);
  writeFileSync(join(folder, "Plain.mk"), makefile.replace(line, ""));
  const program = join(folder, "program");

  const plain = await make("-f", "Plain.mk");
  expect(plain.status, plain.stderr).toBe(0);
  const before = await run(program, []);
  const unchanged = sha256(program);
  const nops = await instructions(program);
  rmSync(program);

  const made = await make();
  expect(made.status, made.stderr).toBe(0);
  expect(sha256(program)).not.toBe(unchanged);
  const after = await run(program, []);
  expect([after.stdout, after.status]).toEqual([before.stdout, before.status]);
  expect(nops.every((text) => text === "nop")).toBe(true);
  // A second place for each probe.
  expect((await instructions(program)).length).toBe(2 * nops.length);
  expect((await make()).stdout).toContain("up to date");
});

it("does not leave a program behind that could not be rewritten", async () => {
  // Removed first: it is a link to the command itself. (make does not delete the target of a command that is not there.)
  const command = join(folder, "bin", "usdt-nop5");
  rmSync(command);
  writeFileSync(command, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  const made = await make();
  expect(made.status).not.toBe(0);
  expect(existsSync(join(folder, "program"))).toBe(false);
});

async function instructions(program: string): Promise<readonly string[]> {
  const code = await instructionsAt(
    program,
    (await readNotes(program)).map((note) => note.location),
  );
  return [...code.values()].map((instruction) => instruction?.text ?? "nothing");
}
