/** The file writer: holes, whole replacement, and nothing left behind when it fails. */

import { execFileSync, spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it, onTestFinished } from "vitest";
import { InputError } from "../../src/errors.js";
import { explained } from "../../src/files/file-error.js";
import { type OpenInput, readParts, withInput } from "../../src/files/input.js";
import { type Destination, type OutputPlace, withPlace, writeOutput } from "../../src/files/output.js";
import { type SparseContent, wholeFile } from "../../src/sparse-content.js";

import { folder } from "../sample/sample.js";

const root = process.getuid?.() === 0;
const options = { breakHardLinks: false, giveUp: [] };

function file(content: string | Buffer = "old"): string {
  const path = join(folder(), "file");
  writeFileSync(path, content);
  return path;
}

/** Opens the input and chooses the place, and lets `use` write. */
const placed = (
  path: string,
  destination: Destination,
  use: (input: OpenInput, place: OutputPlace) => Promise<void>,
  told = options,
): Promise<void> => withInput(path, true, (input) => withPlace(input, destination, told, (place) => use(input, place)));

const write = (path: string, content: SparseContent, destination: Destination): Promise<void> =>
  placed(path, destination, (input, place) => writeOutput(input, content, place, options));

const whole = (bytes: Buffer): SparseContent => wholeFile({ bytes, holes: [], zeroTail: 0 });
const text = (content: string): SparseContent => whole(Buffer.from(content));

describe("holes", () => {
  it("between pieces and up to the size stay holes", async () => {
    const path = file();
    const piece = Buffer.alloc(4096, 1);
    const size = 64 * 2 ** 20;
    const content = {
      size,
      pieces: [
        { offset: 0, bytes: piece },
        { offset: 32 * 2 ** 20, bytes: piece },
      ],
    };
    await write(path, content, { inPlace: true });
    const stat = statSync(path);
    expect(stat.size).toBe(size);
    expect(stat.blocks * 512).toBeLessThan(2 ** 20);
    const bytes = readFileSync(path);
    expect(bytes.subarray(0, 4096)).toEqual(piece);
    expect(bytes.subarray(32 * 2 ** 20, 32 * 2 ** 20 + 4096)).toEqual(piece);
    expect(bytes.reduce((sum, byte) => sum + byte, 0)).toBe(8192);
  });

  it("in a whole file that had them come back, and its bytes are the same", async () => {
    const bytes = Buffer.alloc(5 * 2 ** 20 + 123);
    for (const at of [0, 65535, 65536, 700_000, 2 ** 20 - 1, 3 * 2 ** 20, bytes.length - 1]) bytes[at] = at % 251 || 7;
    const path = file(bytes);
    await write(path, whole(bytes), { inPlace: true });
    expect(readFileSync(path).equals(bytes)).toBe(true);
    expect(statSync(path).blocks * 512).toBeLessThan(2 ** 20);
  });

  it("are found in a piece that begins anywhere", async () => {
    const bytes = Buffer.alloc(400_000);
    bytes[0] = 1;
    bytes[bytes.length - 1] = 2;
    const path = file();
    await write(path, { size: 500_001, pieces: [{ offset: 12_345, bytes }] }, { inPlace: true });
    const after = readFileSync(path);
    expect(after.length).toBe(500_001);
    expect(after.subarray(12_345, 412_345).equals(bytes)).toBe(true);
    expect(after.reduce((sum, byte) => sum + byte, 0)).toBe(3);
  });
});

