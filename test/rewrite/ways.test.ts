/**
 * Sites with little room, into whose few bytes short branches lead: each way to get there is taken by a small program, which
 * computes what it computed, passes its probes as often, and is the same by verify. Beside each stand programs that look
 * alike and have something that forbids it.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { rewrite, usdtNop5 } from "../command.js";
import { cannotTrace } from "../live/kernel.js";
import { must } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

/** Instructions that count, without padding, `bytes` long: no short branch leads over them where they are more than 130. */
const filler = (bytes: number): string => `.rept ${Math.ceil(bytes / 3)}\n  lea 1(%rax), %eax\n  .endr\n`;
const wall = filler(135);
/** Padding behind something that never goes on. */
const padding = (bytes: number): string => `.skip ${bytes}, 0x90\n`;

/**
 * f(edi) gives eax; `data` is put into .data.rel.ro. f has probes, g is a function that f calls. Start files have code whose
 * instructions nobody can be sure of, and in which something may look like a short branch: it is kept away by `far`.
 */
const program = (body: string, data = ""): string => `
#include <sys/sdt.h>
.text
.type far, @function
far: .cfi_startproc
  ${filler(500)}
  ret
  .cfi_endproc
.size far, . - far
.globl f
.type f, @function
f: .cfi_startproc
  push %rbx
  .cfi_def_cfa_offset 16
  .cfi_offset 3, -16
  mov %edi, %ebx
  mov %edi, %eax
${body}
  .cfi_endproc
.size f, . - f
.type g, @function
g: .cfi_startproc
  lea 3(%rax,%rbx), %eax
  ret
  .cfi_endproc
.size g, . - g
.globl main
.type main, @function
main: .cfi_startproc
  push %rbx
  .cfi_def_cfa_offset 16
  .cfi_offset 3, -16
  xor %ebx, %ebx
1:
  mov %ebx, %edi
  call f
  mov %eax, %esi
  lea format(%rip), %rdi
  xor %eax, %eax
  call printf@PLT
  inc %ebx
  cmp $6, %ebx
  jne 1b
  xor %eax, %eax
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
  .cfi_endproc
.size main, . - main
.section .rodata
format: .asciz "%d\\n"
.section .data.rel.ro, "aw"
${data}
.section .note.GNU-stack, "", @progbits
`;

const leave = `
  pop %rbx
  .cfi_remember_state
  .cfi_def_cfa_offset 8
  ret
  .cfi_restore_state
`;

/** Two ways to a probe with a byte of room: from the call before it, and by a short branch behind it. */
const behindCall = (branch: string, between = "", behind = ""): string => `
  test $1, %bl
  jne .Lother
  call g
  STAP_PROBE1(ways, site, -4@%eax)
.Lbehind:
  add $0x11, %rax
  call g
  ${leave}
  ${between}
.Lother:
  ${branch}
  ${behind}
`;

interface Way {
  readonly body: string;
  readonly data?: string;
  readonly tactic: string;
  /** How often f(0) to f(5) pass the probes, by name. */
  readonly hits: Readonly<Record<string, number>>;
}

