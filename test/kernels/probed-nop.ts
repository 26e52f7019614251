/** A program with a nop of any bytes, anywhere in a page, that waits before it passes it and again afterwards. */
import { PAGE_SIZE } from "../../src/address.js";
import { CODE, programBytes } from "../../src/live/program-file.js";
import { Assembler, at } from "../../src/x86/assembler.js";
import { linkOne } from "../../src/x86/link.js";

const Call = { read: 0, write: 1, exitGroup: 231 } as const;
/** writeProgram puts the code's first byte here. */
const CODE_OFFSET = 0x1000;
export const PASSES = 50;
/** So many bytes are told of the site. */
export const SHOWN = 16;

export interface ProbedNop {
  readonly bytes: Buffer;
  /** File offset of the nop. */
  readonly site: number;
}

/**
 * It writes the bytes at its site, waits for a byte of input, passes the site, writes and waits again, and exits with 0 at
 * the end of its input.
 * @param room how many bytes of the page are left where the nop begins; null: in the middle of a page
 */
export function probedNop(nop: Uint8Array, room: number | null): ProbedNop {
  const code = new Assembler();
  code.op("sub", "rsp", 16).label("again");
  code.address("rsi", "site").system(Call.write, 1, undefined, SHOWN);
  code.op("lea", "rsi", at("rsp")).system(Call.read, 0, undefined, 1).op("cmp", "rax", 1).jumpIf("ne", "end");
  code.op("mov", "ebx", PASSES).label("pass").call("site").op("dec", "rbx").jumpIf("ne", "pass");
  code.op("cmp", "eax", "eax").jumpIf("e", "again");
  code.label("end").system(Call.exitGroup, 0);
  code.align(PAGE_SIZE).raw(new Uint8Array(room === null ? 64 : PAGE_SIZE - room).fill(0x90));
  code.label("site").raw(nop).op("ret");
  code.align(PAGE_SIZE).raw(new Uint8Array(SHOWN));
  const { bytes, addressOf } = linkOne(code, CODE);
  return { bytes: programBytes(bytes, 8), site: CODE_OFFSET + addressOf("site") - CODE };
}
