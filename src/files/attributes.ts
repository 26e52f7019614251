/**
 * Giving one file's attributes to another: mode, owner, times, POSIX ACLs, extended attributes and with them file
 * capabilities (which are the attribute security.capability).
 *
 * Node has no call for extended attributes and ACLs, GNU cp has. Which failures cp reports depends on how it is asked:
 * `--preserve=all` passes over extended attributes that cannot be kept, naming `xattr` makes them an error, and an
 * owner that an unprivileged user cannot give is passed over in silence. So xattr is named, and what stat can see is
 * compared afterwards. cp also knows the order: owner first, since a change of owner clears set-user-ID and
 * capabilities.
 */
import { execFile } from "node:child_process";
import type { BigIntStats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { promisify } from "node:util";
import { OPTIONAL_ATTRIBUTES, type OptionalAttribute } from "./attribute-names.js";
import { FileError } from "./file-error.js";

const cpNames: Readonly<Record<OptionalAttribute, string>> = {
  owner: "ownership",
  times: "timestamps",
  xattr: "xattr",
};
const SET_ID_BITS = 0o6000;

/**
 * Copies the attributes of the file at `from` to the open file at `to`.
 * @param original what `from` was when it was read: what must have arrived
 * @param output the path that an error is about
 * @throws FileError that names what could not be kept
 */
export async function copyAttributes(
  from: string,
  original: BigIntStats,
  to: { readonly path: string; readonly handle: FileHandle },
  output: string,
  giveUp: readonly OptionalAttribute[],
): Promise<void> {
  const kept = OPTIONAL_ATTRIBUTES.filter((attribute) => !giveUp.includes(attribute));
  // "all" adds the SELinux context where there is one; it must not be asked for by name where there is none.
  const preserve = kept.length === OPTIONAL_ATTRIBUTES.length ? ["all", "xattr"] : kept.map((a) => cpNames[a]);
  const flag = `--preserve=${["mode", ...preserve].join(",")}`;
  try {
    await promisify(execFile)("cp", ["--attributes-only", flag, "--", from, to.path], {
      env: { ...process.env, LC_ALL: "C" },
    });
  } catch (error) {
    throw new FileError(output, lossIn(reasonOf(error)));
  }
  if (giveUp.includes("owner")) {
    // A program that runs as its owner must not become one that runs as whoever rewrote it.
    const mode = Number((await to.handle.stat()).mode);
    if ((mode & SET_ID_BITS) !== 0) await to.handle.chmod(mode & 0o7777 & ~SET_ID_BITS);
  }
  const lost = differences(original, await to.handle.stat({ bigint: true }), giveUp);
  if (lost.length > 0) throw new FileError(output, `could not keep the ${lost.join(" and the ")}`);
}

function differences(before: BigIntStats, now: BigIntStats, giveUp: readonly OptionalAttribute[]): string[] {
  const lost: string[] = [];
  const mask = giveUp.includes("owner") ? 0o1777n : 0o7777n;
  if (!giveUp.includes("owner") && (before.uid !== now.uid || before.gid !== now.gid))
    lost.push(`owner ${before.uid}:${before.gid} (--drop-attribute owner gives it up)`);
  if ((before.mode & mask) !== (now.mode & mask)) lost.push(`mode ${(before.mode & 0o7777n).toString(8)}`);
  if (!giveUp.includes("times") && before.mtimeNs !== now.mtimeNs) lost.push("modification time");
  return lost;
}

/** Which attribute cp speaks of, in the words of this program, and then its own. */
function lossIn(reason: string): string {
  if (/^(?:setting|listing|getting) attribute/.test(reason))
    return `extended attributes could not be kept: ${reason} (--drop-attribute xattr gives them up)`;
  if (reason.startsWith("preserving permissions")) return `mode and access control list could not be kept: ${reason}`;
  return `attributes could not be kept: ${reason}`;
}

/** cp's own first line, without the temporary file's name in it, which nobody knows. */
function reasonOf(error: unknown): string {
  const { code, stderr } = error as { code?: unknown; stderr?: string };
  if (code === "ENOENT") return "the command cp (GNU coreutils) is missing";
  const line = stderr?.split("\n").find((l) => l !== "");
  if (line === undefined) return error instanceof Error ? error.message.split("\n")[0]! : String(error);
  return line.replace(/^cp: /, "").replace(/ for '[^']*\.usdt-nop5-[^']*'| '[^']*\.usdt-nop5-[^']*'/g, "");
}