describe("input that changes", () => {
  it("is not overwritten in place", async () => {
    const path = file();
    await placed(path, { inPlace: true }, async (input, place) => {
      appendFileSync(path, " and more");
      await expect(writeOutput(input, text("new"), place, options)).rejects.toThrow("changed while it was worked on");
    });
    expect(readFileSync(path, "utf8")).toBe("old and more");
    expect(readdirSync(join(path, ".."))).toEqual(["file"]);
  });

  it("is not copied either", async () => {
    const path = file();
    await placed(path, { inPlace: false, path: `${path}.out` }, async (input, place) => {
      appendFileSync(path, " and more");
      await expect(writeOutput(input, text("new"), place, options)).rejects.toThrow("changed while it was worked on");
    });
    expect(readdirSync(join(path, ".."))).toEqual(["file"]);
  });

  it("and vanishes, or makes room for another, is said to", async () => {
    const path = file();
    await placed(path, { inPlace: true }, async (input, place) => {
      renameSync(path, `${path}.away`);
      await expect(writeOutput(input, text("new"), place, options)).rejects.toThrow("vanished while it was worked on");
      writeFileSync(path, "old");
      await expect(writeOutput(input, text("new"), place, options)).rejects.toThrow("changed while it was worked on");
    });
    expect([readFileSync(path, "utf8"), readFileSync(`${path}.away`, "utf8")]).toEqual(["old", "old"]);
  });

  it("goes on as what was opened where a new file is written", async () => {
    const path = file();
    await placed(path, { inPlace: false, path: `${path}.out` }, async (input, place) => {
      unlinkSync(path);
      await writeOutput(input, text("new"), place, options);
    });
    expect(readdirSync(join(path, ".."))).toEqual(["file.out"]);
  });

  it("is replaced where it stands when its folder was renamed meanwhile", async () => {
    const above = folder();
    mkdirSync(join(above, "place"));
    const path = join(above, "place", "file");
    writeFileSync(path, "old");
    await placed(path, { inPlace: true }, async (input, place) => {
      renameSync(join(above, "place"), join(above, "moved"));
      mkdirSync(join(above, "place"));
      writeFileSync(path, "somebody else's");
      await writeOutput(input, text("new"), place, options);
    });
    expect(readFileSync(path, "utf8")).toBe("somebody else's");
    expect(readFileSync(join(above, "moved", "file"), "utf8")).toBe("new");
  });

  it("is noticed while it is read", () => {
    const path = file("x".repeat(100));
    expect(() => readParts(path, () => appendFileSync(path, "y"))).toThrow("changed while it was read");
    expect(() =>
      readParts(path, (_bytes, need) => {
        writeFileSync(path, "short");
        need(50, 10);
      }),
    ).toThrow("became shorter while it was read");
  });
});

describe("hard links", () => {
  it("are refused in place, and replaced when told", async () => {
    const path = file();
    linkSync(path, `${path}.second`);
    await expect(write(path, text("new"), { inPlace: true })).rejects.toThrow(InputError);
    const told = { ...options, breakHardLinks: true };
    await placed(path, { inPlace: true }, (input, place) => writeOutput(input, text("new"), place, told), told);
    expect([readFileSync(path, "utf8"), readFileSync(`${path}.second`, "utf8")]).toEqual(["new", "old"]);
  });
});

