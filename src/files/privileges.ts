/**
 * Whether a file gives whoever runs it more rights: the setuid and setgid bits, or file capabilities.
 *
 * Node cannot read extended attributes, where capabilities live; getcap of libcap2-bin can, which Debian installs
 * unless told otherwise. Where it is missing, capabilities stay unseen.
 */
import { execFile } from "node:child_process";

const SETUID = 0o4000;
const SETGID = 0o2000;

/**
 * What the file gives, in words, or undefined where it gives nothing that can be seen. `mode` is st_mode. Never
 * rejects, so it can be asked for before the work and awaited after it.
 */
export async function privilegesOf(path: string, mode: number): Promise<string | undefined> {
  const found = [
    ...(mode & SETUID ? ["setuid"] : []),
    ...(mode & SETGID ? ["setgid"] : []),
    ...((await hasCapabilities(path)) ? ["file capabilities"] : []),
  ];
  return found.length === 0 ? undefined : found.join(", ");
}

function hasCapabilities(path: string): Promise<boolean> {
  // getcap lives in /sbin, which is not on everybody's PATH; a path that begins with a dash must not be an option.
  const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
  const file = path.startsWith("-") ? `./${path}` : path;
  return new Promise((resolve) => {
    execFile("getcap", [file], { env, timeout: 5000 }, (error, stdout) => {
      resolve(error === null && stdout.trim() !== "");
    });
  });
}
