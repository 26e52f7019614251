/**
 * What runs on the kernel that is asked: attaches to each kind of nop, and to where a function returns, and asks `doctor`;
 * prints what it saw as JSON. Made into one file; its argument is the command's file.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeProgramFile } from "../../src/live/program-file.js";
import { runningKernel } from "../../src/live/running-kernel.js";
import { requireTracefs } from "../../src/live/tracefs.js";
import { attachUprobes, type Uprobes } from "../../src/live/uprobes.js";
import { type Nop, nops, type Seen, type When } from "./nops.js";
import { PASSES, probedNop, SHOWN } from "./probed-nop.js";
import { askReturn, type ReturnSeen } from "./probed-return.js";

export interface GuestAnswer {
  readonly kernel: string;
  readonly seen: readonly Seen[];
  readonly returned: ReturnSeen;
  /** What `doctor --json` said, and how it ended. */
  readonly doctor: { readonly status: number | null; readonly stdout: string; readonly stderr: string };
}

/** What the program says next: the bytes at its site; null where it has ended. */
async function told(child: ChildProcessWithoutNullStreams): Promise<string | null> {
  for (;;) {
    const chunk = child.stdout.read(SHOWN) as Buffer | null;
    if (chunk !== null && chunk.length === SHOWN) return chunk.toString("hex");
    if (child.exitCode !== null || child.signalCode !== null) return null;
    await Promise.race([once(child.stdout, "readable"), once(child, "exit")]);
  }
}

async function ask(nop: Nop, when: When, tracefs: string): Promise<Seen> {
  const code = Buffer.from(nop.hex.replaceAll(" ", ""), "hex");
  const { bytes, site } = probedNop(code, nop.room);
  const file = writeProgramFile("nop", bytes);
  const points = [{ path: file.path, offset: site, semaphoreOffset: null }];
  let refusal: string | null = null;
  let uprobes: Uprobes | null = null;
  const attach = (): void => {
    try {
      uprobes = attachUprobes(tracefs, points);
    } catch (error) {
      refusal = error instanceof Error ? error.message : String(error);
    }
  };
  try {
    if (when === "before") attach();
    const child = spawn(file.path, [], { stdio: ["pipe", "pipe", "pipe"] });
    child.stdin.on("error", () => {});
    const ended = once(child, "exit") as Promise<[number | null, string | null]>;
    const seen: (string | null)[] = [await told(child)];
    if (when === "running") attach();
    for (let round = 0; round < 2; round++) {
      child.stdin.write("x");
      seen.push(await told(child));
    }
    const hits = (uprobes as Uprobes | null)?.hits()[0] ?? 0;
    (uprobes as Uprobes | null)?.detach();
    child.stdin.write("x");
    seen.push(await told(child));
    child.stdin.end();
    const [exitCode, signal] = await ended;
    const shown = seen.map((text) => text?.slice(0, 2 * code.length) ?? "");
    return { nop, when, refusal, passes: 2 * PASSES, hits, bytes: shown, end: signal ?? `exit status ${exitCode}` };
  } finally {
    (uprobes as Uprobes | null)?.detach();
    file.remove();
  }
}

const tracefs = requireTracefs();
const seen: Seen[] = [];
for (const nop of nops) for (const when of ["before", "running"] as const) seen.push(await ask(nop, when, tracefs));
const { status, stdout, stderr } = spawnSync(process.execPath, [process.argv[2]!, "doctor", "--json"], {
  encoding: "utf8",
});
const returned = await askReturn();
const answer: GuestAnswer = { kernel: runningKernel().name, seen, returned, doctor: { status, stdout, stderr } };
console.log(JSON.stringify(answer));
