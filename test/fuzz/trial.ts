/**
 * What becomes of a mutant. Each command is done with it or refuses it in a line of ours. Where it is rewritten, the output
 * can be listed, `verify` finds nothing in it, it reverts to the mutant byte for byte, and where the mutant runs as the
 * program did that was damaged, so does the output. Everything else is a fault of this program.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Broken, Commands, type Said, type Tell } from "./commands.js";
import type { Runner } from "./native.js";
import { generator } from "./random.js";

/** By command, and of what it was asked about ("rewrite", "verify of the output"), what came of it. */
export type Outcomes = Readonly<Record<string, string>>;

export interface Judged {
  readonly outcomes: Outcomes;
  /** What is wrong with this program. */
  readonly fault: string | null;
}

export interface Tried {
  readonly seed: number;
  readonly bytes: Buffer;
  /** What the program did before it was damaged; null where it is not run. */
  readonly behaviour: string | null;
}

/** Options that come by chance: what most people take most often. */
const WAYS: readonly (readonly string[])[] = [
  [],
  [],
  [],
  ["--layout", "nop5"],
  ["--layout", "nop,nop5"],
  ["--layout", "nop,nop10"],
  ["--kernel", "7.2"],
  ["--no-fork-guard"],
  ["--no-fork-guard", "--layout", "nop5"],
  ["--keep-offsets", "--new-build-id"],
  ["--table-at-end"],
];

/** The model is explored in part: all of it takes seconds a probe, and files are what is damaged here. */
const EMULATED = ["--threads", "1", "--random", "1", "--steps", "400"];

const MUTANT = "mutant";
const OUTPUT = "output";
const BACK = "back";

export class Trial {
  private readonly commands: Commands;

  /** @param runner null to run nothing natively */
  constructor(
    folder: string,
    private readonly runner: Runner | null,
    private readonly tell: Tell = () => {},
  ) {
    mkdirSync(folder, { recursive: true });
    this.commands = new Commands(folder, tell);
  }

  async judge({ seed, bytes, behaviour }: Tried): Promise<Judged> {
    const outcomes: Record<string, string> = {};
    for (const name of [MUTANT, OUTPUT, BACK]) rmSync(this.commands.path(name), { force: true });
    writeFileSync(this.commands.path(MUTANT), bytes, { mode: 0o755 });
    let fault: string | null = null;
    try {
      fault = await this.all(seed, bytes, behaviour, outcomes);
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      fault = error.message;
    }
    return { outcomes, fault };
  }

  private async all(
    seed: number,
    bytes: Buffer,
    behaviour: string | null,
    outcomes: Record<string, string>,
  ): Promise<string | null> {
    const next = generator(-1 - seed);
    const { path } = { path: (name: string) => this.commands.path(name) };
    const did = async (name: string, args: readonly string[], output?: string): Promise<Said> => {
      outcomes[name] = "fault";
      const said = await this.commands.run([...args, "--json"], output);
      outcomes[name] = said.outcome;
      if (!readFileSync(path(MUTANT)).equals(bytes)) throw new Broken(`${name} changed its input`);
      return said;
    };
    const listed = await did("list", ["list", path(MUTANT)]);
    const site = drawSite(listed, next);
    await did("verify", ["verify", path(MUTANT)]);
    await did("emulate", ["emulate", path(MUTANT), "--site", site, ...EMULATED]);
    const reverted = await did("revert", ["revert", path(MUTANT), "-o", path(BACK)], BACK);
    const carried = reverted.outcome === "done" ? readFileSync(path(BACK)) : null;
    rmSync(path(BACK), { force: true });

    const way = WAYS[next(WAYS.length)]!;
    const { outcome } = await did("rewrite", ["rewrite", path(MUTANT), "-o", path(OUTPUT), ...way], OUTPUT);
    if (outcome !== "done") return null;
    if (readFileSync(path(OUTPUT)).equals(bytes)) {
      outcomes.rewrite = "nothing to do";
      return null;
    }
    return this.output({ bytes, carried, behaviour, site }, outcomes, did);
  }

  /** Holds what was written to what is promised of it. */
  private async output(
    input: {
      readonly bytes: Buffer;
      readonly carried: Buffer | null;
      readonly behaviour: string | null;
      readonly site: string;
    },
    outcomes: Record<string, string>,
    did: (name: string, args: readonly string[], output?: string) => Promise<Said>,
  ): Promise<string | null> {
    const path = (name: string): string => this.commands.path(name);
    const fault = (name: string, what: string): string => {
      outcomes[name] = "fault";
      return `${name}: ${what}`;
    };
    // A file that was rewritten with other options is rewritten from the original that it carries, which may be the output.
    const originals = [input.bytes, ...(input.carried === null ? [] : [input.carried])];
    if (input.carried?.equals(readFileSync(path(OUTPUT)))) return null;
    const listed = await did("list of the output", ["list", path(OUTPUT)]);
    // What a list has against a file has nothing to do with probes, if that is rewritten.
    if (listed.outcome !== "done" && outcomes.list === "done") return fault("list of the output", listed.stderr.trim());
    const reverted = await did("revert of the output", ["revert", path(OUTPUT), "-o", path(BACK)], BACK);
    if (reverted.outcome !== "done") return fault("revert of the output", reverted.stderr.trim());
    const back = readFileSync(path(BACK));
    if (!originals.some((original) => original.equals(back)))
      return fault("revert of the output", "leads to something else");
    const verified = await did("verify of the output", ["verify", path(OUTPUT)]);
    if (verified.outcome !== "done") return fault("verify of the output", complaint(verified));
    await did("emulate of the output", ["emulate", path(OUTPUT), "--site", input.site, ...EMULATED]);
    return this.runs(input.behaviour, outcomes, fault);
  }

  private runs(
    behaviour: string | null,
    outcomes: Record<string, string>,
    fault: (name: string, what: string) => string,
  ): string | null {
    if (this.runner === null || behaviour === null) return null;
    this.tell("the mutant itself");
    const damaged = this.runner(this.commands.path(MUTANT));
    if (damaged !== behaviour) {
      outcomes["native run"] = "the mutant itself is broken";
      return null;
    }
    this.tell("the output itself");
    const rewritten = this.runner(this.commands.path(OUTPUT));
    if (rewritten !== behaviour)
      return fault("native run", `${JSON.stringify(rewritten)}, not ${JSON.stringify(behaviour)}`);
    outcomes["native run"] = "same";
    return null;
  }
}

/** A probe that is listed and can be asked for by its name; else any. */
function drawSite({ outcome, stdout }: Said, next: (below: number) => number): string {
  if (outcome !== "done") return "*:*";
  const { files } = JSON.parse(stdout) as {
    files: readonly { sites: readonly { provider: string; name: string }[] }[];
  };
  const sites = (files[0]?.sites ?? []).filter(({ provider, name }) => /^\w+$/.test(provider) && /^\w+$/.test(name));
  if (sites.length === 0) return "*:*";
  const { provider, name } = sites[next(sites.length)]!;
  return `${provider}:${name}`;
}

/** What `verify` has against an output of ours. */
function complaint({ stdout, stderr }: Said): string {
  if (stdout === "") return stderr.trim();
  const { sites, findings } = JSON.parse(stdout) as {
    sites: readonly { name: string; verdict: string; reason: string | null }[];
    findings: readonly { where: string; what: string }[];
  };
  const said = [
    ...sites.filter(({ verdict }) => verdict === "different").map(({ name, reason }) => `${name}: ${reason}`),
    ...findings.map(({ where, what }) => `${where}: ${what}`),
  ];
  return `finds ${said.length}: ${said[0]}`;
}
