/**
 * What this machine does with USDT probes: found out by trying, not looked up by version.
 *
 * ok      it works, or a known defect is not there
 * warn    something that whoever traces should know: a defect of the kernel, nothing that optimizes, no tracer
 * fail    what this tool's own commands need does not work although it should
 * skipped could not be tried, and why
 */
import { readFileSync } from "node:fs";
import { constants, release, type } from "node:os";
import { kernelThatAnswers, kernelThatOptimizes, type LongNop } from "../kernel/kernels.js";
import { uprobeSystemCall } from "./kernel-programs.js";
import * as kernel from "./kernel-tests.js";
import { PASSES, type Treatment } from "./kernel-tests.js";
import { writeProgramFile } from "./program-file.js";
import { findTracefs } from "./tracefs.js";
import { installedTracers } from "./tracers.js";
import { watch } from "./watch.js";

export interface Check {
  readonly name: string;
  readonly status: "ok" | "warn" | "fail" | "skipped";
  readonly detail: string;
}

export interface Diagnosis {
  readonly kernel: string;
  readonly checks: readonly Check[];
  /** Which nop becomes a call here. */
  readonly optimizes: "nop5" | "nop10" | "none";
}

/** Examines the machine. */
export async function examine(): Promise<Diagnosis> {
  const checks: Check[] = [];
  const add = (name: string, status: Check["status"], detail: string): void => {
    checks.push({ name, status, detail });
  };
  const native = type() === "Linux" && process.arch === "x64";
  add("kernel", native ? "ok" : "fail", `${type()} ${release()}, ${process.arch}`);
  if (!native) return { kernel: release(), checks, optimizes: "none" };

  const root = process.getuid?.() === 0;
  add("root", root ? "ok" : "warn", root ? "yes" : "no: what needs uprobes is skipped; live and bench need them");
  const tracefs = findTracefs();
  add("tracefs", tracefs.path !== null ? "ok" : root ? "fail" : "skipped", tracefs.detail);
  const errno = attempt(checks, "uprobe system call", () => kernel.uprobeSystemCall())?.exitCode ?? null;
  if (errno !== null) checks.push(systemCallCheck(errno));

  let optimizes: Diagnosis["optimizes"] = (errno === null ? null : kernelThatAnswers(errno)?.optimizes) ?? "none";
  if (tracefs.path === null) {
    const because = `not tried: ${tracefs.detail}`;
    for (const name of ["uprobes", "nop5", "nop10"]) add(name, "skipped", because);
    add("optimizes", "skipped", `${optimizes}, by the uprobe system call alone; ${because}`);
    for (const name of defects) add(name, "skipped", because);
  } else {
    optimizes = await probeKernel(tracefs.path, checks);
  }
  const shadow = attempt(checks, "shadow stack", () => kernel.shadowStack());
  if (shadow !== null) add("shadow stack", "ok", shadowStackDetail(shadow));
  checks.push(await watcherCheck());
  const tracers = installedTracers();
  add("tracers", tracers.length > 0 ? "ok" : "warn", tracers.length > 0 ? tracers.join(", ") : "none found");
  return { kernel: release(), checks, optimizes };
}

/** Something that is tried; where it cannot be, that is the check. */
function attempt<T>(checks: Check[], name: string, action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    checks.push({ name, status: "fail", detail: error instanceof Error ? error.message : String(error) });
    return null;
  }
}

function systemCallCheck(errno: number): Check {
  const name = "uprobe system call";
  const known = kernelThatAnswers(errno);
  if (known === undefined) return { name, status: "warn", detail: `answers with error ${errno}, which is not known` };
  const { answers, optimizes, range } = known;
  const detail =
    optimizes === null
      ? `not there (${answers}): this kernel optimizes no nop`
      : `there (336 answers ${answers}, as ${range})`;
  return { name, status: "ok", detail };
}

async function probeKernel(tracefs: string, checks: Check[]): Promise<Diagnosis["optimizes"]> {
  const plain = kernel.treatmentOf("nop", tracefs);
  const works = plain.hits === PASSES && plain.trouble === null;
  const count = (seen: Treatment): string =>
    `${seen.hits} of ${PASSES} passes counted${seen.trouble ? `, ${seen.trouble}` : ""}`;
  checks.push({ name: "uprobes", status: works ? "ok" : "fail", detail: `one-byte nop: ${count(plain)}` });
  const seen = { nop5: kernel.treatmentOf("nop5", tracefs), nop10: kernel.treatmentOf("nop10", tracefs) };
  for (const nop of ["nop5", "nop10"] as const) {
    const { optimized, hits, trouble } = seen[nop];
    const fires = hits === PASSES && trouble === null;
    const what = optimized
      ? "becomes a call"
      : fires
        ? "traps"
        : "does not fire as it should: do not place probes on it";
    checks.push({ name: nop, status: fires ? "ok" : "warn", detail: `${what}; ${count(seen[nop])}` });
  }
  const optimizes = seen.nop5.optimized ? "nop5" : seen.nop10.optimized ? "nop10" : "none";
  checks.push({
    name: "optimizes",
    status: optimizes === "none" ? "warn" : "ok",
    detail:
      optimizes === "none" ? "no nop becomes a call: rewriting gains nothing on this kernel" : `${optimizes} (tried)`,
  });
  if (optimizes === "none")
    for (const name of defects)
      checks.push({ name, status: "skipped", detail: "not tried: nothing is optimized here" });
  else await defectChecks(optimizes, tracefs, checks);
  return optimizes;
}