const ways: Readonly<Record<string, Way>> = {
  "a short jmp becomes a near one, over padding": {
    body: behindCall("lea 5(%rax), %eax\n  jmp .Lbehind", "", padding(8)),
    tactic: "retarget-short",
    hits: { site: 3 },
  },
  "a short conditional branch goes through padding": {
    body: behindCall("cmp $3, %ebx\n  jle .Lbehind\n  call g\n  jmp .Lbehind", padding(7), padding(8)),
    tactic: "retarget-short",
    hits: { site: 3 },
  },
  "loop goes through padding": {
    body: behindCall("mov %ebx, %ecx\n  loop .Lbehind\n  call g\n  jmp .Lbehind", padding(7), padding(8)),
    tactic: "retarget-short",
    hits: { site: 3 },
  },
  "a short branch moves, with what stands behind it": {
    body: `${wall}${behindCall("cmp $3, %ebx\n  jle .Lbehind\n  lea 9(%rax), %eax\n  jmp .Lbehind", "", wall + leave)}`,
    tactic: "retarget-short",
    hits: { site: 3 },
  },
  "two branches move together": {
    body: `${wall}${behindCall("cmp $3, %ebx\n  jle .Lbehind\n  jmp .Lbehind", "", wall + leave)}`,
    tactic: "retarget-short",
    hits: { site: 3 },
  },
  "a loop inside of the bytes that move": {
    body: `
  mov $4, %ecx
  test $1, %bl
  jne 2f
1:
  STAP_PROBE(ways, site)
2:
  dec %ecx
  jg 1b
  call g
  ${leave}
  ${padding(8)}`,
    tactic: "retarget-short",
    hits: { site: 21 },
  },
  "a second probe, at which the branch arrives": {
    body: behindCall("lea 5(%rax), %eax\n  jmp .Lbehind", "", padding(8)).replace(
      ".Lbehind:",
      ".Lbehind:\n  STAP_PROBE(ways, second)",
    ),
    tactic: "retarget-short",
    hits: { site: 3, second: 6 },
  },
  "a second probe in front of the branch": {
    body: behindCall("lea 5(%rax), %eax\n  STAP_PROBE(ways, second)\n  jmp .Lbehind", "", padding(8)),
    tactic: "retarget-short",
    hits: { site: 3, second: 3 },
  },
  "a near branch into bytes in front of a call, and padding": {
    body: `
  test $1, %bl
  .byte 0x0f, 0x85
  .long .Lbehind - . - 4
  test $2, %bl
  jne .Lprobe
  call g
.Lprobe:
  STAP_PROBE(ways, site)
.Lbehind:
  mov %ebx, %edx
  call g
  add %edx, %eax
  ${leave}
  ${padding(8)}`,
    tactic: "hop-retarget",
    hits: { site: 3 },
  },
  "padding that is two short jumps away": {
    body: `
  jmp 4f
  ${padding(7)}
4:
  ${filler(100)}
  test $1, %bl
  je 5f
  jmp 2f
  ${padding(2)}
5:
  ${filler(60)}
  call g
1:
  STAP_PROBE(ways, site)
  jmp 3f
2:
  lea 7(%rax), %eax
  jmp 1b
3:
  ${wall}${leave}`,
    tactic: "hop",
    hits: { site: 6 },
  },
  "padding between functions that is two short jumps away": {
    body: `${wall}
  test $1, %bl
  jne 2f
  lea 9(%rax), %eax
  jmp 1f
3:
  .byte 0xe9
  .long 4f - . - 4
1:
  STAP_PROBE(ways, site)
  jmp 3b
2:
  lea 7(%rax), %eax
  jmp 1b
4:
  ${leave}
  .cfi_endproc
  .size f, . - f
  ${padding(2)}
  .type h, @function
h: .cfi_startproc
  ${filler(120)}
  ret
  .cfi_endproc
  .size h, . - h
  ${padding(8)}
  .type k, @function
k: .cfi_startproc
  ret`,
    tactic: "hop",
    hits: { site: 6 },
  },
  "neighbours that code nearby makes room for": {
    body: `${wall}
  call 1f
  .byte 0xe9
  .long 4f - . - 4
1:
  STAP_PROBE(ways, first)
  STAP_PROBE(ways, second)
  ret
2:
  lea 7(%rax), %eax
  ret
4:
  test $1, %bl
  je 5f
  call 2b
5:
  ${wall}${leave}`,
    tactic: "evict",
    hits: { first: 6, second: 6 },
  },
  "code nearby that makes room": {
    body: `${wall}
  test $1, %bl
  jne 2f
  lea 9(%rax), %eax
  jmp 1f
3:
  .byte 0xe9
  .long 4f - . - 4
1:
  STAP_PROBE(ways, site)
  jmp 3b
2:
  lea 7(%rax), %eax
  jmp 1b
4:
  ${wall}${leave}`,
    tactic: "evict",
    hits: { site: 6 },
  },
  "a call that moves": {
    body: `${wall}
  test $1, %bl
  jne 2f
  call g
  STAP_PROBE(ways, site)
  jmp 3f
2:
  lea 7(%rax), %eax
3:
  ${wall}${leave}`,
    tactic: "displace-call",
    hits: { site: 3 },
  },
};

