/**
 * A file whose texts hold all that a terminal would act on or not show: in no report and no error is any of it left, on
 * no line that is not ours. JSON documents still say what the file says.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { print } from "../../src/commands/streams.js";
import { explanation } from "../../src/report/plan.js";
import { document, makeStyle, printable } from "../../src/report/text.js";
import { canCompile, compile } from "../rewrite/compile.js";
import { folder } from "../sample/sample.js";
import { usdtNop5 } from "./in-process.js";

/** One of each: controls of both sets, line ends, marks of direction, what has no width, tags, halves of characters. */
const HOSTILE = [
  ..."\x1b[31m\x1b]0;title\x07\n\r\t\b\x7f\x85\x9b",
  ..."\u200e\u200f\u061c\ufeff\u200b\u200c\u200d\u00ad\u2060\u180e\u034f\u115f\u3164\ufe0f",
  ..."\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
  ..."\u{e0001}\u{e0041}\u{e007f}\u{e0100}\u{1d173}",
].join("");
/** What may be in no report: written anew, by number. */
const isHidden = (code: number): boolean =>
  code < 0x20 ||
  (code >= 0x7f && code < 0xa0) ||
  [0xad, 0x34f, 0x61c, 0x115f, 0x180e, 0x2028, 0x2029].includes(code) ||
  (code >= 0x200b && code <= 0x200f) ||
  (code >= 0x202a && code <= 0x202e) ||
  (code >= 0x2060 && code <= 0x206f) ||
  [0x3164, 0xfe0f, 0xfeff].includes(code) ||
  (code >= 0xd800 && code <= 0xdfff) ||
  (code >= 0xe0000 && code <= 0xe0fff) ||
  code === 0x1d173;

/** The characters of a text that should not be in it, line ends aside. */
const hiddenIn = (text: string): string[] =>
  [...text]
    .map((c) => c.codePointAt(0)!)
    .filter((code) => code !== 10 && isHidden(code))
    .map((code) => code.toString(16));

it("the list of what is hidden has all of it", () => {
  expect([...HOSTILE].filter((c) => !isHidden(c.codePointAt(0)!)).join("")).toBe("[31m]0;title");
});

const SIZE = 160;
const placeholders = { provider: "P", name: "N", args: "A", symbol: "F" } as const;

/** A program with a probe, in which each of these texts is replaced by one that begins with its letter. */
async function program(): Promise<Buffer> {
  const text = (letter: string): string => letter.repeat(SIZE);
  const file = await compile(`
    #include <sys/sdt.h>
    void ${text("F")}(void) {
      __asm__ volatile("990: nop\\n.pushsection .note.stapsdt,\\"?\\",\\"note\\"\\n.balign 4\\n"
        ".4byte 992f-991f,994f-993f,3\\n991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n"
        "993: .8byte 990b\\n.8byte _.stapsdt.base\\n.8byte 0\\n"
        ".asciz \\"${text("P")}\\"\\n.asciz \\"${text("N")}\\"\\n.asciz \\"${text("A")}\\"\\n994: .balign 4\\n.popsection");
    }
    int main(int c, char **v) { STAP_PROBE1(app, one, c); ${text("F")}(); return 0; }`);
  const bytes = readFileSync(file);
  for (const letter of Object.values(placeholders)) {
    const said = Buffer.alloc(SIZE, letter);
    said.write(HOSTILE, 1);
    for (let at = bytes.indexOf(text(letter)); at >= 0; at = bytes.indexOf(text(letter), at + SIZE))
      said.copy(bytes, at);
  }
  return bytes;
}

