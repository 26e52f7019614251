/**
 * Which nop a kernel image turns into a call, without booting it: the trampoline that it maps into programs stands in it as
 * bytes, and ends as the call in front of it needs.
 *
 *     push rcx; push r11; push rax; mov rax,336; syscall; pop rax; pop r11; pop rcx;  ret          nop5
 *                                                                                     ret $0x80    nop10
 *
 * The image is a bzImage: its header says where the compressed kernel is (Documentation/arch/x86/boot.rst: setup_sects,
 * payload_offset, payload_length).
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import type { LongNop } from "../../src/kernel/kernels.js";

const TRAMPOLINE = Buffer.from("51415350" + "48c7c050010000" + "0f05" + "58415b59", "hex");
const [RET, RET_IMM16] = [0xc3, 0xc2];

/** @throws Error where it is no kernel, or is compressed in a way that is not known here */
export function nopOfImage(path: string): LongNop | null {
  const kernel = uncompressed(readFileSync(path));
  const at = kernel.indexOf(TRAMPOLINE);
  if (at < 0) return null;
  const end = kernel.subarray(at + TRAMPOLINE.length);
  if (end[0] === RET) return "nop5";
  if (end[0] === RET_IMM16 && end.readUInt16LE(1) === 0x80) return "nop10";
  throw new Error(`${path}: its trampoline ends in ${end.subarray(0, 3).toString("hex")}`);
}

const [SETUP_SECTS, HEADER_MAGIC, PAYLOAD_OFFSET, PAYLOAD_LENGTH] = [0x1f1, 0x202, 0x248, 0x24c];
const SECTOR = 512;

function uncompressed(image: Buffer): Buffer {
  if (image.toString("latin1", HEADER_MAGIC, HEADER_MAGIC + 4) !== "HdrS") throw new Error("not a bzImage");
  const start = (image[SETUP_SECTS]! + 1) * SECTOR + image.readUInt32LE(PAYLOAD_OFFSET);
  const payload = image.subarray(start, start + image.readUInt32LE(PAYLOAD_LENGTH));
  switch (payload.toString("hex", 0, 4)) {
    case "28b52ffd":
      return piped("zstd", payload);
    case "fd377a58":
      return piped("xz", payload);
    case "02214c18":
      return lz4(payload);
    default:
      return gunzipSync(payload);
  }
}

/** The size of the kernel, which stands behind what is compressed, makes these tools complain when all is written. */
function piped(tool: "zstd" | "xz", payload: Buffer): Buffer {
  const { stdout, error } = spawnSync(tool, ["-dc", ...(tool === "xz" ? ["--single-stream"] : [])], {
    input: payload,
    maxBuffer: 2 ** 28,
  });
  if (error !== undefined || stdout.length < payload.length) throw new Error(`${tool}: ${error?.message ?? "damaged"}`);
  return stdout;
}

/** The old frame of LZ4: a magic number, then blocks of at most 8 MiB, each with its compressed size before it. */
function lz4(payload: Buffer): Buffer {
  const BLOCK = 8 << 20;
  const blocks: Buffer[] = [];
  for (let at = 4; at + 4 < payload.length; ) {
    const size = payload.readUInt32LE(at);
    if (at + 4 + size > payload.length) break;
    const block = Buffer.alloc(BLOCK);
    blocks.push(block.subarray(0, lz4Block(payload.subarray(at + 4, at + 4 + size), block)));
    at += 4 + size;
  }
  return Buffer.concat(blocks);
}

/** Sequences of literals and a match: a token with both lengths, 15 meaning that more follows; an offset back. */
function lz4Block(input: Buffer, output: Buffer): number {
  let from = 0;
  let to = 0;
  const lengthOf = (nibble: number): number => {
    let length = nibble;
    if (nibble === 15) {
      let more = 255;
      while (more === 255) {
        more = input[from++]!;
        length += more;
      }
    }
    return length;
  };
  while (from < input.length) {
    const token = input[from++]!;
    const literals = lengthOf(token >> 4);
    input.copy(output, to, from, from + literals);
    from += literals;
    to += literals;
    if (from >= input.length) break;
    const offset = input.readUInt16LE(from);
    from += 2;
    const match = lengthOf(token & 15) + 4;
    for (let i = 0; i < match; i++) output[to + i] = output[to + i - offset]!;
    to += match;
  }
  return to;
}
