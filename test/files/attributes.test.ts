/**
 * What a rewritten file keeps of the old one. In place all: mode, owner, times, extended attributes, ACLs, capabilities. A new
 * file is the caller's, with the mode that the umask leaves. Judged by stat, getfattr, getfacl and getcap. What needs root, or
 * a file system that can do it, is skipped visibly elsewhere.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  lstatSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import type { OptionalAttribute } from "../../src/files/attribute-names.js";
import { withInput } from "../../src/files/input.js";
import { type Destination, withPlace, writeOutput } from "../../src/files/output.js";
import { extrasOf } from "../../src/files/privileges.js";
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
  const content = { size: 11, pieces: [{ offset: 0, bytes: Buffer.from("new content") }] };
  await withInput(path, true, (input) =>
    withPlace(input, destination, options, (place) => writeOutput(input, content, place, options)),
  );
}

const inPlace: Destination = { inPlace: true };

describe("in place", () => {
  it("keeps the mode, whatever the umask says", async () => {
    const path = file();
    chmodSync(path, 0o766);
    await write(path, inPlace);
    expect(statSync(path).mode & 0o7777).toBe(0o766);
    expect(readFileSync(path, "utf8")).toBe("new content");
  });

  it("keeps the times to the nanosecond", async () => {
    const path = file();
    utimesSync(path, 1234567890.5, 1000000000.25);
    execFileSync("touch", ["-m", "-d", "2001-02-03 04:05:06.123456789", path]);
    const before = statSync(path, { bigint: true });
    await write(path, inPlace);
    const after = statSync(path, { bigint: true });
    expect([after.mtimeNs, after.atimeNs]).toEqual([before.mtimeNs, before.atimeNs]);
  });

  it.runIf(root)("keeps the owner, and set-user-ID with it", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    chmodSync(path, 0o6755);
    await write(path, inPlace);
    const { uid, gid, mode } = statSync(path);
    expect([uid, gid, mode & 0o7777]).toEqual([NOBODY, NOBODY, 0o6755]);
  });

  it.runIf(hasXattr)("keeps extended attributes", async () => {
    const path = file();
    execFileSync("setfattr", ["-n", "user.origin", "-v", "package \u00e4", path]);
    await write(path, inPlace);
    const text = execFileSync("getfattr", ["--only-values", "-n", "user.origin", path], { encoding: "utf8" });
    expect(text).toBe("package \u00e4");
  });

  it.runIf(hasAcl)("keeps access control lists", async () => {
    const path = file();
    execFileSync("setfacl", ["-m", `u:${NOBODY}:rwx`, path]);
    await write(path, inPlace);
    expect(execFileSync("getfacl", ["-cn", path], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })).toContain(
      `user:${NOBODY}:rwx`,
    );
  });

  it.runIf(hasCapabilities)("keeps file capabilities", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    execFileSync("setcap", ["cap_net_raw,cap_bpf+ep", path]);
    await write(path, inPlace);
    expect(execFileSync("getcap", [path], { encoding: "utf8" })).toMatch(/cap_net_raw,cap_bpf[=+]ep/);
  });
});

describe.each<[string, (path: string) => string]>([
  ["a new file", (path) => `${path}.nop5`],
  [
    "one that replaces another",
    (path) => {
      writeFileSync(`${path}.other`, "other", { mode: 0o600 });
      utimesSync(`${path}.other`, 1, 1);
      return `${path}.other`;
    },
  ],
])("%s", (_name, place) => {
  it("has of the mode what the umask leaves, and a new time", async () => {
    const path = file();
    chmodSync(path, 0o7777);
    utimesSync(path, 1234567890.5, 1000000000.25);
    const output = place(path);
    const before = process.umask(0o027);
    onTestFinished(() => void process.umask(before));
    const started = Date.now();
    await write(path, { inPlace: false, path: output });
    const { mode, mtimeMs } = statSync(output);
    expect(mode & 0o7777).toBe(0o750);
    expect(mtimeMs).toBeGreaterThan(started - 1000);
    expect(readFileSync(output, "utf8")).toBe("new content");
  });

  it.runIf(root)("is the caller's, whose ever the input is, and has no privileges", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    chmodSync(path, 0o6755);
    const output = place(path);
    await write(path, { inPlace: false, path: output });
    const { uid, gid, mode } = statSync(output);
    expect([uid, gid, mode & 0o7777]).toEqual([0, 0, 0o755]);
  });

  it.runIf(hasXattr && hasAcl && hasCapabilities)("has no attribute of the input beyond that", async () => {
    const path = file();
    execFileSync("setcap", ["cap_net_raw+ep", path]);
    execFileSync("setfattr", ["-n", "user.origin", "-v", "package", path]);
    execFileSync("setfacl", ["-m", `u:${NOBODY}:rwx`, path]);
    const output = place(path);
    await write(path, { inPlace: false, path: output });
    expect(execFileSync("getfattr", ["--absolute-names", "-m", "-", output], { encoding: "utf8" })).toBe("");
  });

  it("needs no cp", async () => {
    const path = file();
    const output = place(path);
    await withoutTools(() => write(path, { inPlace: false, path: output }));
    expect(readFileSync(output, "utf8")).toBe("new content");
  });
});

/** Runs `body` where no command is found. */
async function withoutTools(body: () => Promise<void>): Promise<void> {
  const { PATH } = process.env;
  process.env.PATH = folder();
  try {
    await body();
  } finally {
    process.env.PATH = PATH;
  }
}

