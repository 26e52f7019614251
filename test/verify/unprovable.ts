/**
 * A rewritten file that nobody can prove right: its probe stands in code that neither unwind information nor a function
 * symbol describes, and somebody made a nop5 of five nops there all the same. The rewriter itself leaves such probes alone,
 * so the file is put together from its parts.
 */
import { readFileSync } from "node:fs";
import { parseElf } from "../../src/elf/image.js";
import { assemble } from "../../src/rewrite/assemble.js";
import { editAtAddress } from "../../src/rewrite/edits.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { NOP5 } from "../../src/x86/bytes.js";
import { compile } from "../rewrite/compile.js";
import { rewriteFile } from "./held.js";

const source = `
  .globl _start
  .text
  _start: call 1f
          mov $60, %eax
          xor %edi, %edi
          syscall
  1:
  990:    nop
          nop
          nop
          nop
          nop
          ret
  .section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
  .weak _.stapsdt.base
  _.stapsdt.base: .space 1
  .section .note.stapsdt, "", "note"
          .balign 4
          .4byte 992f-991f, 994f-993f, 3
  991:    .asciz "stapsdt"
  992:    .balign 4
  993:    .8byte 990b, _.stapsdt.base, 0
          .asciz "nobody"
          .asciz "knows"
          .asciz ""
  994:    .balign 4
`;

/** The program, and what somebody made of it. */
export async function unprovable(): Promise<{ readonly program: string; readonly bytes: Buffer }> {
  const program = await compile(source, "-x", "assembler-with-cpp", "-nostdlib", "-static");
  if (rewriteFile(program) !== null) throw new Error("the rewriter does not leave the probe alone");
  const image = parseElf(readFileSync(program));
  const { size, pieces } = assemble(image, {
    edits: [editAtAddress(image, readUsdtNotes(image)[0]!.location, NOP5)],
    replaced: new Map(),
    code: undefined,
    probeName: () => "",
    certificates: new Uint8Array(0),
    memo: Buffer.from("{}"),
    original: image,
  });
  const bytes = Buffer.alloc(size);
  for (const piece of pieces) bytes.set(piece.bytes, piece.offset);
  return { program, bytes };
}
