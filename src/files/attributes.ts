/**
 * Giving one file's attributes to another: mode, owner, times, POSIX ACLs, extended attributes and with them file
 * capabilities (which are the attribute security.capability). Both are open files, and nothing is done by their names.
 *
 * Node has no call for extended attributes and ACLs, GNU cp has. Which failures cp reports depends on how it is asked:
 * `--preserve=all` passes over extended attributes that cannot be kept, naming `xattr` makes them an error, and an
 * owner that an unprivileged user cannot give is passed over in silence. So xattr is named, and what stat can see is
 * compared afterwards. cp also knows the order: owner first, since a change of owner clears set-user-ID and
 * capabilities. Other programs of that name know less: with these, and without any, what Node has calls for is kept,
 * where the user gave up the rest.
 */
import { spawn } from "node:child_process";
import { type BigIntStats, fchmodSync, fchownSync, fstatSync, futimesSync } from "node:fs";
import { OPTIONAL_ATTRIBUTES, type OptionalAttribute } from "./attribute-names.js";
import { pathOf } from "./descriptors.js";
import { FileError } from "./file-error.js";

const cpNames: Readonly<Record<OptionalAttribute, string>> = {
  owner: "ownership",
  times: "timestamps",
  xattr: "xattr",
};
const SET_ID_BITS = 0o6000;
/** The numbers under which cp finds the two. */
const [FROM, TO] = [3, 4];
/** Node tells times as fractions of seconds. */
const EXACT = 0n;
const BY_NODE = 1000n;

/**
 * Copies the attributes of one open file to another.
 * @param output the path that an error is about
 * @throws FileError that names what could not be kept
 */
export async function copyAttributes(
  from: number,
  to: number,
  output: string,
  giveUp: readonly OptionalAttribute[],
): Promise<void> {
  const before = fstatSync(from, { bigint: true });
  const failure = await copyByCp(from, to, giveUp);
  if (failure !== undefined && !(failure.knowsLess && giveUp.includes("xattr")))
    throw new FileError(output, lossIn(failure));
  if (failure !== undefined) copyByCalls(before, to, giveUp);
  else if (giveUp.includes("owner")) {
    // A program that runs as its owner must not become one that runs as whoever rewrote it.
    const { mode } = fstatSync(to);
    if ((mode & SET_ID_BITS) !== 0) fchmodSync(to, mode & 0o7777 & ~SET_ID_BITS);
  }
  const lost = differences(before, fstatSync(to, { bigint: true }), giveUp, failure === undefined ? EXACT : BY_NODE);
  if (lost.length > 0) throw new FileError(output, `could not keep the ${lost.join(" and the ")}`);
}

interface Failure {
  /** Whether this cp cannot do it for any file. */
  readonly knowsLess: boolean;
  /** Its first line. */
  readonly reason: string;
}

function copyByCp(from: number, to: number, giveUp: readonly OptionalAttribute[]): Promise<Failure | undefined> {
  const kept = OPTIONAL_ATTRIBUTES.filter((attribute) => !giveUp.includes(attribute));
  // "all" adds the SELinux context where there is one; it must not be asked for by name where there is none.
  const preserve = kept.length === OPTIONAL_ATTRIBUTES.length ? ["all", "xattr"] : kept.map((a) => cpNames[a]);
  const flag = `--preserve=${["mode", ...preserve].join(",")}`;
  return new Promise((resolve) => {
    const child = spawn("cp", ["--attributes-only", flag, "--", pathOf(FROM), pathOf(TO)], {
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "ignore", "pipe", from, to],
    });
    let said = "";
    child.stderr!.setEncoding("utf8").on("data", (chunk: string) => {
      said += chunk;
    });
    child.on("error", (error: NodeJS.ErrnoException) => {
      const isMissing = error.code === "ENOENT";
      resolve({
        knowsLess: isMissing,
        reason: isMissing ? "the command cp (GNU coreutils) is missing" : error.message,
      });
    });
    child.on("close", (status, signal) => {
      if (status === 0) return resolve(undefined);
      const line = said.split("\n").find((l) => l !== "") ?? `it ended with ${signal ?? status}`;
      const knowsLess = /(?:unrecognized|unknown|invalid|illegal) option|--preserve/.test(line);
      resolve({ knowsLess, reason: knowsLess ? "the command cp is not that of GNU coreutils" : withoutNames(line) });
    });
  });
}

/** The mode comes last: changing the owner takes parts of it away. */
function copyByCalls(before: BigIntStats, to: number, giveUp: readonly OptionalAttribute[]): void {
  const keepsOwner = !giveUp.includes("owner");
  const now = fstatSync(to, { bigint: true });
  if (keepsOwner && (now.uid !== before.uid || now.gid !== before.gid)) {
    try {
      fchownSync(to, Number(before.uid), Number(before.gid));
    } catch {
      // Then the owner differs, which is said.
    }
  }
  if (!giveUp.includes("times")) futimesSync(to, Number(before.atimeNs) / 1e9, Number(before.mtimeNs) / 1e9);
  fchmodSync(to, Number(before.mode) & (keepsOwner ? 0o7777 : 0o7777 & ~SET_ID_BITS));
}

function differences(
  before: BigIntStats,
  now: BigIntStats,
  giveUp: readonly OptionalAttribute[],
  precision: bigint,
): string[] {
  const lost: string[] = [];
  const mask = giveUp.includes("owner") ? 0o1777n : 0o7777n;
  if (!giveUp.includes("owner") && (before.uid !== now.uid || before.gid !== now.gid))
    lost.push(`owner ${before.uid}:${before.gid} (--drop-attribute owner gives it up)`);
  if ((before.mode & mask) !== (now.mode & mask)) lost.push(`mode ${(before.mode & 0o7777n).toString(8)}`);
  const apart = before.mtimeNs - now.mtimeNs;
  if (!giveUp.includes("times") && (apart < 0n ? -apart : apart) > precision) lost.push("modification time");
  return lost;
}

/** Which attribute cp speaks of, in the words of this program, and then its own. */
function lossIn({ reason, knowsLess }: Failure): string {
  if (knowsLess)
    return `attributes could not be kept: ${reason} (--drop-attribute xattr does without, and without access control lists)`;
  if (/^(?:setting|listing|getting) attribute/.test(reason))
    return `extended attributes could not be kept: ${reason} (--drop-attribute xattr gives them up)`;
  if (reason.startsWith("preserving permissions")) return `mode and access control list could not be kept: ${reason}`;
  return `attributes could not be kept: ${reason}`;
}

/** cp's own line, without the names under which it was handed the files, which nobody knows. */
const withoutNames = (line: string): string =>
  line.replace(/^cp: /, "").replace(/(?: for)? '\/proc\/self\/fd\/\d+'/g, "");
