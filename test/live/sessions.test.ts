/**
 * Entries, returns and sessions of BPF programs on probes at functions' beginnings, before and after rewriting: what
 * a consumer sees, what it hands over, what it changes. On the kernel that runs; test/kernels/sessions.test.ts has
 * others.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readlinkSync, readSync } from "node:fs";
import { constants, release } from "node:os";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { PT_LOAD } from "../../src/elf/constants.js";
import { parseElf } from "../../src/elf/image.js";
import { parseVersion, type Version } from "../../src/kernel/kernels.js";
import { runningKernel } from "../../src/live/running-kernel.js";
import { list } from "../command.js";
import { skipBecause } from "../packages/skips.js";
import { Asked, BpfTracer, type TracerKind } from "./bpf-tracer.js";
import { cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith } from "./rewriting.js";

const kernel = runningKernel();
/** The layout that this kernel makes a call of, and where in it the call is. */
const [layout, inside] = kernel.optimizes === "nop10" ? (["nop,nop10", 1] as const) : (["nop5", 0] as const);
const CALL = /^(e8|488d642480e8)/;
/** 3 n + 1 from 0 to 9, and the odd ones among the n: 5 n + 7 is what a session hands over. */
const [SUM, HANDED_OVER] = [145, 5 * 25 + 7 * 5];
/** rax, rcx, r11 and 3 rdi + 1 as the program has set them; the carry flag. */
const UNCHANGED = "101010101010101 202020202020202 a0a0a0a0a0a0a0a 1212121212121213 1";

/** Which kernels certainly have it: 6.18.44 has no changes, 7.1.13 has. */
const [SESSIONS, CHANGES] = [[6, 13] as Version, [7, 1] as Version];

interface Place {
  readonly file: string;
  /** File offset where a tracer attaches that knows the kernel. */
  readonly offset: number;
}

/** A program that waits to be asked, and its memory. */
class Program extends Asked {
  constructor(readonly file: string) {
    super(spawn(file, []));
  }

  /** Where a file offset is in its memory. */
  addressOf(offset: number): number {
    const maps = readFileSync(`/proc/${this.process.pid}/maps`, "latin1").split("\n");
    for (const line of maps) {
      const [range, permissions, at, , , name] = line.split(/\s+/);
      const [start, end] = range!.split("-").map((word) => Number.parseInt(word, 16)) as [number, number];
      const from = Number.parseInt(at ?? "", 16);
      const holds = name === readlinkSync(`/proc/${this.process.pid}/exe`) && permissions!.includes("x");
      if (holds && offset >= from && offset < from + end - start) return start + offset - from;
    }
    throw new Error(`${this.file}: offset ${offset} is not mapped`);
  }

  bytesAt(offset: number): string {
    const memory = openSync(`/proc/${this.process.pid}/mem`, "r");
    try {
      const bytes = Buffer.alloc(10);
      readSync(memory, bytes, 0, bytes.length, this.addressOf(offset));
      return bytes.toString("hex");
    } finally {
      closeSync(memory);
    }
  }
}

/** Every register has its number in each of its bytes, rdx and rsp aside, and the carry flag is set. */
function expectPattern(registers: ReadonlyMap<string, bigint>, kind: "entry" | "return"): void {
  const byte = (n: number): bigint => 0x0101010101010101n * BigInt(n);
  const expected = { rax: 1, rcx: 2, rbx: 3, rbp: 4, rsi: 5, rdi: 6, r9: 8, r10: 9, r11: 10 };
  for (const [name, n] of Object.entries({ ...expected, r12: 11, r13: 12, r14: 13, r15: 14 }))
    expect(registers.get(name), name).toBe(byte(n));
  expect(registers.get("r8")).toBe(kind === "entry" ? byte(7) : 3n * byte(6) + 1n);
  expect(registers.get("rflags")! & 1n).toBe(1n);
  // The return address is there, or is not any more.
  expect(registers.get("rsp")! % 16n).toBe(kind === "entry" ? 8n : 0n);
}

