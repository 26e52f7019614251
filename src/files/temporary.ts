/**
 * A file under a temporary name, which goes away whatever happens: an error, or a signal that ends the process.
 *
 * It is created where it will be renamed, since a rename replaces a file at once only within one file system, in a
 * folder of its own that only the caller may enter: the owner of the place around it can rename that folder, and can
 * neither open nor replace what is in it. It is complete before anybody else sees it.
 *
 * Names are made and removed by calls that nothing comes between, so that a signal finds either none of it or all.
 */
import { randomBytes } from "node:crypto";
import { closeSync, constants, fstatSync, mkdirSync, openSync, renameSync, rmdirSync, unlinkSync } from "node:fs";
import { inside, openDirectory } from "./descriptors.js";
import { FileError } from "./file-error.js";

interface TemporaryFile {
  readonly fd: number;
  /** Puts it in the place of whatever has that name in the directory. @throws the system's errors */
  rename(name: Buffer): void;
}

/** What ends a process, as far as it can be heard of: by users, by limits, by whoever waits no longer. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGXCPU", "SIGUSR2"] as const;
/** A file that grows beyond the limit is an error of the call, where the signal for it is heard. */
const LIMIT = "SIGXFSZ";
const NAME = "new";

/**
 * Creates a temporary file in the open directory and removes it again when `use` is done, unless it was renamed.
 * @param mode as for open(2): what the umask leaves of it
 * @throws whatever `use` throws, and the system's own errors
 */
export async function withTemporaryFile<T>(
  directory: number,
  mode: number,
  use: (file: TemporaryFile) => Promise<T>,
): Promise<T> {
  const made = new Made(directory);
  const onSignal = (signal: NodeJS.Signals): void => {
    made.remove();
    for (const s of SIGNALS) process.off(s, onSignal);
    // Die by the signal, as the caller's shell expects.
    process.kill(process.pid, signal);
  };
  const ignore = (): void => {};
  const onExit = (): void => made.remove();
  for (const s of SIGNALS) process.on(s, onSignal);
  process.on(LIMIT, ignore);
  process.on("exit", onExit);
  try {
    return await use(made.create(mode));
  } finally {
    made.remove();
    // A signal that came during the last steps is delivered before we stop listening.
    await new Promise((resolve) => setImmediate(resolve));
    for (const s of SIGNALS) process.off(s, onSignal);
    process.off(LIMIT, ignore);
    process.off("exit", onExit);
  }
}

/** The folder and the file in it. */
class Made {
  readonly #name = `.usdt-nop5-${randomBytes(6).toString("hex")}`;
  #folder: number | undefined;
  #fd: number | undefined;
  #isRenamed = false;

  constructor(private readonly directory: number) {}

  create(mode: number): TemporaryFile {
    const path = inside(this.directory, this.#name);
    mkdirSync(path, 0o700);
    try {
      this.#folder = openDirectory(path, false);
    } catch (error) {
      again(() => rmdirSync(path));
      throw error;
    }
    const folder = this.#folder;
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(inside(folder, NAME), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
    this.#fd = fd;
    const [outside, own] = [fstatSync(folder), fstatSync(fd)];
    if (outside.uid !== own.uid || (outside.mode & 0o077) !== 0)
      throw new FileError(this.#name, "was replaced while it was made: somebody else is at work in its directory");
    return { fd, rename: (name) => this.#rename(folder, name) };
  }

  #rename(folder: number, name: Buffer): void {
    renameSync(inside(folder, NAME), inside(this.directory, name));
    this.#isRenamed = true;
  }

  /** What fails here was never made, or somebody was quicker. There is nobody to tell. */
  remove(): void {
    const [folder, fd] = [this.#folder, this.#fd];
    this.#folder = undefined;
    this.#fd = undefined;
    if (fd !== undefined) quietly(() => closeSync(fd));
    if (folder === undefined) return;
    if (!this.#isRenamed) again(() => unlinkSync(inside(folder, NAME)));
    again(() => rmdirSync(inside(this.directory, this.#name)));
    quietly(() => closeSync(folder));
  }
}

/** Quietly, and once more where it fails: what was interrupted, or ran into a limit for a moment, should not stay. */
function again(action: () => void): void {
  try {
    action();
  } catch {
    quietly(action);
  }
}

function quietly(action: () => void): void {
  try {
    action();
  } catch {
    // as `remove` says
  }
}
