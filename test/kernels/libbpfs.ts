/** Tracers made of this machine's libbpf and of newer ones, which can be had from Debian's archive. */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { KernelName } from "../../src/kernel/kernels.js";
import { makeTracer } from "../live/libbpf.js";

export interface LibbpfTracer {
  readonly name: string;
  readonly command: readonly string[];
  /** The kernels whose long nop it moves on to, or null. */
  readonly knows: KernelName | null;
}

/** libbpf 1.7 moves on to nop5 where a kernel answers ENXIO, 1.8 to nop10 where it answers EPROTO. */
function knownTo(version: string): KernelName | null {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > 1 || minor >= 8) return "7.2";
  return minor === 7 ? "6.18" : null;
}

const named = (version: string, where: string, command: readonly string[]): LibbpfTracer => ({
  name: `libbpf ${version} ${where}`,
  command,
  knows: knownTo(version),
});

/**
 * All that can be had, and why others cannot.
 * @param newer which of "sid" and "tree" to fetch
 */
export function libbpfTracers(newer: readonly string[]): {
  readonly tracers: readonly LibbpfTracer[];
  readonly missing: readonly string[];
} {
  const own = spawnSync("pkg-config", ["--modversion", "libbpf"], { encoding: "utf8" });
  const version = own.status === 0 ? own.stdout.trim() : "0.0";
  const tracers = [named(version, "of this machine", makeTracer([], ["-lbpf"]))];
  const folder = process.env.KERNELS_FOLDER;
  const script = fileURLToPath(new URL("fetch-libbpf", import.meta.url));
  const fetched = spawnSync(script, [...(folder === undefined ? [] : [`${folder}/`]), ...newer], { encoding: "utf8" });
  for (const line of fetched.stdout.split("\n")) {
    const [what, number, place] = line.split(" ");
    if (number === undefined || place === undefined) continue;
    const include = [`-I${place}/include`];
    if (what === "tree") {
      const command = makeTracer(include, [`${place}/lib/libbpf.a`, "-lelf", "-lz"]);
      tracers.push(named(number, "of a kernel tree", command));
    } else {
      // It needs a newer C library than this machine's: both come with a loader.
      const unknown = "-Wl,--unresolved-symbols=ignore-in-shared-libs";
      const command = makeTracer(include, [path.join(place, "lib/libbpf.so.1"), unknown]);
      const loader = path.join(place, "lib/ld-linux-x86-64.so.2");
      tracers.push(named(number, "of sid", [loader, "--library-path", path.join(place, "lib"), ...command]));
    }
  }
  return { tracers, missing: fetched.stderr.split("\n").filter((line) => line !== "") };
}
