/**
 * The witness alone: asked about the five bytes of a site that is entered from within, it names an arrival there or says that it
 * cannot know; asked about a site that nothing enters, it says nothing.
 */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type ElfImage, parseElf } from "../../../src/elf/image.js";
import { readUsdtNotes } from "../../../src/usdt/notes.js";
import type { Testimony } from "../../../src/verify/witness/testimony.js";
import { examine } from "../../../src/verify/witness/witness.js";
import { build } from "../../fixtures/build.js";

const folder = fileURLToPath(new URL("./programs/", import.meta.url));
const plants = fileURLToPath(new URL("../../fixtures/plants/", import.meta.url));

const entered = (
  [
    ["switch by retpolines", "sw.c", "-mindirect-branch=thunk -fjump-tables -fcf-protection=none"],
    ["switch by retpolines in line", "sw.c", "-mindirect-branch=thunk-inline -fjump-tables -fcf-protection=none"],
    ["a sum that was spilled", "spill.c"],
    ["a sum that was spilled, fixed", "spill.c", "-no-pie -fno-pie"],
    ["short words, not optimized", "short0.c", "-O0"],
    ["short words, no frame pointer", "short0.c", "-O0 -fomit-frame-pointer"],
    ["a packed struct of words", "packedc.c", "-DT=int"],
    ["a packed struct of pointers", "packedc.c", "-DT=void* -DPTR -no-pie -fno-pie"],
    ["a sum before a join", "joined-target.S joined-target-main.c", "-DIFELSE"],
    ["a sum far back", "joined-target.S joined-target-main.c", "-DLONG"],
    ["a jump through memory", "jmpmem.S main.c"],
    ["push and ret", "pushret.S main.c"],
    ["a call into its own function", "callreg.S main.c"],
    ["short words through a slot", "slot16.S main.c"],
    ["a base that is loaded", "baseptr.S main.c"],
    ["a dispatcher elsewhere", "otherfn.S main.c"],
    ["a table between instructions", "tabincode2.S main.c"],
  ] as readonly (readonly string[])[]
).map(([name, sources, flags]) => [name!, sources!, flags ?? ""] as const);

async function built(name: string, sources: readonly string[], flags: string): Promise<ElfImage> {
  const options = ["-O2", ...(flags === "" ? [] : flags.split(" ")), "-I", folder];
  const result = await build({ output: name.replaceAll(/\W/g, "-"), compiler: "gcc", sources, flags: options });
  if (!result.ok) throw new Error(`${result.because}\n${result.command}`);
  return parseElf(readFileSync(result.path));
}

/** Asked about five bytes at each site. */
function ask(image: ElfImage): { readonly sites: readonly number[]; readonly said: Testimony } {
  const sites = [...new Set<number>(readUsdtNotes(image).map(({ location }) => location))].sort((a, b) => a - b);
  const windows = sites.map((start) => ({ start, end: start + 5 }));
  return { sites, said: examine(image, { windows }) };
}

describe.concurrent("sites that are entered from within", () => {
  it.each(entered)("%s", { timeout: 300_000 }, async (name, sources, flags) => {
    const { sites, said } = ask(
      await built(
        name,
        sources.split(" ").map((s) => folder + s),
        flags,
      ),
    );
    const inside = said.arrivals.filter(({ address, from }) =>
      sites.some((s) => address > s && address < s + 5 && !(from !== undefined && from >= s && from < s + 5)),
    );
    expect(inside.length + said.unknown.size).toBeGreaterThan(0);
  });

  it("says what rsp is", { timeout: 300_000 }, async () => {
    const data = ask(await built("rsp that is a data pointer", [`${folder}rspdata2.S`, `${folder}rspmain.c`], ""));
    expect(data.said.stack.has(data.sites[0]!)).toBe(false);
    const plain = ask(await built("jumps by a pointer", [`${folder}pushret.S`, `${folder}main.c`], ""));
    expect(plain.said.stack.has(plain.sites[0]!)).toBe(true);
  });

  it("sees who knows where an instruction faults", { timeout: 300_000 }, async () => {
    const image = await built("exceptions by a table", [`${folder}extab.S`, `${folder}extmain.c`], "");
    const { sites } = ask(image);
    const load = sites[0]! - 4;
    const windows = [{ start: load, end: load + 5 }];
    expect([...examine(image, { windows }).noticed.keys()]).toEqual([load]);
  });

  it("sees a call whose callee reads its return address", { timeout: 300_000 }, async () => {
    const image = await built("a return address that is read", [`${folder}retaddr.S`, `${folder}main.c`], "");
    const call = ask(image).sites[0]! - 5;
    const said = examine(image, { windows: [{ start: call, end: call + 6 }] });
    expect(said.noticed.get(call)).toMatch(/return address/);
  });
});

describe.concurrent("sites that nothing enters", () => {
  const flags = ["-O1 -pie -fPIE", "-O1 -no-pie -fno-pie"];
  it.each(["straight", "two-notes"].flatMap((name) => flags.map((f) => [name, f] as const)))(
    "%s %s",
    { timeout: 60_000 },
    async (name, how) => {
      const { sites, said } = ask(await built(`sound ${name}`, [`${plants}${name}.S`, `${plants}main.c`], how));
      expect([...said.unknown.values()]).toEqual([]);
      const inside = said.arrivals.filter(({ address, kind }) => !sites.includes(address) && kind !== "next");
      expect(inside).toEqual([]);
    },
  );
});

describe("what it is made of", () => {
  const source = fileURLToPath(new URL("../../../src/verify/witness/", import.meta.url));
  const allowed =
    /^(\.\/[\w-]+\.js|\.\.\/\.\.\/(elf\/[\w-]+|address|errors|rewritten\/certificate)\.js|node:\w+|iced-x86)$/;

  it("imports nothing but the readers of files, and iced", () => {
    const foreign: string[] = [];
    for (const file of readdirSync(source)) {
      const text = readFileSync(source + file, "utf8");
      for (const [, name] of text.matchAll(/(?:from|import|require(?:\(import\.meta\.url\))?)\s*\(?\s*"([^"]+)"/g))
        if (!allowed.test(name!)) foreign.push(`${file}: ${name}`);
    }
    expect(foreign).toEqual([]);
  });
});
