/** Names that are not UTF-8: files are found, written, replaced and taken back under them, and shown escaped. */
import { spawnSync } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { pathBytes } from "../../src/files/path-bytes.js";
import { bin } from "../command.js";
import { folder, sample } from "../sample/sample.js";

/** Runs a line of the shell, where $P is the program: Node itself cannot pass such names on. */
function shell(cwd: string, line: string): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, P: `${process.execPath} ${bin}`, LC_ALL: "C" };
  return spawnSync("bash", ["-c", line], { cwd, env, encoding: "latin1" });
}
const names = (place: string): readonly string[] =>
  readdirSync(place, { encoding: "buffer" })
    .map((name) => name.toString("latin1"))
    .sort();
const NAME = Buffer.from([0x70, 0xff, 0xfe, 0xc3, 0xa4, 0xc3]);
const shown = NAME.toString("latin1");
const quoted = "$'p\\xff\\xfe\\xc3\\xa4\\xc3'";

describe("a name that is not UTF-8", () => {
  it("is opened, written and replaced", async () => {
    const place = folder();
    copyFileSync(await sample(), Buffer.concat([Buffer.from(`${place}/`), NAME]));
    const original = readFileSync(await sample());
    const listed = shell(place, `$P list --json ${quoted}`);
    expect([listed.status, listed.stderr]).toEqual([0, ""]);
    expect(
      (JSON.parse(Buffer.from(listed.stdout, "latin1").toString()) as { files: { path: string }[] }).files[0]!.path,
    ).toBe("p\udcff\udcfeä\udcc3");
    expect(shell(place, `$P rewrite ${quoted}`).status).toBe(0);
    expect(names(place)).toEqual([shown, `${shown}.nop5`]);
    expect(shell(place, `$P verify ${quoted}.nop5`).status).toBe(0);
    expect(shell(place, `$P revert ${quoted}.nop5 -o ${quoted}.back`).status).toBe(0);
    expect(names(place)).toEqual([shown, `${shown}.back`, `${shown}.nop5`]);
    expect(readFileSync(Buffer.from(`${place}/${shown}.back`, "latin1")).equals(original)).toBe(true);
    expect(shell(place, `$P rewrite --in-place ${quoted}`).status).toBe(0);
    const now = readFileSync(Buffer.from(`${place}/${shown}`, "latin1"));
    expect(now.equals(readFileSync(Buffer.from(`${place}/${shown}.nop5`, "latin1")))).toBe(true);
  });

  it("is not taken for another that has the replacement character", async () => {
    const place = folder();
    writeFileSync(join(place, "p\ufffd"), "another");
    copyFileSync(await sample(), Buffer.concat([Buffer.from(`${place}/`), Buffer.from([0x70, 0xff])]));
    expect(shell(place, "$P list $'p\\xff'").status).toBe(0);
    expect(shell(place, "$P list $'p\\xef\\xbf\\xbd'").stderr).toMatch(/not an ELF file/);
  });

  it("is shown escaped in an error", () => {
    const { status, stderr } = shell(folder(), "$P list $'nothing\\xff'");
    expect(status).toBe(1);
    expect(stderr).toBe("usdt-nop5: nothing\\udcff: cannot be read: no such file or directory\n");
  });

  it("keeps every byte", () => {
    expect(pathBytes("p\udcff\udcfeä\udcc3😀").equals(Buffer.concat([NAME, Buffer.from("😀")]))).toBe(true);
  });
});
