/** gdb as a reader of USDT probes: what it lists, and the arguments at breakpoints on them, from its own reader of the notes. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { readNotes } from "../judges/notes.js";
import { must } from "../run.js";
import { scratch } from "./rewriting.js";
import type { Seen, Target } from "./witness.js";

/** Why gdb is of no use here, or null: it may be missing, or no process may be traced. */
export function gdbMissing(): string | null {
  if (spawnSync("gdb", ["--version"]).status !== 0) return "no gdb";
  const tried = spawnSync("gdb", ["-nx", "-batch", "-ex", "starti", "-ex", "kill", "true"], {
    encoding: "utf8",
    timeout: 20_000,
  });
  return /Program stopped/.test(tried.stdout) ? null : `gdb does not work here: ${tried.stderr.trim().split("\n")[0]}`;
}

export interface ListedByGdb {
  readonly name: string;
  /** In the process; a file that may be anywhere is moved. */
  readonly where: bigint;
  /** As the file says, wherever the process has it. */
  readonly semaphore: bigint | null;
}

export interface SeenByGdb extends Seen {
  /** What `info probes stap` says, in its order. */
  readonly listed: readonly ListedByGdb[];
}

export async function seenByGdb({ file, provider, command, environment }: Target): Promise<SeenByGdb> {
  const lengths = new Map((await readNotes(file)).map((note) => [note.name, note.arguments.length]));
  const breakpoint = ([name, length]: readonly [string, number]): string => {
    const values = Array.from({ length }, (_, i) => `, (long long)$_probe_arg${i}`).join("");
    const print = `printf "hit ${name}${" %lld".repeat(length)}\\n"${values}`;
    return `break -probe-stap ${provider}:${name}\ncommands\nsilent\n${print}\ncontinue\nend`;
  };
  const script = scratch("gdb-script");
  const lines = [
    "set pagination off",
    "set confirm off",
    "set width 0",
    "set startup-with-shell off",
    "break main",
    "run",
    `info probes stap ^${provider}$`,
    ...[...lengths].map(breakpoint),
    "continue",
  ];
  writeFileSync(script, `${lines.join("\n")}\n`);
  const said = await must("gdb", ["-nx", "-batch", "-x", script, command], { environment });
  if (!said.includes("exited normally")) throw new Error(`gdb on ${file}: the program did not end\n${said}`);
  const row = new RegExp(`^stap +${provider} +(\\w+) +0x([0-9a-f]+) +(?:0x([0-9a-f]+) +)?${file} *$`, "gm");
  return {
    listed: [...said.matchAll(row)].map(([, name, where, semaphore]) => ({
      name: name!,
      where: BigInt(`0x${where}`),
      semaphore: semaphore === undefined ? null : BigInt(`0x${semaphore}`),
    })),
    hits: [...said.matchAll(/^hit (.*)$/gm)].map(([, hit]) => hit!).sort(),
    output: `${/^witness .*$/m.exec(said)?.[0]}\n`,
  };
}
