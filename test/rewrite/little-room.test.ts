/** A static program in which no program header fits and not all new code: as many probes as fit, its own before a library's. */
import { describe, expect, it } from "vitest";
import { type RewriteDocument, usdtNop5 } from "../command.js";
import { readNotes } from "../judges/notes.js";
import { run } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

const OF_LIBRARY = 12;
const OWN = 40;

/** The library's functions come first; code stands right behind the program headers, and `room` bytes of its last page are left. */
const source = (room: number): string => {
  const names = [
    ...Array.from({ length: OF_LIBRARY }, (_, i) => ["libc", `l${i}`] as const),
    ...Array.from({ length: OWN }, (_, i) => ["app", `p${i}`] as const),
  ];
  const functions = names.map(
    ([provider, name]) => `
    ${name}:
            add $1, %edi
    990:    nop
            cmp $3, %edi
            ret
            .size ${name}, . - ${name}
            .type ${name}, @function
    .pushsection .note.stapsdt, "", "note"
            .balign 4
            .4byte 992f-991f, 994f-993f, 3
    991:    .asciz "stapsdt"
    992:    .balign 4
    993:    .8byte 990b, 0, 0
            .asciz "${provider}"
            .asciz "${name}"
            .asciz "-4@%edi"
    994:    .balign 4
    .popsection`,
  );
  return `
    .globl _start
    .text
    _start: xor %edi, %edi
            ${names.map(([, name]) => `call ${name}`).join("\n")}
            mov $60, %eax
            syscall
    ${functions.join("\n")}
            .fill (4096 - ${room} - 0xb0) - (. - _start), 1, 0xcc
    .data
            .fill 5000, 1, 1
  `;
};

describe.skipIf(!canCompile)("little room for new code", () => {
  it.each([
    ["6.18", 250],
    ["any", 400],
  ] as const)("is for the program's own probes first: kernel %s", async (kernel, room) => {
    const flags = ["-x", "assembler-with-cpp", "-nostdlib", "-static"];
    const file = await compile(source(room), ...flags, "-Wl,-z,noseparate-code,--build-id=none,-z,norelro");
    const output = scratch("out");
    const outcome = await usdtNop5("rewrite", file, "-o", output, "--json", "--kernel", kernel);
    const { sites, summary } = JSON.parse(outcome.stdout) as RewriteDocument;
    const status = (provider: string): string[] => sites.filter((s) => s.provider === provider).map((s) => s.status);
    expect(summary.rewritten).toBeGreaterThan(10);
    expect(summary.skipped).toBeGreaterThan(OF_LIBRARY);
    expect(new Set(status("libc"))).toEqual(new Set(["skipped"]));
    expect(sites.find((s) => s.status === "skipped")!.reason).toMatch(/in \d+ bytes of the last page of code/);
    expect((await usdtNop5("verify", "--strict", output)).status).toBe(0);
    expect((await readNotes(output)).length).toBe(sites.length);
    expect((await run(output, [])).status).toBe(OF_LIBRARY + OWN);
  });
});
