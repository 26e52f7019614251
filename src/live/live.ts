/**
 * A command with a real uprobe on every probe of some files: attach, run, look at each process as it ends, count,
 * detach.
 *
 * The uprobes are there before the command starts, so nothing that it does is missed. The hits are the kernel's own
 * count.
 */
import { lookAt, Witness } from "./memory.js";
import { distinctFiles, type TracedFile, type TracedSite } from "./traced-file.js";
import { attachUprobes } from "./uprobes.js";
import { type Command, type Ending, type Running, watch } from "./watch.js";

export interface LiveSite extends TracedSite {
  readonly file: string;
  /** How often it was passed, by whomever. */
  readonly hits: number;
  /** Whether the kernel had turned it into a call in a process that was looked at. */
  readonly optimized: boolean;
  /** What was seen there, in hexadecimal; null where no process was. */
  readonly bytes: string | null;
  /** Why there is no uprobe on it, or null. */
  readonly untraced: string | null;
}

export interface LiveResult extends Ending {
  readonly sites: readonly LiveSite[];
}

/**
 * Runs a command under uprobes.
 * @param started gets the running command, to send it signals
 * @throws InputError where it cannot be run or traced; then nothing is left attached
 */
export async function traceCommand(
  tracefs: string,
  command: Command,
  traced: readonly TracedFile[],
  started: (running: Running) => void = () => {},
): Promise<LiveResult> {
  const files = distinctFiles(traced);
  const witnesses = files.map((file) => new Witness(file));
  const looking = witnesses.filter((_, i) => files[i]!.places.length > 0);
  const uprobes = attachUprobes(
    tracefs,
    files.flatMap((file) => file.places),
  );
  try {
    const running = watch(command, (thread) => lookAt(thread, looking));
    started(running);
    const ending = await running.ended;
    const hits = uprobes.hits();
    const sites: LiveSite[] = [];
    let first = 0;
    for (const [i, file] of files.entries()) {
      for (const site of file.sites) {
        const place = site.place === null ? null : first + site.place;
        sites.push({
          ...site,
          file: file.path,
          hits: place === null ? 0 : (hits[place] ?? 0),
          ...(site.place === null ? { optimized: false, bytes: null } : witnesses[i]!.at(site.place)),
          untraced: place === null ? site.obstacle : (uprobes.refused.get(place) ?? null),
        });
      }
      first += file.places.length;
    }
    return { ...ending, sites };
  } finally {
    uprobes.detach();
  }
}
