/**
 * What a rewritten file keeps of the old one: mode, owner, times, extended attributes, ACLs, capabilities. Judged by
 * stat, getfattr, getfacl and getcap. What needs root, or a file system that can do it, is skipped visibly elsewhere.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  lstatSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import type { OptionalAttribute } from "../../src/files/attribute-names.js";
import { readInput } from "../../src/files/input.js";
import { choosePlace, type Destination, wholeFile, writeOutput } from "../../src/files/output.js";
import { folder } from "../sample/sample.js";

const root = process.getuid?.() === 0;
const NOBODY = 65534;

/** Whether a command works here: the tool exists, and the file system lets it. */
function works(command: string, ...args: string[]): boolean {
  try {
    execFileSync(command, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

const probe = (tool: string, ...options: string[]): boolean => {
  const path = `/tmp/usdt-nop5-probe-${process.pid}-${tool}`;
  writeFileSync(path, "");
  const possible = works(tool, ...options, path);
  execFileSync("rm", ["-f", path]);
  return possible;
};
const hasXattr = probe("setfattr", "-n", "user.test", "-v", "1");
const hasAcl = probe("setfacl", "-m", `u:${NOBODY}:r`);
const hasCapabilities = root && probe("setcap", "cap_net_raw+ep");

function file(content = "old"): string {
  const path = join(folder(), "file");
  writeFileSync(path, content);
  return path;
}

async function write(path: string, destination: Destination, giveUp: readonly OptionalAttribute[] = []): Promise<void> {
  const options = { breakHardLinks: false, giveUp };
  const input = readInput(path);
  const place = await choosePlace(input, destination, options);
  await writeOutput(input, wholeFile(Buffer.from("new content")), place, options);
}

const inPlace: Destination = { inPlace: true };

describe.each<[string, (path: string) => [Destination, string]]>([
  ["in place", (path) => [inPlace, path]],
  ["beside", (path) => [{ inPlace: false, path: `${path}.nop5` }, `${path}.nop5`]],
  [
    "over another file",
    (path) => {
      writeFileSync(`${path}.other`, "other", { mode: 0o600 });
      return [{ inPlace: false, path: `${path}.other` }, `${path}.other`];
    },
  ],
])("%s", (_name, place) => {
  it("keeps the mode, whatever the umask says", async () => {
    const path = file();
    chmodSync(path, 0o766);
    const [destination, output] = place(path);
    await write(path, destination);
    expect(statSync(output).mode & 0o7777).toBe(0o766);
    expect(readFileSync(output, "utf8")).toBe("new content");
  });

  it("keeps the times to the nanosecond", async () => {
    const path = file();
    utimesSync(path, 1234567890.5, 1000000000.25);
    execFileSync("touch", ["-m", "-d", "2001-02-03 04:05:06.123456789", path]);
    const before = statSync(path, { bigint: true });
    const [destination, output] = place(path);
    await write(path, destination);
    const after = statSync(output, { bigint: true });
    expect([after.mtimeNs, after.atimeNs]).toEqual([before.mtimeNs, before.atimeNs]);
  });

  it.runIf(root)("keeps the owner, and set-user-ID with it", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    chmodSync(path, 0o6755);
    const [destination, output] = place(path);
    await write(path, destination);
    const { uid, gid, mode } = statSync(output);
    expect([uid, gid, mode & 0o7777]).toEqual([NOBODY, NOBODY, 0o6755]);
  });

  it.runIf(hasXattr)("keeps extended attributes", async () => {
    const path = file();
    execFileSync("setfattr", ["-n", "user.origin", "-v", "package \u00e4", path]);
    const [destination, output] = place(path);
    await write(path, destination);
    const text = execFileSync("getfattr", ["--only-values", "-n", "user.origin", output], { encoding: "utf8" });
    expect(text).toBe("package \u00e4");
  });

  it.runIf(hasAcl)("keeps access control lists", async () => {
    const path = file();
    execFileSync("setfacl", ["-m", `u:${NOBODY}:rwx`, path]);
    const [destination, output] = place(path);
    await write(path, destination);
    expect(
      execFileSync("getfacl", ["-cn", output], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
    ).toContain(`user:${NOBODY}:rwx`);
  });

  it.runIf(hasCapabilities)("keeps file capabilities", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    execFileSync("setcap", ["cap_net_raw,cap_bpf+ep", path]);
    const [destination, output] = place(path);
    await write(path, destination);
    expect(execFileSync("getcap", [output], { encoding: "utf8" })).toMatch(/cap_net_raw,cap_bpf[=+]ep/);
  });
});

describe("links", () => {
  it("rewrites the target of a symbolic link in place, and keeps the link", async () => {
    const path = file();
    const link = join(folder(), "link");
    symlinkSync(path, link);
    await write(link, inPlace);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(lstatSync(path).isFile()).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("new content");
  });

  it("writes beside the link as the user named it", async () => {
    const path = file();
    const link = join(folder(), "link");
    symlinkSync(path, link);
    await write(link, { inPlace: false, path: `${link}.nop5` });
    expect(lstatSync(`${link}.nop5`).isFile()).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  it("follows a link that is the output", async () => {
    const path = file();
    const other = file("other");
    const link = `${path}.link`;
    symlinkSync(other, link);
    await write(path, { inPlace: false, path: link });
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(readFileSync(other, "utf8")).toBe("new content");
  });
});

describe("what cannot be kept", () => {
  /** Runs `body` with another user's rights in this process: effective ids only, so that the way back is open. */
  async function asNobody<T>(body: () => Promise<T>): Promise<T> {
    process.setegid!(NOBODY);
    process.seteuid!(NOBODY);
    try {
      return await body();
    } finally {
      process.seteuid!(0);
      process.setegid!(0);
    }
  }

  it.runIf(root)("is named: the owner, for another user", async () => {
    const path = file();
    chmodSync(path, 0o4755);
    const place = folder();
    chownSync(place, NOBODY, NOBODY);
    chmodSync(dirname(path), 0o755);
    const output = join(place, "out");
    await asNobody(async () => {
      await expect(write(path, { inPlace: false, path: output })).rejects.toThrow(/could not keep the owner 0:0/);
      expect(execFileSync("ls", ["-A", place], { encoding: "utf8" })).toBe("");
      await write(path, { inPlace: false, path: output }, ["owner"]);
    });
    const { uid, mode } = statSync(output);
    // Given up with the owner: a program that runs as root must not become one that runs as nobody.
    expect([uid, mode & 0o7777]).toEqual([NOBODY, 0o755]);
  });

  /** A file system that keeps neither extended attributes nor ACLs. */
  function bareFileSystem(): string | null {
    const place = folder();
    if (!works("mount", "-t", "ramfs", "ramfs", place)) return null;
    onTestFinished(() => void execFileSync("umount", [place]));
    return place;
  }

  it.runIf(root && hasXattr)("is named: extended attributes, capabilities", async ({ skip }) => {
    const place = bareFileSystem();
    if (place === null) return skip("a ramfs cannot be mounted here");
    const path = file();
    execFileSync("setfattr", ["-n", "user.origin", "-v", "package", path]);
    const destination: Destination = { inPlace: false, path: join(place, "out") };
    await expect(write(path, destination)).rejects.toThrow(
      "extended attributes could not be kept: setting attributes: Operation not supported (--drop-attribute xattr",
    );
    expect(readdirSync(place)).toEqual([]);
    await write(path, destination, ["xattr"]);
    expect(readdirSync(place)).toEqual(["out"]);
  });

  it.runIf(root && hasAcl)("is named: access control lists", async ({ skip }) => {
    const place = bareFileSystem();
    if (place === null) return skip("a ramfs cannot be mounted here");
    const path = file();
    execFileSync("setfacl", ["-m", `u:${NOBODY}:r`, path]);
    await expect(write(path, { inPlace: false, path: join(place, "out") })).rejects.toThrow(
      "mode and access control list could not be kept",
    );
    expect(readdirSync(place)).toEqual([]);
  });

  it("is said: everything, where there is no cp", async () => {
    const path = file();
    const { PATH } = process.env;
    process.env.PATH = folder();
    try {
      await expect(write(path, inPlace)).rejects.toThrow("the command cp (GNU coreutils) is missing");
    } finally {
      process.env.PATH = PATH;
    }
    expect(readFileSync(path, "utf8")).toBe("old");
    expect(readdirSync(dirname(path))).toEqual(["file"]);
  });
});
