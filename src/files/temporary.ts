/**
 * A file under a temporary name, which goes away whatever happens: an error, SIGINT, SIGTERM, SIGHUP.
 *
 * It is created in the directory where it will be renamed, since a rename replaces a file at once only within one file
 * system. O_EXCL and mode 0600: nobody else's file is opened, and nobody else opens it before it is complete.
 */
import { randomBytes } from "node:crypto";
import { unlinkSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";

interface TemporaryFile {
  readonly path: string;
  readonly handle: FileHandle;
  /** To be called once the file has been renamed: there is nothing left to remove. */
  renamed(): void;
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Creates a temporary file in `directory` and removes it again when `use` is done, unless it was renamed.
 * @throws whatever `use` throws, and the system's own errors
 */
export async function withTemporaryFile<T>(directory: string, use: (file: TemporaryFile) => Promise<T>): Promise<T> {
  const path = join(directory, `.usdt-nop5-${randomBytes(6).toString("hex")}`);
  let pending = true;
  const remove = (): void => {
    if (!pending) return;
    pending = false;
    try {
      unlinkSync(path);
    } catch {
      // It was never created, or someone was quicker. There is nobody to tell.
    }
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    remove();
    for (const s of SIGNALS) process.off(s, onSignal);
    // Die by the signal, as the caller's shell expects.
    process.kill(process.pid, signal);
  };
  for (const s of SIGNALS) process.on(s, onSignal);
  process.on("exit", remove);
  try {
    const handle = await open(path, "wx", 0o600);
    try {
      const renamed = (): void => {
        pending = false;
      };
      return await use({ path, handle, renamed });
    } finally {
      await handle.close();
    }
  } finally {
    remove();
    // A signal that came during the last steps is delivered before we stop listening.
    await new Promise((resolve) => setImmediate(resolve));
    for (const s of SIGNALS) process.off(s, onSignal);
    process.off("exit", remove);
  }
}
