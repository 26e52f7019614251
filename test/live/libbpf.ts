/**
 * libbpf as a tracer of USDT probes: a program made in the test from attach.c, as anyone would write it. It finds the
 * probes by the notes and reads their arguments; what it does not understand it refuses.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { hasClang } from "./kernel.js";
import { type SeenByLibbpf, traceByLibbpf } from "./libbpf-tracer.js";
import { programSource, scratch } from "./rewriting.js";

/** Why no tracer can be made of libbpf here, or null. */
export function cannotMakeTracer(): string | null {
  if (!hasClang) return "no clang, which compiles for BPF";
  return existsSync("/usr/include/bpf/usdt.bpf.h") ? null : "no libbpf (libbpf-dev)";
}

/** Why libbpf is of no use here, or null. */
export function libbpfMissing(): string | null {
  const obstacle = cannotMakeTracer();
  if (obstacle !== null) return obstacle;
  // A tracer of no probe loads its program nevertheless, if the kernel lets it.
  const [attach, object] = compiled();
  const tried = spawnSync(attach!, [object!], { encoding: "utf8", input: "", timeout: 20_000 });
  return tried.status === 0 ? null : `libbpf does not work here: ${tried.stderr.trim().split("\n").at(-1)}`;
}

let built: readonly string[] | undefined;

/** The tracer of this machine's libbpf, and its first argument. */
function compiled(): readonly string[] {
  built ??= makeTracer([], ["-lbpf"]);
  return built;
}

/**
 * Makes a tracer and the program that it hands to the kernel; both have to be of one libbpf.
 * @param include options that find its headers
 * @param link options that find it
 */
export function makeTracer(include: readonly string[], link: readonly string[]): readonly string[] {
  const [attach, object] = [scratch("attach"), scratch("attach.o")];
  const machine = "-I/usr/include/x86_64-linux-gnu"; // where Debian has asm/, of which clang does not know for BPF
  const bpf = ["-O2", "-g", "-target", "bpf", "-D__TARGET_ARCH_x86", ...include, machine, "-c"];
  spawnSync("clang", [...bpf, programSource("attach.bpf.c"), "-o", object]);
  spawnSync("gcc", ["-O2", ...include, programSource("attach.c"), ...link, "-o", attach]);
  return [attach, object];
}

/** Attaches to probes (`PROVIDER:NAME`) of a file while `body` runs. Null for a probe that libbpf refuses. */
export const withLibbpf = async (
  file: string,
  probes: readonly string[],
  body: () => Promise<unknown>,
): Promise<ReadonlyMap<string, SeenByLibbpf | null>> => traceByLibbpf(compiled(), file, probes, body);
