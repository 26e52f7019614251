/**
 * libbpf as a tracer of USDT probes: a program made in the test from attach.c, as anyone would write it. It finds the probes
 * by the notes and reads their arguments; what it does not understand it refuses.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { hasClang } from "./kernel.js";
import { programSource, scratch } from "./rewriting.js";

/** Why libbpf is of no use here, or null. */
export function libbpfMissing(): string | null {
  if (!hasClang) return "no clang, which compiles for BPF";
  if (!existsSync("/usr/include/bpf/usdt.bpf.h")) return "no libbpf (libbpf-dev)";
  // A tracer of no probe loads its program nevertheless, if the kernel lets it.
  const tried = spawnSync(compiled().attach, [compiled().object], { encoding: "utf8", input: "", timeout: 20_000 });
  return tried.status === 0 ? null : `libbpf does not work here: ${tried.stderr.trim().split("\n").at(-1)}`;
}

let built: { attach: string; object: string } | undefined;

function compiled(): { attach: string; object: string } {
  if (built !== undefined) return built;
  built = { attach: scratch("attach"), object: scratch("attach.o") };
  const include = "-I/usr/include/x86_64-linux-gnu"; // where Debian has asm/, of which clang does not know for BPF
  const bpf = ["-O2", "-g", "-target", "bpf", "-D__TARGET_ARCH_x86", include, "-c"];
  spawnSync("clang", [...bpf, programSource("attach.bpf.c"), "-o", built.object]);
  spawnSync("gcc", ["-O2", programSource("attach.c"), "-lbpf", "-o", built.attach]);
  return built;
}

export interface SeenByLibbpf {
  readonly hits: number;
  /** Of the last hit, twelve of them; 0 where the probe has fewer. */
  readonly arguments: readonly string[];
}

/** Attaches to probes (`PROVIDER:NAME`) of a file while `body` runs. Null for a probe that libbpf refuses. */
export async function withLibbpf(
  file: string,
  probes: readonly string[],
  body: () => Promise<unknown>,
): Promise<ReadonlyMap<string, SeenByLibbpf | null>> {
  const { attach, object } = compiled();
  const tracer = spawn(attach, [object, file, ...probes], { stdio: ["pipe", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  tracer.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString("latin1")));
  const ended = new Promise<number | null>((resolve) => tracer.once("close", resolve));
  const ready = new Promise<void>((resolve) => {
    tracer.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString("latin1");
      if (stdout.startsWith("ready\n")) resolve();
    });
  });
  const timer = setTimeout(() => tracer.kill("SIGKILL"), 90_000);
  try {
    await Promise.race([ready, ended]);
    await body();
  } finally {
    tracer.stdin.end();
    await ended;
    clearTimeout(timer);
  }
  const lines = stdout.split("\n").slice(1, -1);
  if (lines.length !== probes.length) throw new Error(`libbpf on ${file}: ${stdout}\n${stderr}`);
  return new Map(lines.map((line) => [line.split(" ")[0]!, seen(line.split(" ").slice(1))]));
}

const seen = ([hits, ...values]: readonly string[]): SeenByLibbpf | null =>
  hits === "refused" ? null : { hits: Number(hits), arguments: values };