/** Pointers to labels in data, and a jump through one of them. */
const entered = (label: string): { enter: string; data: string } => ({
  enter: `cmp $5, %ebx\n  jne 9f\n  lea pointers(%rip), %rdx\n  jmp *(%rdx)\n9:`,
  data: `pointers: .quad ${label}`,
});

/** Programs that look like those above; what forbids it there is in the name. */
const dangers: Readonly<Record<string, { readonly body: string; readonly data?: string }>> = {
  "a pointer leads behind the probe, as the branch does": {
    body: `${entered(".Lbehind").enter}${behindCall("lea 5(%rax), %eax\n  jmp .Lbehind", "", padding(8))}`,
    data: entered(".Lbehind").data,
  },
  "a jump table leads behind the probe": {
    body: `
  cmp $3, %ebx
  ja 9f
  lea table(%rip), %rdx
  movslq (%rdx,%rbx,4), %rcx
  add %rdx, %rcx
  jmp *%rcx
9:${behindCall("lea 5(%rax), %eax\n  jmp .Lbehind", "", padding(8))}
  .section .rodata
  .balign 4
table: .long 9b - table, .Lbehind - table, 9b - table, .Lother - table
  .text`,
  },
  "the padding behind the short jmp is run": {
    body: `${entered(".Lnops").enter}${behindCall(
      "lea 5(%rax), %eax\n  jmp .Lbehind",
      "",
      ".Lnops:\n  .skip 8, 0x90\n  add $5, %eax\n  jmp .Lbehind",
    )}`,
    data: entered(".Lnops").data,
  },
  "the padding that the branch would go through is run": {
    body: `${wall}${entered(".Lnops").enter}${behindCall(
      "cmp $3, %ebx\n  jle .Lbehind\n  call g\n  jmp .Lbehind",
      ".Lnops:\n  .skip 7, 0x90",
      wall + leave,
    )}`,
    data: entered(".Lnops").data,
  },
  "a pointer leads between the branches that would move": {
    body: `${wall}${entered(".Lsecond").enter}${behindCall(
      "cmp $3, %ebx\n  jle .Lbehind\n.Lsecond:\n  lea 9(%rax), %eax\n  jmp .Lbehind",
      "",
      wall + leave,
    )}`,
    data: entered(".Lsecond").data,
  },
  "a function elsewhere jumps behind the probe": {
    body: `${behindCall("lea 5(%rax), %eax\n  jmp h", "", padding(8))}
  .cfi_endproc
  .size f, . - f
  .type h, @function
h: .cfi_startproc
  .cfi_def_cfa_offset 16
  .cfi_offset 3, -16
  lea 6(%rax), %eax
  ${filler(300)}
  jmp .Lbehind`,
  },
  "a call leads behind the probe": {
    body: `
  test $1, %bl
  jne .Lother
  call g
  pop %rbx
  .cfi_remember_state
  .cfi_def_cfa_offset 8
  STAP_PROBE(ways, site)
.Lbehind:
  add $0x11, %rax
  ret
  .cfi_restore_state
.Lother:
  call .Lbehind
  ${leave}`,
  },
  "the second padding of two is run": {
    body: `${entered(".Lnops").enter}
  jmp 4f
.Lnops:
  ${padding(7)}
4:
  ${filler(80)}
  test $1, %bl
  je 5f
  jmp 2f
  ${padding(2)}
5:
  ${filler(60)}
  call g
1:
  STAP_PROBE(ways, site)
  jmp 3f
2:
  lea 7(%rax), %eax
  jmp 1b
3:
  ${wall}${leave}`,
    data: entered(".Lnops").data,
  },
  "pointers lead to every instruction that could make room": {
    body: `
  cmp $5, %ebx
  jne 9f
  lea pointers(%rip), %rdx
  jmp *48(%rdx)
9:
.Lrow:
  ${wall}
  test $1, %bl
  jne 2f
  lea 9(%rax), %eax
  jmp 1f
3:
  .byte 0xe9
  .long 4f - . - 4
1:
  STAP_PROBE(ways, site)
  jmp 3b
2:
  lea 7(%rax), %eax
  jmp 1b
4:
.Lrow2:
  ${wall}${leave}`,
    data: `pointers:
  .set i, 0
  .rept 45
  .quad .Lrow + i, .Lrow2 + i
  .set i, i + 3
  .endr`,
  },
  "what the call calls looks at its return address": {
    body: `${wall}
  test $1, %bl
  jne 2f
  call 1f
1:
  STAP_PROBE(ways, site)
  jmp 3f
2:
  push $0
3:
  pop %rcx
  lea 1b(%rip), %rdx
  cmp %rdx, %rcx
  sete %cl
  movzbl %cl, %ecx
  add %ecx, %eax
  ${wall}${leave}`,
  },
};

