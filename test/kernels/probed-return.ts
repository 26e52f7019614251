/**
 * What a return probe puts in place of a return address: a program that tells the bytes to which its traced function
 * returns. The kernel's page of such code cannot be read from outside, and the program itself can read it.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { CODE, programBytes, writeProgramFile } from "../../src/live/program-file.js";
import { Assembler, at } from "../../src/x86/assembler.js";
import { linkOne } from "../../src/x86/link.js";
import { attach } from "../packages/uprobes.js";

const Call = { write: 1, exitGroup: 231 } as const;
/** programBytes puts the code's first byte here. */
const CODE_OFFSET = 0x1000;
const PASSES = 50;
const SHOWN = 32;

export interface ReturnSeen {
  /** The bytes to which the function returned, without a probe and with one; the same at each pass. */
  readonly untraced: string;
  readonly traced: string;
  readonly passes: number;
  readonly hits: number;
  /** How the traced program ended. */
  readonly end: string;
}

function program(): { readonly bytes: Buffer; readonly entry: number } {
  const code = new Assembler();
  code.op("mov", "ebx", PASSES).label("again").call("traced").op("dec", "rbx").jumpIf("ne", "again");
  code.system(Call.exitGroup, 0);
  code.label("traced").op("mov", "rsi", at("rsp")).system(Call.write, 1, undefined, SHOWN).op("ret");
  code.raw(new Uint8Array(SHOWN));
  const { bytes, addressOf } = linkOne(code, CODE);
  return { bytes: programBytes(bytes, 8), entry: CODE_OFFSET + addressOf("traced") - CODE };
}

/** All that it wrote: one text where that was the same at each pass, else all of them. */
async function told(file: string): Promise<{ readonly text: string; readonly end: string }> {
  const child = spawn(file, [], { stdio: ["ignore", "pipe", "ignore"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  const [status, signal] = (await once(child, "close")) as [number | null, string | null];
  const all =
    Buffer.concat(chunks)
      .toString("hex")
      .match(new RegExp(`.{${2 * SHOWN}}`, "g")) ?? [];
  return { text: [...new Set(all)].join(" "), end: signal ?? `exit status ${status}` };
}

export async function askReturn(): Promise<ReturnSeen> {
  const { bytes, entry } = program();
  const file = writeProgramFile("return", bytes);
  const { text: untraced } = await told(file.path);
  const probes = attach([{ path: file.path, offset: entry, atReturn: true }]);
  try {
    const { text: traced, end } = await told(file.path);
    return { untraced, traced, passes: PASSES, hits: probes.hits()[0]!, end };
  } finally {
    probes.detach();
    file.remove();
  }
}
