/**
 * The commands as their users have them, run in this process on files in a folder of their own, and held to what each of
 * them promises of any file: it is done, or one line says why not; nothing else is left in the folder.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { main } from "../../src/commands/main.js";

/** done: exit 0. refused: exit 1, in one line of ours. denied: exit 3, what is asked does not hold. */
export type Outcome = "done" | "refused" | "denied";

export interface Said {
  readonly outcome: Outcome;
  readonly stdout: string;
  readonly stderr: string;
}

/** What no command may do, whatever the file. */
export class Broken extends Error {
  override readonly name = "Broken";
}

/** Told before each command, so that whoever watches from outside knows which one takes so long. */
export type Tell = (command: string) => void;

export class Commands {
  /** @param folder holds the files, and nothing that is not known to be there */
  constructor(
    readonly folder: string,
    private readonly tell: Tell,
  ) {}

  path(name: string): string {
    return join(this.folder, name);
  }

  /**
   * @param output the file that the command is to write, and must not where it is not done
   * @throws Broken
   */
  async run(args: readonly string[], output?: string): Promise<Said> {
    const [command] = args;
    this.tell(command!);
    const before = new Set(readdirSync(this.folder));
    const said = await collected(args);
    const left = readdirSync(this.folder).filter((name) => !before.has(name) && name !== output);
    if (left.length > 0) throw new Broken(`${command} left ${left.join(", ")} behind`);
    const wrong = wrongIn(said, output !== undefined && existsSync(this.path(output)), output);
    if (wrong !== undefined) throw new Broken(`${command}: ${wrong}`);
    const { stdout, stderr } = said;
    return { outcome: said.status === 0 ? "done" : said.status === 1 ? "refused" : "denied", stdout, stderr };
  }
}

interface Collected {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function collected(args: readonly string[]): Promise<Collected> {
  const texts = { stdout: "", stderr: "" };
  const collector = (name: "stdout" | "stderr") => ({
    write(text: string, done: (error?: Error | null) => void): void {
      texts[name] += text;
      done();
    },
  });
  const status = await main(args, { stdout: collector("stdout"), stderr: collector("stderr") });
  return { status, ...texts };
}

function wrongIn({ status, stdout, stderr }: Collected, isWritten: boolean, output?: string): string | undefined {
  const lines = stderr.split("\n").slice(0, -1);
  if (stderr !== "" && !stderr.endsWith("\n")) return `an error line has no end: ${stderr}`;
  if (stderr.includes("a defect in usdt-nop5")) return stderr.trim();
  const foreign = lines.find((line) => !line.startsWith("usdt-nop5: ") || hasControl(line));
  if (foreign !== undefined) return `not a line of ours: ${JSON.stringify(foreign)}`;
  if (status === 1) {
    if (lines.length !== 1) return `${lines.length} error lines`;
    if (isWritten) return `exit 1, and ${output} is written`;
    return stdout === "" || isDocument(stdout) ? undefined : "exit 1, and something on standard output";
  }
  if (status !== 0 && status !== 3) return `exit ${status}: ${stderr}`;
  if (status === 0 && output !== undefined && !isWritten) return `exit 0, and ${output} is not written`;
  return isDocument(stdout) ? undefined : `no document: ${stdout.slice(0, 200)}`;
}

const hasControl = (line: string): boolean => /[\p{Cc}\p{Cf}]/u.test(line);

function isDocument(text: string): boolean {
  try {
    return (JSON.parse(text) as { schemaVersion?: unknown }).schemaVersion === 1;
  } catch {
    return false;
  }
}
