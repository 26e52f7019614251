/**
 * The five Debian packages, 627 sites, that the tests of this folder rewrite and run. `fetch` puts them, unpacked and
 * not installed, into .cache/packages; what it cannot get makes the tests fail with its own message, not pass.
 */
import { execFileSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

export interface CorpusFile {
  readonly packageName: string;
  /** Below `packagesRoot`. */
  readonly path: string;
  /** What Debian 12's builds have. Counted again by readelf: a build with other probes must be noticed. */
  readonly sites: number;
}

export const javaHome = "usr/lib/jvm/java-17-openjdk-amd64";

export const corpus = {
  libjvm: { packageName: "openjdk-17-jre-headless", path: `${javaHome}/lib/server/libjvm.so`, sites: 531 },
  postgres: { packageName: "postgresql-15", path: "usr/lib/postgresql/15/bin/postgres", sites: 71 },
  php: { packageName: "php8.2-cli", path: "usr/bin/php8.2", sites: 14 },
  python: { packageName: "python3.11-minimal", path: "usr/bin/python3.11", sites: 8 },
  libstdcxx: { packageName: "libstdc++6", path: "usr/lib/x86_64-linux-gnu/libstdc++.so.6", sites: 3 },
} as const satisfies Record<string, CorpusFile>;

const fetchScript = fileURLToPath(new URL("./fetch", import.meta.url));

/** Long enough for a slow mirror; when everything is there the script takes some milliseconds. */
export const FETCH_TIMEOUT = 240_000;

/** The folder that holds `root` and `libs`. */
export function fetchPackages(): string {
  return execFileSync(fetchScript, {
    encoding: "utf8",
    timeout: FETCH_TIMEOUT,
    stdio: ["ignore", "pipe", "inherit"],
  }).trim();
}

export function packagesRoot(): string {
  return path.join(fetchPackages(), "root");
}

/** The file itself: libstdc++.so.6 is a symbolic link to it. */
export function corpusPath(file: CorpusFile): string {
  return realpathSync(path.join(packagesRoot(), file.path));
}

/** Shared libraries that the machine lacks and fetch has brought, in front of what the caller's environment says. */
export function libraryPath(...first: readonly string[]): Record<string, string> {
  const libs = path.join(fetchPackages(), "libs");
  const fetched = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
    .map((d) => path.join(libs, d))
    .filter(existsSync);
  const all = [...first, ...fetched];
  return all.length === 0 ? {} : { LD_LIBRARY_PATH: all.join(":") };
}
