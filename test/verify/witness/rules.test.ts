/**
 * Where a rule of the witness lets something pass, and next to it where it must object all the same. Each program has one probe,
 * and is asked about five bytes from there: the nop, an instruction of three bytes (at `.Lin`), a byte of the next.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../../src/elf/image.js";
import { readUsdtNotes } from "../../../src/usdt/notes.js";
import { examine } from "../../../src/verify/witness/witness.js";
import { canCompile, compile } from "../../rewrite/compile.js";

const folder = fileURLToPath(new URL("./programs/", import.meta.url));

/** What is said of a program; addresses as distances from `.Lin`. */
async function asked(source: string, flags: readonly string[] = ["-pie"], first = 0) {
  const text = `.include "p.inc"\n${source}\nFN main\n xor %eax,%eax\n ret\nEFN main\n`;
  const path = await compile(text, "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, ...flags);
  const image = parseElf(readFileSync(path));
  const site = readUsdtNotes(image)[0]!.location;
  const said = examine(image, { windows: [{ start: site + first, end: site + 5 }] });
  const inside = said.arrivals.filter(({ address, kind }) => kind !== "next" && address > site && address < site + 5);
  return {
    arrivals: inside.map(({ address, kind, certain }) => [address - site - 1, kind, certain]),
    unknown: [...said.unknown.values(), ...said.patched.values()].join("\n"),
    noticed: [...said.noticed].map(([at, why]) => [at - site - 1, why] as const),
  };
}

/** A switch by a register that holds the table's start. */
const goBy = " movslq (%rdx,%rdi,4),%rcx\n add %rdx,%rcx\n jmp *%rcx";
const site = (inside = " add $1,%eax\n add $2,%eax") => ` mov $7,%eax\n SITE hit\n.Lin:\n${inside}\n ret`;

const held = (inside?: string): string => `FN held\n${site(inside)}\nEFN held`;

/** The probe's function has a switch; behind its table stands what other code has the address of. */
const withTable = (own: string, behind: string): string => `FN held
 lea .Lt(%rip),%rdx
${goBy}
.La: xor %eax,%eax
 ret
${site()}
EFN held
FN other
 lea .Lbehind(%rip),%rax
 ret
EFN other
.section .rodata
.balign 4
.Lt: .long .La-.Lt${own}
.Lbehind: .long ${behind}`;

/** Another function that leads somewhere by tables. */
const far = (code: string, words = ".Lx-.Lt"): string => `FN far
${code}
.Lx: ret
EFN far
.section .rodata
.balign 4
.Lt: .long ${words}`;

const named = '.section .data.rel.ro,"aw"\n.balign 8\n.quad .Lin\n';

describe.runIf(canCompile).concurrent("a word that leads between two instructions", () => {
  it("is chance behind a table, and counts at an instruction", async () => {
    expect((await asked(withTable("", ".Lin+1-.Lt"))).arrivals).toEqual([]);
    expect((await asked(withTable("", ".Lin-.Lt"))).arrivals).toEqual([[0, "table", false]]);
  });

  it("is an entry in the table", async () => {
    expect((await asked(withTable(", .Lin+1-.Lt", "0"))).arrivals).toEqual([[1, "table", false]]);
  });

  it("is chance if it is relative to itself, and counts at an instruction", async () => {
    const relative = (to: string): string => `${held()}\n.data\n.balign 4\n.long ${to}-.`;
    expect((await asked(relative(".Lin+1"))).arrivals).toEqual([]);
    expect((await asked(relative(".Lin"))).arrivals).toEqual([[0, "word", false]]);
  });

  it("is none if a branch leads there as well: then nothing is known of its function", async () => {
    const { arrivals, unknown } = await asked(`${held()}\nFN other\n jmp .Lin+1\nEFN other`);
    expect(arrivals).toContainEqual([1, "branch", true]);
    expect(unknown).toMatch(/middle of one of its instructions/);
  });
});

describe.runIf(canCompile).concurrent("an instruction that may fault", () => {
  const load = " mov 8(%rsi),%eax\n add $2,%eax";

  it("is named by a pointer, a distance, an instruction", async () => {
    for (const by of [named, ".data\n.balign 4\n.long .Lin-.", "FN other\n lea .Lin(%rip),%rax\n ret\nEFN other"])
      expect((await asked(`${held(load)}\n${by}`)).noticed.map(([at]) => at)).toEqual([0]);
  });

  it("is not named by a branch, nor by the entry of a switch's table", async () => {
    const branched = `FN held\n test %edi,%edi\n je .Lin\n${site(load)}\nEFN held`;
    expect((await asked(branched)).noticed).toEqual([]);
    const { arrivals, noticed } = await asked(
      `${held(load)}\n${far(` lea .Lt(%rip),%rdx\n${goBy}`, ".Lx-.Lt, .Lin-.Lt")}`,
    );
    expect(arrivals).toEqual([[0, "table", false]]);
    expect(noticed).toEqual([]);
  });

  it("is not named by who knows its function, unless that is more than a start", async () => {
    const first = (by: string): string =>
      `FN held\n mov 8(%rsi),%eax\n${site()}\nEFN held\n.data\n.balign 8\n.quad ${by}\n`;
    expect((await asked(first("held"), ["-pie"], -8)).noticed).toEqual([]);
    expect((await asked(first("held+3"), ["-pie"], -8)).noticed.map(([at]) => at)).toEqual([-9]);
  });
});

describe.runIf(canCompile).concurrent("a jump by the sum of two things that were handed over", () => {
  const rebased = far(" mov (%rdi),%rax\n add 8(%rdi),%rax\n jmp *%rax");

  it("may lead into functions that somebody knows an inside of, and into no others", async () => {
    expect((await asked(`${held()}\n${rebased}`)).unknown).toBe("");
    expect((await asked(`${held()}\n${rebased}\n${named}`)).unknown).toMatch(
      /jmp at .* goes where is not known \(rebased\)/,
    );
  });
});

describe.runIf(canCompile).concurrent("a switch of another function", () => {
  const load = " lea .Lt(%rip),%rdx\n";

  it("says nothing of the probe, if its table leads elsewhere", async () => {
    const { arrivals, unknown } = await asked(`${held()}\n${far(load + goBy)}\n${named.replace(".Lin", "held")}`);
    expect([arrivals, unknown]).toEqual([[], ""]);
  });

  it("leads there by an entry, whichever of its tables it goes by", async () => {
    const two = far(` lea .Lu(%rip),%rdx\n test %esi,%esi\n je 1f\n${load}1:\n${goBy}`);
    const { arrivals, unknown } = await asked(`${held()}\n${two}\n.Lu: .long .Lx-.Lu, .Lin-.Lu`);
    expect([arrivals, unknown]).toEqual([[[0, "table", false]], ""]);
  });

  it.each([
    ["its table is handed over on one of the ways", ` test %esi,%esi\n je 1f\n${load}1:\n${goBy}`],
    ["its words are doubled", `${load} movslq (%rdx,%rdi,4),%rcx\n shl $1,%rcx\n add %rdx,%rcx\n jmp *%rcx`],
    ["something is added to its sum", `${load} movslq (%rdx,%rdi,4),%rcx\n add %rdx,%rcx\n add %rsi,%rcx\n jmp *%rcx`],
    ["a call may change where its table is", `${load} call *%rsi\n${goBy}`],
    [
      "what it leads to jumps by a sum",
      ` mov (%rdi),%r8\n add 8(%rdi),%r8\n mov $0,%edi\n${load}${goBy}\n.Ly: jmp *%r8`,
    ],
  ])("is no switch: %s", async (_, code) => {
    const words = code.includes(".Ly") ? ".Ly-.Lt" : ".Lx-.Lt";
    expect((await asked(`${held()}\n${far(code, words)}\n${named}`)).unknown).toMatch(/goes where is not known/);
  });
});

describe.runIf(canCompile).concurrent("an address of code that another function makes", () => {
  it.each(["neg %rax", "add %rdi,%rax", "shl $1,%rax"])("and computes with: %s", async (computes) => {
    const other = `FN other\n lea held(%rip),%rax\n ${computes}\n ret\nEFN other`;
    expect((await asked(`${held()}\n${other}`)).unknown).toMatch(/adds to .*, and where that leads is not known/);
  });

  it("is its own affair where it only chooses, compares and stores it", async () => {
    const other =
      "FN other\n lea held(%rip),%rax\n test %rdi,%rdi\n cmove %rax,%rcx\n cmp %rax,%rsi\n mov %rcx,(%rdi)\n ret\nEFN other";
    expect((await asked(`${held()}\n${other}`)).unknown).toBe("");
  });
});

describe
  .runIf(canCompile)
  .concurrent("a jump by an address of data and a word of memory of which no more is known", () => {
    const data = (code: string, words: string): string =>
      far(code, ".Lx-.Lt").replace(".section .rodata", `.data\n.balign 4\n.Lw: ${words}\n.section .rodata`);
    const writable = ` lea .Lw(%rip),%rdx\n${goBy}`;
    const ofItself = " lea .Lw(%rip),%rdx\n lea (%rdx,%rdi,8),%rcx\n add (%rcx),%rcx\n jmp *%rcx";

    it("leads where the file has a word for", async () => {
      for (const [code, elsewhere, here] of [
        [writable, ".long .Lx-.Lw", ".long .Lx-.Lw, .Lin-.Lw"],
        [ofItself, ".quad .Lx-.", ".quad .Lx-.\n.quad .Lin-."],
      ] as const) {
        const one = await asked(`${held()}\n${data(code, elsewhere)}\n${named.replace(".Lin", "held+5")}`);
        expect([one.arrivals, one.unknown]).toEqual([[], ""]);
        expect((await asked(`${held()}\n${data(code, here)}`)).arrivals).toContainEqual([0, "word", false]);
      }
    });

    it("may lead anywhere in its own function", async () => {
      const own = `FN held\n${writable}\n${site()}\nEFN held\n.data\n.balign 4\n.Lw: .long 0`;
      expect((await asked(own)).unknown).toMatch(/goes where is not known/);
    });

    it("may lead to any inside that somebody names, if the word is an argument", async () => {
      const given = far(" lea .Lt(%rip),%rdx\n add %rdi,%rdx\n jmp *%rdx");
      expect((await asked(`${held()}\n${given}\n${named}`)).unknown).toMatch(/goes where is not known \(taint\)/);
    });
  });

describe.runIf(canCompile).concurrent("the entry of a patch table", () => {
  const patched = `FN held\n.Lp: nop\n nop\n${site()}\nEFN held
.section __patchable_function_entries,"awo",@progbits,.text\n.balign 8\n.quad .Lp`;

  it("is overwritten as far as there are nops", async () => {
    expect((await asked(patched, ["-pie"], -7)).unknown).toMatch(/patched at run time/);
    expect((await asked(patched, ["-pie"], -5)).unknown).toBe("");
  });

  it("is overwritten by the longest piece that anybody writes where there are none", async () => {
    const unfilled = patched.replace(".Lp: nop\n nop", ".Lp:");
    expect((await asked(unfilled, ["-pie"], 0)).unknown).toMatch(/patched at run time/);
  });
});