describe.skipIf(cannotTrace("sessions"))("BPF programs", () => {
  const places = new Map<string, Place>();

  beforeAll(async () => {
    const original = await build("gcc", programSource("entered.c"), "-O2");
    const rewritten = await rewriteWith(original, "--layout", layout);
    expect(rewritten.sites.every(({ status }) => status === "rewritten")).toBe(true);
    for (const [what, file, more] of [
      ["original", original, 0],
      ["rewritten", rewritten.path, inside],
    ] as const)
      for (const { name, offset } of await listed(file)) places.set(`${what} ${name}`, { file, offset: offset + more });
  });
  afterAll(() => places.clear());

  /** A program under a tracer; where the kernel refuses the tracer, its error number. */
  async function under(
    kind: TracerKind,
    place: string,
    body: (program: Program, tracer: BpfTracer, place: Place) => Promise<void>,
  ): Promise<string | null> {
    const where = places.get(place)!;
    const program = new Program(where.file);
    expect(await program.says()).toBe("here");
    const tracer = await BpfTracer.start(kind, where.file, where.offset);
    try {
      if (typeof tracer === "string") return tracer;
      await body(program, tracer, where);
      return null;
    } finally {
      if (typeof tracer !== "string") await tracer.stop();
      expect(await program.ask("s")).toBe(String(SUM));
      expect(await program.end()).toBe("exit status 0");
    }
  }

  /** A kernel from before that may refuse what is tried: the log says so then. */
  const had = (refusal: string | null, what: string, since: Version): void => {
    if (refusal !== null) skipBecause(what, `the kernel says: ${refusal}`);
    const [major, minor] = parseVersion(release())!;
    if (major > since[0] || (major === since[0] && minor >= since[1])) expect(refusal, what).toBe(null);
  };

  for (const file of ["original", "rewritten"] as const)
    describe(file, () => {
      const becomesCall = file === "rewritten" && kernel.optimizes !== null;

      it("an entry is called at each pass, and goes away", async () => {
        const refusal = await under("entry", `${file} tripled`, async (program, tracer, { offset }) => {
          for (const round of [1, 2, 3]) {
            expect(await program.ask("s")).toBe(String(SUM));
            expect(await tracer.seen()).toMatchObject({ entries: 10 * round, returns: 0 });
          }
          expect(CALL.test(program.bytesAt(offset))).toBe(becomesCall);
        });
        expect(refusal).toBe(null);
      });

      it("a return is called at each return", async () => {
        const refusal = await under("return", `${file} tripled`, async (program, tracer) => {
          expect(await program.ask("s")).toBe(String(SUM));
          const { entries, returns, registers } = await tracer.seen();
          expect([entries, returns]).toEqual([0, 10]);
          expect(registers.get("rax")).toBe(28n);
        });
        expect(refusal).toBe(null);
      });

      it("a session's entry decides whether the return runs, and hands over 8 bytes", async () => {
        const refusal = await under("session", `${file} tripled`, async (program, tracer, { offset }) => {
          for (const round of [1, 2]) {
            expect(await program.ask("s")).toBe(String(SUM));
            const { entries, returns, handedOver } = await tracer.seen();
            expect([entries, returns, handedOver]).toEqual([10 * round, 5 * round, HANDED_OVER * round]);
          }
          expect(CALL.test(program.bytesAt(offset))).toBe(becomesCall);
        });
        had(refusal, "sessions", SESSIONS);
      });

      it("a session and an entry at the same place do not disturb each other", async () => {
        const refusal = await under("session", `${file} tripled`, async (program, tracer, { file: at, offset }) => {
          const other = await BpfTracer.start("entry", at, offset);
          if (typeof other === "string") throw new Error(other);
          expect(await program.ask("s")).toBe(String(SUM));
          expect(await other.seen()).toMatchObject({ entries: 10, returns: 0 });
          await other.stop();
          expect(await program.ask("s")).toBe(String(SUM));
          expect(await tracer.seen()).toMatchObject({ entries: 20, returns: 10, handedOver: 2 * HANDED_OVER });
        });
        had(refusal, "sessions beside entries", SESSIONS);
      });

      for (const kind of ["entry", "return"] as const)
        it(`${kind}: a consumer sees the registers that the program has there`, async () => {
          await under(kind, `${file} patterned`, async (program, tracer, { offset }) => {
            // The first hit traps; then there may be a call.
            for (let round = 0; round < 3; round++) {
              expect(await program.ask("r")).toBe(UNCHANGED);
              const { registers } = await tracer.seen();
              expectPattern(registers, kind);
              if (kind === "entry") expect(registers.get("rip")).toBe(BigInt(program.addressOf(offset)));
            }
          });
        });

      it("registers that a consumer changes reach the program", async () => {
        const refusal = await under("change", `${file} patterned`, async (program, tracer, { offset }) => {
          // rdi 1000, rax 1001, rcx 1002, r11 1003, and the other carry.
          for (let round = 0; round < 3; round++) expect(await program.ask("r")).toBe("3e9 3ea 3eb bb9 0");
          expect(await tracer.seen()).toMatchObject({ entries: 3 });
          expect(CALL.test(program.bytesAt(offset))).toBe(becomesCall);
        });
        had(refusal, "registers that a consumer changes", CHANGES);
      });

      it("a consumer that changes rip sends the program elsewhere", async () => {
        const refusal = await under("skip", `${file} patterned`, async (program) => {
          for (let round = 0; round < 3; round++) expect((await program.ask("r")).split(" ")[3]).toBe("4d");
        });
        had(refusal, "rip that a consumer changes", CHANGES);
      });
    });

  it("the system calls of trampolines are refused from elsewhere, traced or not", async () => {
    const asks = async (program: Program): Promise<void> => {
      expect(await program.ask("6")).toBe(String(constants.errno[kernel.answers]));
    };
    await under("return", "rewritten tripled", async (program) => {
      expect(await program.ask("s")).toBe(String(SUM));
      await asks(program);
    });
    const { file } = places.get("rewritten tripled")!;
    const program = new Program(file);
    expect(await program.says()).toBe("here");
    await asks(program);
    // 335 outside of a return trampoline; before 6.11 there is no such call.
    const answer = await program.ask("3");
    expect(answer === "SIGILL" || (kernel.name === "legacy" && answer === String(constants.errno.ENOSYS))).toBe(true);
    await program.end();
  });
});

/** The probes of a file, by the file offsets of their notes' locations. */
async function listed(file: string): Promise<readonly { readonly name: string; readonly offset: number }[]> {
  const { programHeaders } = parseElf(readFileSync(file));
  return (await list(file)).map(({ name, location }) => {
    const at = Number(location);
    const segment = programHeaders.find((p) => p.p_vaddr <= at && at < p.p_vaddr + p.p_filesz && p.p_type === PT_LOAD)!;
    return { name, offset: at - segment.p_vaddr + segment.p_offset };
  });
}
