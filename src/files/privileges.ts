/**
 * What an input has beyond its content and the rights to read, write and run it: privileges for whoever runs it,
 * an access control list, extended attributes.
 *
 * Node cannot read extended attributes, which file capabilities and lists are as well; getfattr can, by a descriptor.
 * Where it is missing getcap may be there, which wants a path. Where both are, capabilities stay unseen.
 */
import { spawn } from "node:child_process";
import { pathOf, placeOf } from "./descriptors.js";
import type { OpenInput } from "./input.js";

const SETUID = 0o4000;
const SETGID = 0o2000;
const STICKY = 0o1000;
const CAPABILITIES = "security.capability";
const LIST = "system.posix_acl_access";
/** Labels that the system gives by itself. */
const LABELS = /^security\.(?:selinux|ima|evm|SMACK64\w*)$/;

/** What was seen of an input. */
export interface Extras {
  /** The rights that it gives to whoever runs it, in words. */
  readonly privileges: readonly string[];
  /** All that a new file does not get, in words. */
  readonly notForNew: readonly string[];
}

/** Never rejects, so it can be asked for before the work and awaited after it. */
export async function extrasOf(input: OpenInput): Promise<Extras> {
  const attributes = await extendedAttributes(input);
  const mode = Number(input.stat.mode);
  const capabilities = attributes.includes(CAPABILITIES) ? ["file capabilities"] : [];
  const setId = [...(mode & SETUID ? ["setuid"] : []), ...(mode & SETGID ? ["setgid"] : [])];
  const others = attributes.filter((name) => name !== CAPABILITIES && name !== LIST && !LABELS.test(name));
  return {
    privileges: [...setId, ...capabilities],
    notForNew: [
      ...setId,
      ...(mode & STICKY ? ["the sticky bit"] : []),
      ...capabilities,
      ...(attributes.includes(LIST) ? ["the access control list"] : []),
      ...(others.length > 0 ? [`extended attributes (${others.join(", ")})`] : []),
    ],
  };
}

/** The names of an input's extended attributes, as far as somebody can read them here. */
async function extendedAttributes({ fd }: OpenInput): Promise<string[]> {
  const listed = await output("getfattr", ["--absolute-names", "-m", "-", "--", pathOf(HANDED_OVER)], fd);
  if (listed !== undefined) return listed.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const capabilities = await output("getcap", [placeOf(fd).toString()], fd);
  return capabilities?.trim() ? [CAPABILITIES] : [];
}

/** The number under which a child finds the input. */
const HANDED_OVER = 3;
const TIMEOUT = 5000;

/** What a command prints, or undefined where it fails or is missing. */
function output(command: string, args: readonly string[], fd: number): Promise<string | undefined> {
  // These tools live in /sbin in some systems, which is not on everybody's PATH.
  const env = { ...process.env, LC_ALL: "C", PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
  return new Promise((resolve) => {
    const child = spawn(command, args, { env, timeout: TIMEOUT, stdio: ["ignore", "pipe", "ignore", fd] });
    let text = "";
    child.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    child.on("error", () => resolve(undefined));
    child.on("close", (status) => resolve(status === 0 ? text : undefined));
  });
}
