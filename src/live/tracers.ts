/** Which tracers are installed, and which versions, by what they say themselves. */
import { spawnSync } from "node:child_process";
import { readdirSync, realpathSync } from "node:fs";
import { basename, join } from "node:path";

const programs: Readonly<Record<string, readonly string[]>> = {
  bpftrace: ["--version"],
  perf: ["--version"],
  gdb: ["--version"],
  stap: ["--version"],
};

const LIBRARY_FOLDERS = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib64"];

/** "bpftrace 0.17.0", one for each that is there. */
export function installedTracers(): readonly string[] {
  const found: string[] = [];
  for (const [name, args] of Object.entries(programs)) {
    const { status, stdout, stderr } = spawnSync(name, args, {
      encoding: "utf8",
      timeout: 10_000,
      stdio: ["ignore", "pipe", "pipe"],
    });
    if (status === null) continue;
    const version = /\d+\.\d+[\w.-]*/.exec(`${stdout}\n${stderr}`)?.[0];
    found.push(status === 0 && version !== undefined ? `${name} ${version}` : `${name} (does not run)`);
  }
  return [...found, ...libraries("libbpf.so."), ...libraries("libbcc.so.")];
}

/** "libbpf 1.1.2": the versions are in the names of the files. */
function libraries(prefix: string): readonly string[] {
  const versions = LIBRARY_FOLDERS.flatMap((folder) => {
    try {
      return readdirSync(folder)
        .filter((name) => name.startsWith(prefix))
        .map((name) => basename(realpathSync(join(folder, name))).slice(prefix.length));
    } catch {
      return [];
    }
  });
  return [...new Set(versions)].map((version) => `${prefix.split(".")[0]} ${version}`);
}
