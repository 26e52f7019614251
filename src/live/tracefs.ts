/**
 * tracefs: the folder through which Linux is told of uprobes without a system call that Node lacks.
 *
 * Every tracer mounts it where it is not yet, and leaves it mounted, since others may have begun to use it. So do we.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { InputError } from "../errors.js";

const PLACES = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] as const;

interface Tracefs {
  /** The folder with uprobe_events, or null. */
  readonly path: string | null;
  /** For people: where it is, or why it cannot be used. */
  readonly detail: string;
}

const mounted = (): string | undefined => PLACES.find((path) => existsSync(`${path}/uprobe_events`));

/** Finds tracefs, and mounts it where that is possible and nobody has. */
export function findTracefs(): Tracefs {
  let path = mounted();
  let how = "mounted";
  if (path === undefined && process.getuid?.() === 0 && existsSync(PLACES[0])) {
    spawnSync("mount", ["-t", "tracefs", "tracefs", PLACES[0]], { stdio: "ignore", timeout: 10_000 });
    path = mounted();
    how = "mounted now";
  }
  if (path !== undefined) {
    try {
      accessSync(`${path}/uprobe_events`, constants.W_OK);
      return { path, detail: `${how} at ${path}` };
    } catch {
      return { path: null, detail: `${path}/uprobe_events cannot be written to: uprobes need root` };
    }
  }
  if (process.getuid?.() !== 0) return { path: null, detail: "tracefs is not visible: uprobes need root" };
  const reason = existsSync(PLACES[0])
    ? "tracefs cannot be mounted, or the kernel has no uprobe_events"
    : "the kernel has no tracefs";
  return { path: null, detail: reason };
}

/** The folder. @throws InputError where uprobes cannot be used */
export function requireTracefs(): string {
  const { path, detail } = findTracefs();
  if (path === null) throw new InputError(detail);
  return path;
}
