/**
 * Paths that are not UTF-8. To Linux a path is bytes, to JavaScript a string, and Node replaces what it cannot decode: such
 * a file cannot be opened any more. So a byte that belongs to no character is kept as a lone surrogate, U+DC00 and the
 * byte, which no UTF-8 decodes to; Python does the same. Strings with these can be cut and put together like others.
 */
import { readFileSync } from "node:fs";

const ESCAPE = 0xdc00;
const REPLACED = "\ufffd";

/** The bytes of a path that `pathText` made, for calls to the system. */
export function pathBytes(path: string): Buffer {
  if (!/\p{Cs}/u.test(path)) return Buffer.from(path);
  const parts = [...path].map((character) => {
    const code = character.codePointAt(0)!;
    return code >= ESCAPE + 0x80 && code <= ESCAPE + 0xff ? Buffer.from([code - ESCAPE]) : Buffer.from(character);
  });
  return Buffer.concat(parts);
}

/** Any bytes as a string that leads back to them. */
export function pathText(bytes: Buffer): string {
  const text = bytes.toString();
  if (!text.includes(REPLACED) || Buffer.from(text).equals(bytes)) return text;
  let result = "";
  for (let at = 0; at < bytes.length; ) {
    const size = [1, 2, 3, 4].find((n) => isCharacter(bytes.subarray(at, at + n))) ?? 0;
    result += size === 0 ? String.fromCharCode(ESCAPE + bytes[at]!) : bytes.toString("utf8", at, at + size);
    at += Math.max(1, size);
  }
  return result;
}

/** Whether these bytes, and no fewer, are one character. */
function isCharacter(bytes: Buffer): boolean {
  const text = bytes.toString();
  return [...text].length === 1 && Buffer.from(text).equals(bytes);
}

/**
 * The arguments of this process, with what Node could not decode.
 * @param decoded the last of them, as Node has them
 */
export function rawArguments(decoded: readonly string[]): readonly string[] {
  if (!decoded.some((argument) => argument.includes(REPLACED))) return decoded;
  const all = readFileSync("/proc/self/cmdline").toString("latin1").split("\0").slice(0, -1);
  const last = all.slice(-decoded.length).map((argument) => Buffer.from(argument, "latin1"));
  // Where the process has been given another title, these are others.
  return last.every((bytes, i) => bytes.toString() === decoded[i]) ? last.map(pathText) : decoded;
}
