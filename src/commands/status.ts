/** `usdt-nop5 status`: what the probes of running processes are now. It reads /proc, and disturbs nobody. */
import { FileError } from "../files/file-error.js";
import { allProcesses, type ProcessState, StatusReader } from "../live/status.js";
import { statusDocument, statusText } from "../report/status.js";
import { document, makeStyle } from "../report/text.js";
import { complain, complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface StatusOptions {
  readonly pid?: readonly number[];
  readonly all?: boolean;
  readonly json?: boolean;
}

/**
 * Looks at processes: those that were named, or all.
 * @returns the exit status: 1 where one that was named does not exist or cannot be looked at
 */
export async function status({ pid: named, json }: StatusOptions, streams: Streams): Promise<number> {
  const reader = new StatusReader();
  const seen: ProcessState[] = [];
  let failed = false;
  for (const pid of named ?? allProcesses()) {
    try {
      const state = await reader.look(pid);
      if (named === undefined) seen.push(...(state === null ? [] : [state]));
      else seen.push(mustBeSeen(pid, state));
    } catch (error) {
      await complainAbout(streams, `process ${pid}`, error);
      failed = true;
    }
  }
  const shown = seen.filter(({ files, reason }) => named !== undefined || files.length > 0 || reason !== null);
  if (json) await print(streams, document(statusDocument(shown)));
  else await printText(shown, named !== undefined, streams);
  return failed ? 1 : 0;
}

function mustBeSeen(pid: number, state: ProcessState | null): ProcessState {
  if (state === null) throw new FileError(`process ${pid}`, "no such process");
  if (state.reason !== null) throw new FileError(`process ${pid}`, state.reason);
  return state;
}

async function printText(processes: readonly ProcessState[], isNamed: boolean, streams: Streams): Promise<void> {
  const style = makeStyle(wantsColours(streams.stdout));
  const readable = processes.filter(({ reason }) => reason === null);
  for (const process of readable) await print(streams, statusText(process, style, isNamed));
  const hidden = processes.find(({ reason }) => reason !== null);
  if (hidden !== undefined) {
    const hiddenCount = processes.length - readable.length;
    const many = hiddenCount === 1 ? "1 process" : `${hiddenCount} processes`;
    await complain(streams, `nothing is known of ${many}: ${hidden.reason}`);
  }
  if (processes.length === 0 && !isNamed) await complain(streams, "no process has mapped a file with USDT probes");
}
