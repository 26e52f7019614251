/** Carries steps out in the model, as far as the model lets them: a violation ends the run. */
import type { Program } from "../../../src/patching/programs.js";
import { Rehearsal } from "../../../src/patching/rehearsal.js";
import type { Setup } from "../../../src/patching/setup.js";
import { iced } from "../../../src/x86/iced.js";
import { hexBytes } from "./live.js";
import type { Observation, Outcome, Performer, SpaceSeen, Step } from "./observation.js";

/** Violations under which a program goes on and computes something else. */
const WRONG_RESULTS = ["red-zone", "registers", "stack", "next-instruction"];
/**
 * Bytes that nobody has written there together, and that are instructions all the same: what becomes of it is not
 * foretold.
 */
export const TORN = "runs a mixture of instructions";
const RETURNS = "kernel: calls the consumer for the return";

/** Whether a CPU that runs on in these bytes comes to what is no instruction. */
function isInvalid(bytes: Uint8Array): boolean {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  try {
    while (decoder.canDecode) {
      decoder.decode().free();
      if (decoder.lastError === iced.DecoderError.InvalidInstruction) return true;
    }
    return false;
  } finally {
    decoder.free();
  }
}

export class RehearsedRun implements Performer {
  private readonly run: Rehearsal;
  private hasChild = false;

  constructor(
    private readonly setup: Setup,
    private readonly threads: number,
    steps: readonly Step[],
  ) {
    const toggles = steps.filter((step) => step.do === "attach").length + 1;
    // By the attachment that it happens in.
    const joins = steps.flatMap((step, i) =>
      step.do === "join" ? [steps.slice(0, i).filter((before) => before.do === "attach").length - 1] : [],
    );
    this.run = new Rehearsal(setup, { threads, toggles, joins, signals: 0 });
  }

  perform(step: Step): Outcome {
    const { run } = this;
    switch (step.do) {
      case "attach":
        run.attach();
        break;
      case "detach":
        run.detach();
        break;
      case "join":
        run.join();
        break;
      case "act":
        run.act(step.who === "program" ? 0 : this.threads, step.act);
        break;
      case "pass":
        for (let i = 0; i < step.times; i++) run.runTo(step.thread, this.isForking ? "jne loop" : "jmp loop");
        break;
      case "fork":
        this.fork();
        break;
      case "child":
        if (this.forks === "vfork") {
          run.runTo(this.threads, "exits");
          run.runTo(0, "jne loop");
        } else for (let i = 0; i < step.times; i++) run.runTo(this.threads, "jmp childloop");
        break;
    }
    return this.outcome();
  }

  observe(): Pick<Observation, "hits" | "returns" | "spaces"> {
    const { run } = this;
    const outcome = this.outcome();
    const hasDied = outcome !== "right" && outcome !== "wrong";
    const childDied = hasDied && run.steps.at(-1)?.actor === this.threads;
    const spaces = [hasDied && !childDied ? null : this.look(0)];
    if (this.forks === "fork") spaces.push(this.hasChild && !childDied ? this.look(1) : null);
    return { hits: run.hits, returns: run.steps.filter(({ label }) => label === RETURNS).length, spaces };
  }

  private get forks(): Program["forks"] {
    return this.setup.program.forks;
  }

  private get isForking(): boolean {
    return this.forks !== null;
  }

  private fork(): void {
    const { run } = this;
    run.mayFork = true;
    run.runTo(0, this.forks === "fork" ? "kernel: forks" : "kernel: vforks");
    run.mayFork = false;
    this.hasChild = true;
    if (this.forks === "fork") run.runTo(0, "jne loop");
  }

  private outcome(): Outcome {
    const { violation } = this.run;
    if (violation === null) return "right";
    if (violation.property === "torn-instruction") return isInvalid(this.run.steps.at(-1)!.bytes!) ? "SIGILL" : TORN;
    if (WRONG_RESULTS.includes(violation.property)) return "wrong";
    const signal = /\bSIG[A-Z]+/.exec(violation.message)?.[0];
    return signal ?? `${violation.property}: ${violation.message}`;
  }

  private look(space: number): SpaceSeen {
    const { run, setup } = this;
    return {
      sites: setup.sites.map((_, site) => hexBytes(run.bytes(site, space))),
      trampolines: [...run.trampolines(space)].sort((a, b) => a - b).map((address) => `0x${address.toString(16)}`),
      semaphore: setup.program.semaphore === null ? null : run.semaphore(space),
    };
  }
}