describe("what an input has beyond content and mode", () => {
  const seen = (path: string): ReturnType<typeof extrasOf> => withInput(path, true, extrasOf);

  it("is nothing where there is nothing", async () => {
    expect(await seen(file())).toEqual({ privileges: [], notForNew: [] });
  });

  it("is told from the mode", async () => {
    const path = file();
    chmodSync(path, 0o7755);
    expect(await seen(path)).toEqual({
      privileges: ["setuid", "setgid"],
      notForNew: ["setuid", "setgid", "the sticky bit"],
    });
  });

  it.runIf(hasXattr && hasAcl && hasCapabilities)("is told from extended attributes", async () => {
    const path = file();
    execFileSync("setcap", ["cap_net_raw+ep", path]);
    execFileSync("setfattr", ["-n", "user.origin", "-v", "package", path]);
    execFileSync("setfacl", ["-m", `u:${NOBODY}:rwx`, path]);
    const notForNew = ["file capabilities", "the access control list", "extended attributes (user.origin)"];
    expect(await seen(path)).toEqual({ privileges: ["file capabilities"], notForNew });
  });

  it.runIf(hasCapabilities)("is found by getcap where getfattr is missing", async () => {
    const path = file();
    execFileSync("setcap", ["cap_net_raw+ep", path]);
    const tools = folder();
    const getcap = execFileSync("sh", ["-c", "PATH=$PATH:/sbin:/usr/sbin command -v getcap"], {
      encoding: "utf8",
    }).trim();
    // The tool's own search goes on in /usr/sbin and /sbin: getfattr lives in /usr/bin.
    symlinkSync(getcap, join(tools, "getcap"));
    const { PATH } = process.env;
    process.env.PATH = tools;
    try {
      expect(await seen(path)).toEqual({ privileges: ["file capabilities"], notForNew: ["file capabilities"] });
    } finally {
      process.env.PATH = PATH;
    }
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

  it("replaces a link that is the output, wherever it leads", async () => {
    const path = file();
    const other = file("other");
    for (const target of [other, "nowhere", folder(), path]) {
      const link = `${path}.link`;
      rmSync(link, { force: true });
      symlinkSync(target, link);
      await write(path, { inPlace: false, path: link });
      expect(lstatSync(link).isFile()).toBe(true);
      expect(readFileSync(link, "utf8")).toBe("new content");
    }
    expect([readFileSync(other, "utf8"), readFileSync(path, "utf8")]).toEqual(["other", "old"]);
  });

  it("is not followed where told", async () => {
    const path = file();
    symlinkSync(path, `${path}.link`);
    await expect(withInput(`${path}.link`, false, async () => {})).rejects.toThrow("is a symbolic link");
    await withInput(path, false, async ({ bytes }) => expect(bytes.toString()).toBe("old"));
  });

  it("of the system's directories are left alone", async () => {
    const path = file();
    for (const output of ["/dev/stdout", "/dev/fd/1", "/proc/self/exe"])
      await expect(write(path, { inPlace: false, path: output })).rejects.toThrow("is in a directory of the system's");
    expect(lstatSync("/dev/stdout").isSymbolicLink()).toBe(true);
  });
});

describe("what cannot be kept in place", () => {
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
    chownSync(dirname(path), NOBODY, NOBODY);
    await asNobody(async () => {
      await expect(write(path, inPlace)).rejects.toThrow(/could not keep the owner 0:0/);
      expect(readdirSync(dirname(path))).toEqual(["file"]);
      await write(path, inPlace, ["owner"]);
    });
    const { uid, mode } = statSync(path);
    // Given up with the owner: a program that runs as root must not become one that runs as nobody.
    expect([uid, mode & 0o7777]).toEqual([NOBODY, 0o755]);
  });

  /** A cp of which all setting of attributes fails, as in a file system without them: GNU's words. */
  function failingCp(words: string): string {
    const tools = folder();
    writeFileSync(join(tools, "cp"), `#!/bin/sh\necho "cp: ${words}" >&2\nexit 1\n`, { mode: 0o755 });
    return tools;
  }

  async function withCp(tools: string, body: () => Promise<void>): Promise<void> {
    const { PATH } = process.env;
    process.env.PATH = `${tools}:${PATH}`;
    try {
      await body();
    } finally {
      process.env.PATH = PATH;
    }
  }

  it.each([
    [
      "setting attributes for '/proc/self/fd/4': Operation not supported",
      "extended attributes could not be kept: setting attributes: Operation not supported (--drop-attribute xattr",
    ],
    [
      "preserving permissions for '/proc/self/fd/4': Operation not supported",
      "mode and access control list could not be kept: preserving permissions: Operation not supported",
    ],
  ])("is named: %s", async (words, said) => {
    const path = file();
    await withCp(failingCp(words), async () => {
      await expect(write(path, inPlace)).rejects.toThrow(said);
      // To give up what another cp could do is no way to give up what this one cannot.
      await expect(write(path, inPlace, ["xattr"])).rejects.toThrow("could not be kept");
    });
    expect([readFileSync(path, "utf8"), ...readdirSync(dirname(path))]).toEqual(["old", "file"]);
  });

  it("is said: everything, where there is no cp; the rest is kept when it is given up", async () => {
    const path = file();
    chmodSync(path, 0o751);
    utimesSync(path, 1234567890.5, 1000000000.25);
    await withoutTools(async () => {
      await expect(write(path, inPlace)).rejects.toThrow("the command cp (GNU coreutils) is missing");
      expect(readFileSync(path, "utf8")).toBe("old");
      expect(readdirSync(dirname(path))).toEqual(["file"]);
      await write(path, inPlace, ["xattr"]);
    });
    const { mode, mtimeMs } = statSync(path);
    expect([mode & 0o7777, mtimeMs, readFileSync(path, "utf8")]).toEqual([0o751, 1000000000250, "new content"]);
  });

  it.runIf(root && works("busybox", "true"))("is said: everything, where cp is busybox's", async () => {
    const path = file();
    chownSync(path, NOBODY, NOBODY);
    chmodSync(path, 0o4755);
    const tools = folder();
    symlinkSync(execFileSync("sh", ["-c", "command -v busybox"], { encoding: "utf8" }).trim(), join(tools, "cp"));
    await withCp(tools, async () => {
      await expect(write(path, inPlace)).rejects.toThrow("cp is not that of GNU coreutils (--drop-attribute xattr");
      expect(readFileSync(path, "utf8")).toBe("old");
      await write(path, inPlace, ["xattr"]);
    });
    const { uid, gid, mode } = statSync(path);
    expect([uid, gid, mode & 0o7777]).toEqual([NOBODY, NOBODY, 0o4755]);
  });
});