const defects = ["red zone", "fork", "seccomp", "detach", "second tracer"];

/** What an optimized site may break. */
async function defectChecks(nop: LongNop, tracefs: string, checks: Check[]): Promise<void> {
  const zone = attempt(checks, "red zone", () => kernel.overwritesRedZone(nop, tracefs));
  if (zone !== null) {
    const whole = zone.exitCode === 0 && zone.hits === PASSES;
    const detail = whole
      ? `what a program keeps below rsp survives a traced ${nop}`
      : `a traced ${nop} overwrites what a program keeps below rsp: rewrite puts guards where that matters`;
    checks.push({ name: "red zone", status: whole ? "ok" : "warn", detail });
  }
  const fork = attempt(checks, "fork", () => kernel.forkedChild(nop, tracefs));
  if (fork !== null) {
    const lives = fork.exitCode === 0 && fork.signal === null;
    const killer =
      Object.entries(constants.signals).find(([, number]) => number === fork.exitCode)?.[0] ?? fork.exitCode;
    const detail = lives
      ? `a forked child passes a ${nop} that its parent was traced at`
      : `a forked child that passes a ${nop} its parent was traced at is killed (${fork.signal ?? killer}): rewrite puts a fork guard into files, or leaves them alone`;
    checks.push({ name: "fork", status: lives ? "ok" : "warn", detail });
  }
  const confined = attempt(checks, "seccomp", () => kernel.confined(nop, tracefs));
  if (confined !== null) {
    const lives = confined.signal === null && confined.hits === PASSES;
    const detail = lives
      ? "the uprobe system call passes a filter that forbids it"
      : `a traced ${nop} under a seccomp filter: ${confined.signal ?? `exit status ${confined.exitCode}`}, ${confined.hits} hits`;
    checks.push({ name: "seccomp", status: lives ? "ok" : "warn", detail });
  }
  await attemptLater(checks, "detach", async () => detachCheck(nop, await kernel.takesBack(nop, tracefs)));
  const SECOND = "second tracer";
  if (checks.at(-1)!.status === "ok")
    await attemptLater(checks, SECOND, async () => secondTracerCheck(nop, await kernel.takesBackFromTwo(nop, tracefs)));
  else
    checks.push({ name: SECOND, status: "skipped", detail: "not tried: one tracer does harm here already (detach)" });
}

async function attemptLater(checks: Check[], name: string, action: () => Promise<Check>): Promise<void> {
  try {
    checks.push(await action());
  } catch (error) {
    checks.push({ name, status: "fail", detail: error instanceof Error ? error.message : String(error) });
  }
}

/** What the kernels that the table names as damaging leave behind, and what all others do not. */
function detachCheck(nop: LongNop, takenBack: boolean | null): Check {
  const name = "detach";
  if (takenBack === null)
    return { name, status: "warn", detail: `a program with a traced ${nop} did not end by itself` };
  if (takenBack) return { name, status: "ok", detail: `a ${nop} is whole again when its tracer has gone` };
  const cause = kernelThatOptimizes(nop).damages === null ? "" : " (CVE-2026-72357): update the kernel";
  const detail = `a ${nop} is not whole again when its tracer has gone, which can kill the program${cause}`;
  return { name, status: "warn", detail };
}

/** A failure to patch the probe in one place is remembered for all, and then nobody looks for calls any more. */
function secondTracerCheck(nop: LongNop, takenBack: boolean | null): Check {
  const name = "second tracer";
  if (takenBack === null) return { name, status: "warn", detail: "the program that tries it did not end as it should" };
  if (takenBack)
    return {
      name,
      status: "ok",
      detail: `a ${nop} is whole again when two tracers have gone, whatever other processes do`,
    };
  const effect = kernelThatOptimizes(nop).tearsCalls === "kills" ? "which kills it" : "which goes on and is slow";
  const detail = `two tracers at the same time at a ${nop} may tear the call in a program, ${effect}, where another process of the file has no room near the probe: trace with one at a time`;
  return { name, status: "warn", detail };
}

function shadowStackDetail({ exitCode }: kernel.Outcome): string {
  const flag = /^flags\s*:.*\buser_shstk\b/m.test(readFileSync("/proc/cpuinfo", "latin1"));
  const kernelSays = exitCode === 0 ? "programs can have one" : `refused (error ${exitCode})`;
  return `${kernelSays}; processor and kernel ${flag ? "support" : "do not support"} them (user_shstk)`;
}

/** live needs a program that may trace another. */
async function watcherCheck(): Promise<Check> {
  const name = "ptrace";
  const file = writeProgramFile("traced", uprobeSystemCall().bytes);
  let stops = 0;
  try {
    const stdio = ["ignore", "ignore", "ignore"] as const;
    const { exitCode } = await watch({ program: file.path, argv: ["traced"], stdio }, () => stops++).ended;
    const works = stops === 1 && exitCode !== null;
    return {
      name,
      status: works ? "ok" : "fail",
      detail: `a process was stopped ${stops === 1 ? "once" : `${stops} times`} before its end`,
    };
  } catch (error) {
    return { name, status: "fail", detail: error instanceof Error ? error.message : String(error) };
  } finally {
    file.remove();
  }
}
