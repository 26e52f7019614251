/**
 * The programs that careless rewriters are let loose on: the plants, the programs that version 0.1's proof let through, some that
 * only one kind of knowledge protects, and plain ones.
 */
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Built, build } from "../../fixtures/build.js";
import { options, readHead, words } from "../../fixtures/head.js";
import { plantBuilds } from "../../fixtures/plants.js";
import { scratch } from "../../rewrite/compile.js";
import { plainProgram } from "../plain-programs.js";

const plants = fileURLToPath(new URL("../../fixtures/plants/", import.meta.url));
const proof = fileURLToPath(new URL("../witness/programs/", import.meta.url));
const own = fileURLToPath(new URL("./programs/", import.meta.url));

export interface Program {
  readonly name: string;
  build(): Promise<Built>;
}

const made = (name: string, sources: readonly string[], flags: readonly string[], compiler = "gcc"): Program => ({
  name,
  build: () => build({ output: name.replaceAll(/\W+/g, "-"), compiler, sources, flags }),
});

/** Each as gcc and ld make it, linked in every way that it can be; with a jump to the site, so that only what is behind it can move. */
const planted = (): Program[] =>
  plantBuilds().filter(({ name }) => name.endsWith(" gcc bfd alone") && !name.includes(" static "));

/** What version 0.1 let through: name, sources, flags, compiler. */
const letThrough: readonly (readonly [string, string, string, string?])[] = [
  ["retpolines", "sw.c", "-mindirect-branch=thunk -fjump-tables -fcf-protection=none"],
  ["retpolines in line", "sw.c", "-mindirect-branch=thunk-inline -fjump-tables -fcf-protection=none"],
  ["switch, medium model", "sw.c", "-mcmodel=medium -fPIC", "clang"],
  ["switch, large model", "sw.c", "-mcmodel=large -fPIC", "clang"],
  ["spilled sum", "spill.c", ""],
  ["spilled sum no-pie", "spill.c", "-no-pie -fno-pie"],
  ["short words", "short0.c", "-O0"],
  ["short words no frame", "short0.c", "-O0 -fomit-frame-pointer"],
  ["packed words", "packedc.c", "-DT=int"],
  ["packed pointers", "packedc.c", "-DT=void* -DPTR -no-pie -fno-pie"],
  ["sum before a join", "joined-target.S joined-target-main.c", "-DIFELSE"],
  ["sum far back", "joined-target.S joined-target-main.c", "-DLONG"],
  ["jump through memory", "jmpmem.S main.c", ""],
  ["push and ret", "pushret.S main.c", ""],
  ["call into itself", "callreg.S main.c", ""],
  ["slot of short words", "slot16.S main.c", ""],
  ["loaded base", "baseptr.S main.c", ""],
  ["dispatcher elsewhere", "otherfn.S main.c", ""],
  ["table in code", "tabincode2.S main.c", ""],
  ["faulting address", "extab.S extmain.c", ""],
  ["faulting address no-pie", "extab.S extmain.c", "-no-pie -fno-pie"],
  ["return address", "retaddr.S main.c", ""],
  ["return address no-pie", "retaddr.S main.c", "-no-pie -fno-pie"],
  ["rsp as data pointer", "rspdata2.S rspmain.c", ""],
];

const throughProof = (): Program[] =>
  letThrough.map(([name, sources, flags, compiler]) =>
    made(
      `proof ${name}`,
      words(sources).map((source) => proof + source),
      ["-O2", `-I${proof}`, ...options(flags === "" ? undefined : flags)],
      compiler,
    ),
  );

const ways: Readonly<Record<string, readonly string[]>> = {
  pie: ["-pie", "-fPIE"],
  "no-pie": ["-no-pie", "-fno-pie"],
};

/** Those beside this file, which begin like plants. */
const ofOneKind = (): Program[] =>
  readdirSync(own)
    .filter((file) => file.endsWith(".S"))
    .sort()
    .flatMap((file) => {
      const head = readHead(join(own, file));
      return words(head.links ?? "pie, no-pie").map((link) =>
        made(
          `own ${file.replace(/\..*/, "")} ${link}`,
          [own + file, `${plants}main.c`, ...words(head.with).map((name) => own + name)],
          ["-O1", `-I${plants}`, ...ways[link]!, ...options(head.flags)],
        ),
      );
    });

const plain = (): Program[] =>
  [0, 1, 2, 3, 5, 8].map((seed): Program => {
    const { name, source, compiler, flags, strip } = plainProgram(seed);
    return {
      name: `plain ${name}`,
      build: () => {
        const file = scratch("plain.c");
        writeFileSync(file, source);
        return build({ output: "plain", compiler, sources: [file], flags: [...flags, ...(strip ? ["-s"] : [])] });
      },
    };
  });

export const allPrograms = (): readonly Program[] => [...throughProof(), ...ofOneKind(), ...planted(), ...plain()];