describe.skipIf(!canCompile)("a file full of them", () => {
  let bytes: Buffer;
  beforeAll(async () => {
    expect(Buffer.byteLength(HOSTILE)).toBeLessThan(SIZE);
    bytes = await program();
  });

  const commands: readonly string[][] = [
    ["list"],
    ["rewrite", "--dry-run"],
    ["rewrite", "--dry-run", "--strict", "--layout", "nop5"],
    ["rewrite", "--dry-run", "--explain", "*:*"],
    ["rewrite", "--dry-run", "--plan-json"],
    ["rewrite"],
    ["verify"],
    ["revert"],
  ];
  const runs = commands.flatMap((c) => [c, ...(c.includes("--plan-json") ? [] : [[...c, "--json"]])]);

  it.each(runs.map((words) => [words.join(" "), words] as const))("%s", async (_name, words) => {
    const place = folder();
    const path = join(place, `file${HOSTILE.replaceAll("/", "")}`.slice(0, 60));
    writeFileSync(path, bytes);
    const ours = await usdtNop5("rewrite", path);
    const [command, ...options] = words as [string, ...string[]];
    const file = command === "verify" || command === "revert" ? `${path}.nop5` : path;
    for (const said of [ours, await usdtNop5(command, file, ...options)])
      expect(hiddenIn(said.stdout + said.stderr)).toEqual([]);
  });

  it("errors, and warnings, and wrong usage", async () => {
    for (const words of [
      ["list", HOSTILE],
      ["rewrite", HOSTILE],
      ["verify", HOSTILE],
      ["list", `--${HOSTILE}`],
      [HOSTILE],
      ["rewrite", "--layout", HOSTILE, "file"],
      ["rewrite", "--only", HOSTILE, "file"],
      ["emulate", HOSTILE, "--site", "a:b"],
    ]) {
      const { status, stdout, stderr } = await usdtNop5(...words);
      expect([1, 2]).toContain(status);
      expect(hiddenIn(stdout + stderr)).toEqual([]);
    }
  });

  it("documents say what the file says", async () => {
    const path = join(folder(), "file");
    writeFileSync(path, bytes);
    const { stdout } = await usdtNop5("list", "--json", path);
    const { files } = JSON.parse(stdout) as { files: { sites: { provider: string; name: string }[] }[] };
    const latin1 = Buffer.from(HOSTILE).toString("latin1");
    const said = files[0]!.sites.map((site) => site.provider).join();
    expect(said.includes(HOSTILE) || said.includes(latin1)).toBe(true);
  });
});

describe("one place does it", () => {
  it("for whatever makes text for people", () => {
    const folder = join(import.meta.dirname, "../../src/report");
    const makers = readdirSync(folder).flatMap((name) => {
      const text = readFileSync(join(folder, name), "utf8");
      // Documents are objects, and what text.ts has is put together from what is printable already.
      const exported = [...text.matchAll(/^export (?:const|function) (\w+)(.*)$/gm)];
      return exported
        .filter(([, what]) => name !== "text.ts" && !/Document$|^summaryOf$/.test(what!))
        .map(([, what, rest]) => `${what} ${/^ = forPeople\(/.test(rest!)}`);
    });
    expect(makers.filter((m) => m.endsWith("true")).length).toBeGreaterThan(7);
    // The faults are a list of ours.
    expect(makers.filter((m) => m.endsWith("false"))).toEqual(["faultList false"]);
  });

  it("in all that is told, how deep ever", () => {
    const trial = { tactic: HOSTILE, outcome: "refused", code: HOSTILE, text: HOSTILE, at: null } as const;
    const report = { provider: HOSTILE, name: HOSTILE, location: vaddr(1), newLocation: vaddr(1), status: "skipped" };
    const plan = {
      report: { ...report, reason: HOSTILE, reasonCode: HOSTILE, redZone: "unused" },
      range: null,
      entries: [{ address: vaddr(1), text: HOSTILE }],
      trials: [trial],
      change: null,
    };
    const text = explanation(plan as unknown as Parameters<typeof explanation>[0], makeStyle(false));
    expect(hiddenIn(text)).toEqual([]);
    expect(text.split("\n").length).toBe(8);
  });

  it("and on the way out once more", async () => {
    let printed = "";
    const stdout = {
      write: (text: string, done: () => void): void => {
        printed += text;
        done();
      },
    };
    await print({ stdout, stderr: stdout }, `\x1b[1mours\x1b[22m\n${HOSTILE}\ud800`);
    expect(
      hiddenIn(
        printed.replaceAll("\x1b[1m", "").replaceAll("\x1b[22m", "").replaceAll("\x1b[31m", "").replaceAll("\t", ""),
      ),
    ).toEqual([]);
  });

  it("by numbers that tell what it was", () => {
    expect(printable("a\x1b\u0085\u202e\u{e0041}\ud800z")).toBe("a\\x1b\\x85\\u202e\\u{e0041}\\ud800z");
    expect(document({ a: HOSTILE })).not.toMatch(/[^\x20-\x7e\n]/);
    expect(JSON.parse(document({ a: HOSTILE }))).toEqual({ a: HOSTILE });
  });
});
