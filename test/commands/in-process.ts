/** Runs the command line in this process, which is quicker than starting one, and collects what it prints. */
import { main } from "../../src/commands/main.js";

export interface Printed {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function usdtNop5(...argv: string[]): Promise<Printed> {
  const texts = { stdout: "", stderr: "" };
  const collector = (name: "stdout" | "stderr") => ({
    write(text: string, done: (error?: Error | null) => void): void {
      texts[name] += text;
      done();
    },
  });
  const status = await main(argv, { stdout: collector("stdout"), stderr: collector("stderr") });
  return { status, ...texts };
}
