/**
 * The lines that the README gives for a CI job, run as such a job runs them (`bash -e`): they pass for what can be
 * rewritten, and fail for everything for which they should, with the exit status that the README names.
 *
 * `rewrite` of a program does not produce what verify complains about. So `usdt-nop5` on the PATH is a script that runs the
 * command and then, for some tests, puts another file in the place of what rewrite wrote.
 */
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { bin } from "../command.js";
import { type Outcome, run } from "../run.js";
import { folder, sample } from "../sample/sample.js";
import { changed, rewritten } from "./held.js";
import { unprovable } from "./unprovable.js";

const readme = readFileSync(fileURLToPath(new URL("../../README.md", import.meta.url)), "utf8");

/** What stands behind `run: |` in the README's only YAML. */
function jobLines(): string {
  const blocks = [...readme.matchAll(/^```yaml\n(.*?)^```$/gms)];
  expect(blocks.length).toBe(1);
  const text = blocks[0]![1]!;
  expect(text).toContain("shell: bash");
  const lines = text.slice(text.indexOf("run: |\n") + "run: |\n".length).split("\n");
  return lines.map((line) => line.replace(/^ {4}/, "")).join("\n");
}

/** Runs the job on a program; `instead` takes the place of what rewrite wrote. */
async function job(program: string, instead?: Buffer): Promise<Outcome> {
  const place = folder();
  copyFileSync(program, join(place, "prog"));
  mkdirSync(join(place, "bin"));
  const command = join(place, "bin", "usdt-nop5");
  const swap =
    instead === undefined ? "" : `if [ "$1" = rewrite ]; then cp '${join(place, "instead")}' prog.nop5; fi\n`;
  if (instead !== undefined) writeFileSync(join(place, "instead"), instead);
  writeFileSync(command, `#!/bin/sh\nset -e\n'${process.execPath}' '${bin}' "$@"\n${swap}`);
  chmodSync(command, 0o755);
  const script = join(place, "script");
  writeFileSync(script, jobLines());
  return run("bash", ["--noprofile", "--norc", "-eo", "pipefail", script], {
    cwd: place,
    environment: { PATH: `${dirname(command)}:${process.env.PATH}` },
  });
}

describe("the README's lines for a CI job", () => {
  it("are what rewrite and verify --strict need", () => {
    expect(jobLines()).toMatch(/^usdt-nop5 rewrite /m);
    expect(jobLines()).toMatch(/^usdt-nop5 verify --strict /m);
  });

  it("pass for a program with probes: 0", async () => {
    const { status, stdout, stderr } = await job(await sample());
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/9 equivalent; the rest of the file is as it was\n$/);
  });

  it("fail for what is no program, and for one in which there was nothing to rewrite: 1", async () => {
    const script = join(folder(), "script");
    writeFileSync(script, "#!/bin/sh\n");
    const none = await job(script);
    expect([none.status, none.stderr]).toEqual([1, "usdt-nop5: prog: not an ELF file (offset 0x0)\n"]);
    const nothing = await job("/bin/true");
    expect(nothing.status).toBe(1);
    expect(nothing.stderr).toMatch(/^usdt-nop5: prog\.nop5: not a rewritten file[^\n]*\n$/);
  });

  it("fail for a file that is not the same program: 3", async () => {
    const program = await sample();
    const broken = changed(rewritten(program).bytes, (bytes, image) => {
      bytes[sectionNamed(image, ".rodata")!.sh_offset + 4]! ^= 1;
    });
    const { status, stdout } = await job(program, broken);
    expect(status).toBe(3);
    expect(stdout).toMatch(/1 other difference/);
  });

  it("fail with --strict, and without it do not, where something could not be proved: 3", async () => {
    const { program, bytes } = await unprovable();
    expect(parseElf(bytes).sections.length).toBeGreaterThan(0);
    const { status, stdout } = await job(program, bytes);
    expect([status, stdout]).toEqual([3, expect.stringMatching(/1 unproved/)]);
    const file = join(folder(), "unprovable");
    writeFileSync(file, bytes);
    const lenient = await run(process.execPath, [bin, "verify", file]);
    expect(lenient.status, lenient.stdout).toBe(0);
  });
});
