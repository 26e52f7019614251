/**
 * `usdt-nop5 live -- COMMAND ARGS...`: the command under real uprobes, and what came of them.
 *
 * Signals: what reaches the tool alone is handed on to the command; what reached the whole process group, as Ctrl-C
 * does, has reached the command already. The tool itself goes on until the command has ended, and then cleans up and
 * reports.
 */
import { release } from "node:os";
import { InputError } from "../errors.js";
import type { LongNop } from "../kernel/kernels.js";
import { findExecutable } from "../live/executable.js";
import { type LiveResult, traceCommand } from "../live/live.js";
import { runningKernel } from "../live/running-kernel.js";
import { readTracedFile, type TracedFile } from "../live/traced-file.js";
import { requireTracefs } from "../live/tracefs.js";
import type { Running } from "../live/watch.js";
import { liveDocument, liveText } from "../report/live.js";
import { count, document, makeStyle } from "../report/text.js";
import { complain, complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface LiveOptions {
  readonly json?: boolean;
  readonly file?: readonly string[];
  readonly behind?: LongNop;
}

const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
/**
 * A signal to a group reaches its processes one after the other: so long we wait before we ask whether it did, in ms.
 */
const GROUP_DELAY = 20;
const [STDIN, STDOUT, STDERR] = [0, 1, 2];

/**
 * Runs a command and reports; how the command ends is part of the report and not of the exit status.
 * @returns the exit status
 */
export async function live(command: readonly string[], options: LiveOptions, streams: Streams): Promise<number> {
  const [name, ...args] = command as [string, ...string[]];
  const signals = new ForwardedSignals();
  let subject = name;
  try {
    const tracefs = requireTracefs();
    const executable = findExecutable(name, args);
    const files: TracedFile[] = [];
    const { behind } = options;
    const tracing = { kernel: runningKernel(), ...(behind === undefined ? {} : { behind }) };
    for (const path of options.file ?? []) {
      subject = path;
      files.push(readTracedFile(path, tracing));
    }
    subject = executable.binary;
    try {
      files.unshift(readTracedFile(executable.binary, tracing));
    } catch (error) {
      // With files to trace the command itself may be anything.
      if (files.length === 0 || !(error instanceof InputError)) throw error;
    }
    subject = name;
    if (files.every((file) => file.sites.length === 0))
      await complain(streams, `${files.map((file) => file.path).join(", ")}: no USDT probes, nothing to trace`);
    const stdio = [STDIN, options.json ? STDERR : STDOUT, STDERR] as const;
    const result = await traceCommand(tracefs, { ...executable, stdio }, files, (running) => signals.goTo(running));
    await warn(result, streams);
    const text = options.json
      ? document(liveDocument(release(), result))
      : liveText({ kernel: release(), result }, makeStyle(wantsColours(streams.stdout)));
    await print(streams, text);
    return 0;
  } catch (error) {
    await complainAbout(streams, subject, error);
    return 1;
  } finally {
    signals.stop();
  }
}

async function warn(result: LiveResult, streams: Streams): Promise<void> {
  const refused = result.sites.filter((site) => site.untraced !== null);
  for (const site of refused)
    await complain(streams, `${site.file}: ${site.provider}:${site.name} is not traced: ${site.untraced}`);
  const unseen = result.sites.filter((site) => site.hits > 0 && site.bytes === null).length;
  if (unseen > 0) {
    const execs = result.execs > 0 ? `; processes went on as another program ${count(result.execs, "time")}` : "";
    const what = unseen === 1 ? "1 probe that was hit was" : `${unseen} probes that were hit were`;
    await complain(streams, `${what} not seen in any process that ended${execs}: whether optimized is not known`);
  }
}

/** Takes the signals that would end the tool, from the first moment on, and hands them on. */
class ForwardedSignals {
  #running: Running | undefined;
  readonly #early: NodeJS.Signals[] = [];
  readonly #listener = (signal: NodeJS.Signals): void => {
    const running = this.#running;
    if (running === undefined) this.#early.push(signal);
    else
      setTimeout(() => {
        if (!running.reachedAll(signal)) running.kill(signal);
      }, GROUP_DELAY);
  };

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.#listener);
  }

  goTo(running: Running): void {
    this.#running = running;
    for (const signal of this.#early.splice(0)) running.kill(signal);
  }

  stop(): void {
    for (const signal of FORWARDED) process.off(signal, this.#listener);
  }
}
