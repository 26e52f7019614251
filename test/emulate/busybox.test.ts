/**
 * BusyBox (Debian's busybox-static): a large static program that others have built, many commands in one. Each command reads
 * the same text here and in the emulator. LONG=1 takes all of them.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { PT_INTERP } from "../../src/elf/constants.js";
import { parseElf } from "../../src/elf/image.js";
import { emulate, runNatively, seen } from "./both.js";

const file = ["/usr/bin/busybox", "/bin/busybox"].find(
  (place) =>
    existsSync(place) && parseElf(readFileSync(place)).programHeaders.every(({ p_type }) => p_type !== PT_INTERP),
);
const text = readFileSync(fileURLToPath(new URL("programs/strings.c", import.meta.url)), "latin1");

const lengths =
  "{ n[length($0)]++; s += NF * 1.5 } END { for (i = 0; i < 99; i++) if (n[i]) print i, n[i]; print s / 7 }";
const usual: readonly (readonly string[])[] = [
  ["expr", "3", "*", "14"],
  ["sha512sum"],
  ["gzip", "-c"],
  ["sort"],
  ["sed", "s/static \\([a-z]*\\)/<\\1>/g;10,20d"],
  ["awk", lengths],
  ["dc", "-e", "2 200 ^ p 1 7 / p 20k 2 v p"],
  ["grep", "-n", "for *(.*++)"],
  ["factor", "1234567890123", "97"],
  ["printf", "%5.2f %x %s\\n", "3.14159", "255", "abc"],
  ["sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; echo $i; exit 5"],
  ["false"],
  ["nosuch"],
];
const further: readonly (readonly string[])[] = [
  ...["md5sum", "sha1sum", "sha256sum", "sha3sum", "bzip2 -c", "lzop -c", "base64", "uuencode x", "xxd", "od -x"],
  ...[
    "hexdump -C",
    "wc",
    "tac",
    "rev",
    "nl",
    "fold -w 33",
    "cut -c3-17",
    "tr a-z A-Z",
    "uniq -c",
    "head -5",
    "tail -5",
  ],
  ...["strings", "sort -n -r -k2", "cal 2 2024", "ascii", "seq 1 300", "crc32", "true", "echo some words"],
].map((command) => command.split(" "));

let total = 0;
afterAll(() => console.log(`${total.toLocaleString("en")} instructions of BusyBox emulated`));

describe.skipIf(file === undefined)("busybox", () => {
  it.each(
    [...usual, ...(process.env.LONG === undefined ? [] : further)].map((command) => [command.join(" "), command]),
  )("%s", (_name, command) => {
    const surroundings = {
      arguments: command as readonly string[],
      environment: ["LANG=C"],
      input: text,
      emptyFileSystem: true,
    };
    const emulated = emulate(file!, surroundings);
    total += emulated.instructions;
    expect(seen(emulated)).toEqual(seen(runNatively(file!, surroundings)));
  });
});

// It says so where the tests above have been skipped for another reason than that there is none.
it("is static wherever it is installed", () => {
  const { stdout } = spawnSync("dpkg", ["-s", "busybox-static"], { encoding: "utf8" });
  if (stdout?.includes("Status: install ok installed")) expect(file).toBeDefined();
});