const flags = ["-x", "assembler-with-cpp", "-fPIE", "-pie"];
const noUprobes = cannotTrace("hits of probes with little room");
/** A process that traces takes its time: LONG=1 counts hits in all, else in the first program of each tactic, and where probes are neighbours. */
const isCounted = (way: Way): boolean =>
  process.env.LONG === "1" ||
  Object.keys(way.hits).length > 1 ||
  Object.values(ways).find(({ tactic }) => tactic === way.tactic) === way;

interface Verdicts {
  readonly summary: Readonly<Record<"equivalent" | "unproved" | "different", number>>;
  readonly sites: readonly { readonly verdict: string; readonly reason: string | null }[];
}

/** What verify says; exit status 3 is for the expectations to see. */
async function verified(file: string): Promise<Verdicts> {
  const { stdout, stderr } = await usdtNop5("verify", "--json", file);
  if (stdout === "") throw new Error(stderr);
  return JSON.parse(stdout) as Verdicts;
}

/** How often each probe is hit by a uprobe, and what the program says meanwhile. */
async function hitsOf(file: string): Promise<Record<string, number>> {
  const { stdout, stderr, status } = await usdtNop5("live", "--json", "--", file);
  if (status !== 0) throw new Error(stderr);
  const { sites } = JSON.parse(stdout) as { sites: readonly { name: string; hits: number }[] };
  return Object.fromEntries(sites.map(({ name, hits }) => [name, hits]));
}

describe.skipIf(!canCompile)("sites with little room", () => {
  describe.each(Object.entries(ways))("%s", (_, way) => {
    const { body, data, tactic, hits } = way;
    let input: string;
    let output: string;
    let tactics: readonly (string | null)[];
    beforeAll(async () => {
      input = await compile(program(body, data), ...flags);
      output = scratch("rewritten");
      const { sites } = await rewrite(input, output);
      expect(sites.map((s) => s.reason)).toEqual(sites.map(() => null));
      tactics = sites.map((s) => s.tactic);
    });

    it("are rewritten, and compute the same", async () => {
      expect(tactics).toContain(tactic);
      expect(await must(output, [])).toBe(await must(input, []));
    });

    it("are the same by verify", async () => {
      const { summary, sites } = await verified(output);
      expect(sites.map((s) => s.reason)).toEqual(sites.map(() => null));
      expect([summary.different, summary.unproved]).toEqual([0, 0]);
    });

    it.skipIf(noUprobes || !isCounted(way))("are hit by uprobes as often as before", async () => {
      expect(await hitsOf(input)).toEqual(hits);
      expect(await hitsOf(output)).toEqual(hits);
    });
  });

  it.each(Object.entries(dangers))("compute the same where %s", async (_, { body, data }) => {
    const input = await compile(program(body, data), ...flags);
    const output = scratch("rewritten");
    const { sites } = await rewrite(input, output);
    for (const site of sites) if (site.status === "skipped") expect(site.reason).toMatch(/\S+ \S+/);
    expect(await must(output, [])).toBe(await must(input, []));
    // Where all are left alone the output is a copy.
    if (sites.every((site) => site.status === "skipped")) return;
    expect((await verified(output)).summary.different).toBe(0);
  });
});
