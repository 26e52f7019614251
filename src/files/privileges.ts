/**
 * Whether a file gives whoever runs it more rights: the setuid and setgid bits, or file capabilities.
 *
 * Node cannot read extended attributes, where capabilities live; getcap of libcap2-bin can, which Debian installs unless
 * told otherwise. Where it is missing, capabilities stay unseen.
 */
import { spawnSync } from "node:child_process";

const SETUID = 0o4000;
const SETGID = 0o2000;

/** What the file gives, in words, or undefined where it gives nothing that can be seen. `mode` is st_mode. */
export function privilegesOf(path: string, mode: number): string | undefined {
  const found = [
    ...(mode & SETUID ? ["setuid"] : []),
    ...(mode & SETGID ? ["setgid"] : []),
    ...(hasCapabilities(path) ? ["file capabilities"] : []),
  ];
  return found.length === 0 ? undefined : found.join(", ");
}

function hasCapabilities(path: string): boolean {
  // getcap lives in /sbin, which is not on everybody's PATH; a path that begins with a dash must not be an option.
  const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
  const file = path.startsWith("-") ? `./${path}` : path;
  const { stdout, status } = spawnSync("getcap", [file], { env, encoding: "utf8", timeout: 5000 });
  return status === 0 && stdout.trim() !== "";
}