describe("failures leave nothing behind", () => {
  it.runIf(root)("a disk that is full", async ({ skip }) => {
    const disk = folder();
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], { stdio: "ignore" });
    } catch {
      skip("a tmpfs cannot be mounted here");
    }
    onTestFinished(() => void execFileSync("umount", [disk]));
    const path = file();
    const output = join(disk, "out");
    writeFileSync(output, "before");
    const large = { size: 2 ** 20, pieces: [{ offset: 0, bytes: Buffer.alloc(2 ** 20, 1) }] };
    await expect(write(path, large, { inPlace: false, path: output })).rejects.toThrow(
      "cannot be written: no space left on the device",
    );
    expect(readdirSync(disk)).toEqual(["out"]);
    expect(readFileSync(output, "utf8")).toBe("before");
  });

  it.runIf(root)("a folder that cannot be written to (as another user)", async () => {
    const path = file();
    const place = folder();
    chmodSync(place, 0o755);
    chmodSync(join(path, ".."), 0o755);
    process.seteuid!(65534);
    try {
      await expect(write(path, text("new"), { inPlace: false, path: join(place, "out") })).rejects.toThrow(
        "cannot be written: permission denied",
      );
    } finally {
      process.seteuid!(0);
    }
    expect(readdirSync(place)).toEqual([]);
  });

  it("a place that became a folder", async () => {
    const path = file();
    const output = `${path}.out`;
    await placed(path, { inPlace: false, path: output }, async (input, place) => {
      mkdirSync(output);
      await expect(writeOutput(input, text("new"), place, options)).rejects.toThrow(/cannot be written: .*directory/);
    });
    expect(readdirSync(join(path, "..")).sort()).toEqual(["file", "file.out"]);
  });

  it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s", async (signal) => {
    const path = file();
    const place = join(path, "..");
    // A cp that does not end: the writer is caught between creating its file and renaming it.
    const tools = folder();
    writeFileSync(join(tools, "cp"), "#!/bin/sh\nexec sleep 60\n", { mode: 0o755 });
    const url = (module: string): string => pathToFileURL(join(import.meta.dirname, "../../dist/files", module)).href;
    const program = `
      import { withInput } from "${url("input.js")}";
      import { withPlace, writeOutput } from "${url("output.js")}";
      const options = { breakHardLinks: false, giveUp: [] };
      await withInput(process.argv[1], true, (input) =>
        withPlace(input, { inPlace: true }, options, (place) =>
          writeOutput(input, { size: 3, pieces: [{ offset: 0, bytes: Buffer.from("new") }] }, place, options)));`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program, path], {
      env: { ...process.env, PATH: `${tools}:${process.env.PATH}` },
      stdio: "ignore",
      detached: true,
    });
    const ended = new Promise((resolve) => child.on("exit", (code, by) => resolve(by ?? code)));
    const started = Date.now();
    while (readdirSync(place).length < 2 && Date.now() - started < 20_000) await new Promise((r) => setTimeout(r, 20));
    expect(readdirSync(place)).toHaveLength(2);
    // The sleeping cp is in the child's group, as it would be at a terminal.
    await new Promise((r) => setTimeout(r, 100));
    process.kill(-child.pid!, signal);
    expect(await ended).toBe(signal);
    expect(readdirSync(place)).toEqual(["file"]);
    expect(readFileSync(path, "utf8")).toBe("old");
  });
});

describe("errors by their names", () => {
  it.each<[number, string, string]>([
    [122, "Unknown system error -122", "the disk quota is used up"],
    [116, "Unknown system error -116", "the file server no longer knows the file"],
    [117, "Unknown system error -117", "the file system is damaged"],
    [72, "Unknown system error -72", "EMULTIHOP"],
    [999, "Unknown system error -999", "error 999"],
    [28, "ENOSPC", "no space left on the device"],
  ])("%i", async (number, code, words) => {
    const error = Object.assign(new Error(`${code}: ${code}, write`), { errno: -number, code, syscall: "write" });
    const failing = explained("out", "be written", () => Promise.reject(error));
    await expect(failing).rejects.toThrow(new RegExp(`^cannot be written: ${words}$`));
  });

  it("a file that grows beyond the limit is an error and not the end of the process", async () => {
    const path = file(Buffer.alloc(100_000, 1));
    const url = (module: string): string => pathToFileURL(join(import.meta.dirname, "../../dist/files", module)).href;
    const program = `
      import { withInput } from "${url("input.js")}";
      import { withPlace, writeOutput } from "${url("output.js")}";
      import { wholeFile } from "${url("../sparse-content.js")}";
      const options = { breakHardLinks: false, giveUp: [] };
      await withInput(process.argv[1], true, (input) =>
        withPlace(input, { inPlace: false, path: process.argv[1] + ".out" }, options, (place) =>
          writeOutput(input, wholeFile(input), place, options))).catch((e) => console.log(e.message));`;
    const limited = 'ulimit -f 8; exec "$0" --input-type=module -e "$1" "$2"';
    const said = execFileSync("bash", ["-c", limited, process.execPath, program, path], { encoding: "utf8" });
    expect(said).toBe("cannot be written: larger than a file may be\n");
    expect(readdirSync(join(path, ".."))).toEqual(["file"]);
  });
});
