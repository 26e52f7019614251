/** Runs the driver with a script. Where the script waits, the test's own steps are taken, one after the other. */
import { spawn } from "node:child_process";

export type Mode = "none" | "guard" | "int3" | "first" | "manual";

export interface Run {
  readonly lines: readonly string[];
  readonly status: number | null;
}

/**
 * @param steps what to do at each `w` of the script; they are given the driver's pid
 * @param wrapper a command that runs the driver, such as strace with its options
 */
export function drive(
  path: string,
  mode: Mode,
  script: string,
  steps: readonly ((pid: number) => unknown)[] = [],
  wrapper: readonly string[] = [],
): Promise<Run> {
  const [command, ...args] = [...wrapper, path, mode, script];
  const child = spawn(command!, args, { stdio: ["pipe", "pipe", "inherit"], timeout: 60_000, killSignal: "SIGKILL" });
  const lines: string[] = [];
  let text = "";
  let step = 0;
  return new Promise((resolve, reject) => {
    const answer = async (): Promise<void> => {
      await steps[step++]?.(child.pid!);
      child.stdin.write("\n");
    };
    child.stdin.on("error", () => {}); // a process that was killed does not read
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        if (line === "wait") answer().catch(reject);
        else lines.push(line);
      }
    });
    child.once("error", reject);
    child.once("close", (status) => resolve({ lines, status }));
  });
}
