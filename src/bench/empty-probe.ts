/**
 * The cheapest tracer there is: an empty BPF program on each probe. With the machine's trace buffer as the tracer
 * writing the record costs as much as getting there and back, and hides the difference that is to be measured.
 *
 * Node has no bpf system call, so a small program of our own makes it, and holds the links as long as its input is
 * open: whatever becomes of the tool, the uprobes go with it.
 *
 *     bpf(BPF_PROG_LOAD)      mov r0, 0; exit
 *     bpf(BPF_LINK_CREATE)    uprobe_multi: a file, and offsets in it (Linux 6.6); one for each file
 *     write a byte            0, or the error number of what failed
 *     read                    until the end of the input
 *
 * Layouts: union bpf_attr in linux/bpf.h.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { CODE, DATA, programBytes, writeProgramFile } from "../live/program-file.js";
import type { UprobePoint } from "../live/uprobes.js";
import { Assembler, at } from "../x86/assembler.js";
import { linkOne } from "../x86/link.js";

const Call = { read: 0, write: 1, exitGroup: 231, bpf: 321 } as const;
const BPF_PROG_LOAD = 5;
const BPF_LINK_CREATE = 28;
const BPF_PROG_TYPE_KPROBE = 2;
const BPF_TRACE_UPROBE_MULTI = 48;
const BPF_INSTRUCTIONS = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
const BPF_INSTRUCTION_SIZE = 8;

/** In the data, counted from its start: the attributes of the two calls, with their fields, and a byte to write. */
const LOAD = 0;
const Load = { type: 0, instructions: 8, license: 16, attachType: 64, size: 72 } as const;
const LINK = 128;
const Link = { program: 0, attachType: 8, path: 16, offsets: 24, count: 48, size: 64 } as const;
const BYTE = 256;
const DATA_SIZE = 264;

/** Two 32-bit fields as one word. */
const fields = (low: number, high: number): number => high * 2 ** 32 + low;

/** The program as a file's bytes. */
function emptyProbeProgram(points: readonly UprobePoint[]): Buffer {
  const code = new Assembler();
  const paths = [...new Set(points.map((point) => point.path))];
  const data = (offset: number) => at("rbp", offset);

  code.op("mov", "rbp", DATA);
  const count = BPF_INSTRUCTIONS.length / BPF_INSTRUCTION_SIZE;
  code.op("mov", "rax", fields(BPF_PROG_TYPE_KPROBE, count)).op("mov", data(LOAD + Load.type), "rax");
  code.address("rax", "instructions").op("mov", data(LOAD + Load.instructions), "rax");
  code.address("rax", "license").op("mov", data(LOAD + Load.license), "rax");
  code.op("mov", "rax", fields(0, BPF_TRACE_UPROBE_MULTI)).op("mov", data(LOAD + Load.attachType), "rax");
  code.op("lea", "rsi", data(LOAD)).system(Call.bpf, BPF_PROG_LOAD, undefined, Load.size);
  code.op("cmp", "rax", 0).jumpIf("l", "tell");
  code.op("mov", data(LINK + Link.program), "rax").op("mov", data(LINK + Link.attachType), BPF_TRACE_UPROBE_MULTI);
  for (const [i, path] of paths.entries()) {
    code.address("rax", `path ${i}`).op("mov", data(LINK + Link.path), "rax");
    code.address("rax", `offsets ${i}`).op("mov", data(LINK + Link.offsets), "rax");
    code.op("mov", data(LINK + Link.count), points.filter((point) => point.path === path).length);
    code.op("lea", "rsi", data(LINK)).system(Call.bpf, BPF_LINK_CREATE, undefined, Link.size);
    code.op("cmp", "rax", 0).jumpIf("l", "tell");
  }
  code.op("xor", "eax", "eax");
  code.label("tell").op("neg", "rax").op("mov", data(BYTE), "rax");
  code.op("lea", "rsi", data(BYTE)).system(Call.write, 1, undefined, 1);
  code.op("lea", "rsi", data(BYTE)).system(Call.read, 0, undefined, 1).system(Call.exitGroup, 0);

  code.align(8).label("instructions").raw(BPF_INSTRUCTIONS).label("license").raw(Buffer.from("GPL\0"));
  for (const [i, path] of paths.entries()) {
    code
      .label(`path ${i}`)
      .raw(Buffer.from(`${path}\0`))
      .align(8)
      .label(`offsets ${i}`);
    for (const point of points) if (point.path === path) code.words([point.offset], 8);
  }
  return programBytes(linkOne(code, CODE).bytes, DATA_SIZE);
}

/**
 * Puts an empty BPF program on each point, and waits until it is there.
 * @returns what takes them away again, or null where this kernel does not do it
 */
export async function attachEmptyProbes(points: readonly UprobePoint[]): Promise<(() => Promise<void>) | null> {
  const file = writeProgramFile("empty-probe", emptyProbeProgram(points));
  try {
    const holder = spawn(file.path, [], { stdio: ["pipe", "pipe", "ignore"] });
    const ended = once(holder, "close").catch(() => []);
    holder.stdin.on("error", () => {});
    const answer = await Promise.race([once(holder.stdout, "data") as Promise<[Buffer]>, ended.then(() => null)]);
    const detach = async (): Promise<void> => {
      holder.stdin.end();
      await ended;
    };
    if (answer !== null && answer[0][0] === 0) return detach;
    await detach();
    return null;
  } finally {
    file.remove();
  }
}
