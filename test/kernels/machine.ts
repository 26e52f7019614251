/** Test kernels: which can be had on this machine, and a command run on one. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";
import { type KernelFacts, kernelOf, parseVersion } from "../../src/kernel/kernels.js";
import { behindFile } from "../behind.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));

export interface TestKernel {
  /** "7.2". */
  readonly series: string;
  /** Debian's, of the package. */
  readonly version: string;
  readonly folder: string;
  readonly facts: KernelFacts;
  /** How much was downloaded for it. */
  readonly bytes: number;
}

/** What is asked of all of them; Debian's suites decide which there are. */
const SERIES = ["6.1", "6.12", "6.18", "7.1", "7.2", "7.3", "7.4", "7.5"];
/** One that optimizes nop5, one that optimizes nop10. */
const SHORT = ["7.1", "7.3"];

/** There is little time then: where developers have a kernel of nop5, `npm test` holds more against that. */
export const isShort = process.env.KERNELS === "short";

/** Which are wanted: KERNELS=all, KERNELS=short, or series with commas; nothing: none. */
function wanted(): readonly string[] {
  const { KERNELS: asked = "" } = process.env;
  if (asked === "all") return SERIES;
  return asked === "short" ? SHORT : asked.split(",").filter((series) => series !== "");
}

/** Why no kernel can be booted, or null. */
function machineMissing(): string | null {
  if (process.getuid?.() !== 0) return "not root";
  for (const tool of ["qemu-system-x86_64", "unshare", "xz", "zstd"])
    if (spawnSync("which", [tool]).status !== 0) return `no ${tool}`;
  return existsSync("/usr/lib/qemu/virtiofsd") ? null : "no virtiofsd";
}

/** The kernels to test. */
export function testKernels(): Fetched {
  const series = wanted();
  if (series.length === 0) return { kernels: [], missing: ["KERNELS=short or all asks for them"] };
  const obstacle = machineMissing();
  if (obstacle !== null) return { kernels: [], missing: [obstacle] };
  return fetchKernels(series);
}

/** The newest of the suites that get new kernels first. */
export function newestKernels(): Fetched {
  const { KERNELS: asked } = process.env;
  if (asked !== "all" && asked !== "newest") return { kernels: [], missing: ["KERNELS=newest or all asks for them"] };
  return fetchKernels(["sid", "experimental"]);
}

interface Fetched {
  readonly kernels: readonly TestKernel[];
  /** Why others are not among them. */
  readonly missing: readonly string[];
}

function fetchKernels(series: readonly string[]): Fetched {
  const folder = process.env.KERNELS_FOLDER;
  const args = [...(folder === undefined ? [] : [`${folder}/`]), ...series];
  const fetched = spawnSync(path.join(here, "fetch"), args, { encoding: "utf8" });
  const kernels = fetched.stdout.split("\n").flatMap((line): TestKernel[] => {
    const [name, version, place] = line.split(" ");
    if (name === undefined || version === undefined || place === undefined) return [];
    const bytes = Number(readFileSync(path.join(place, ".bytes"), "utf8"));
    return [{ series: name, version, folder: place, facts: kernelOf(parseVersion(version)!), bytes }];
  });
  return { kernels, missing: fetched.stderr.split("\n").filter((line) => line !== "") };
}

/** The compressed kernel of a folder that `fetch` has made. */
export function imageOf({ folder }: TestKernel): string {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).find(
    (entry) => entry.isFile() && entry.name.startsWith("vmlinuz"),
  );
  return path.join(found!.parentPath, found!.name);
}

/** How long a guest may take: emulated, on a machine with other work. */
const GUEST_SECONDS = 1500;
/** Of a test with a guest. */
export const guestTimeout = { timeout: 1000 * (GUEST_SECONDS + 60) };

export interface GuestRun {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

/** What `vm` says where this machine's kvm is of no use; the next guests need not try it again. */
const NO_KVM = "vm: kvm does not run this kernel here";
let kvmFailed = false;

/** Runs a command on a kernel, with this machine's files underneath; what it writes is gone afterwards. */
export async function inGuest({ folder }: TestKernel, ...command: readonly string[]): Promise<GuestRun> {
  const before = process.hrtime.bigint();
  const options = ["-t", String(GUEST_SECONDS), ...(kvmFailed ? ["-a", "tcg"] : [])];
  const vm = spawn(path.join(here, "vm"), [...options, folder, "--", ...command], {
    cwd: root,
    env: {
      ...process.env,
      VM_ENV: "NO_COLOR CI NODE_PATH GUEST_TESTS",
      NO_COLOR: "1",
      CI: "true",
      // Scripts for the guest stand elsewhere.
      NODE_PATH: path.join(root, "node_modules"),
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  // A test that is given up leaves no guest behind.
  behindFile(() => vm.kill());
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) vm[name].setEncoding("utf8").on("data", (s) => (texts[name] += s));
  const status = await new Promise<number | null>((resolve, reject) => vm.on("error", reject).on("close", resolve));
  kvmFailed ||= texts.stderr.includes(NO_KVM);
  return { status, ...texts, seconds: Number(process.hrtime.bigint() - before) / 1e9 };
}

/**
 * Makes a script for the guest of a TypeScript file beside this one, which Node 20 runs not as it is.
 * @param made what the script is called; alone in its folder
 */
export async function guestScript(name: string, made = "guest.mjs"): Promise<string> {
  const bundle = await rolldown({
    input: path.join(here, name),
    platform: "node",
    external: ["vitest"],
    tsconfig: path.join(root, "tsconfig.json"),
    resolve: { extensionAlias: { ".js": [".ts", ".js"] } },
  });
  const { output } = await bundle.generate({ format: "esm", codeSplitting: false });
  await bundle.close();
  // Where only /tmp can be written to, the guest sees folders of it, and no files.
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-guest-"));
  behindFile(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(folder, { recursive: true });
  const script = path.join(folder, made);
  writeFileSync(script, output[0].code);
  return script;
}
