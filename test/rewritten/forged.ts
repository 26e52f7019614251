/** A rewritten file in which somebody wrote something else into what it carries, with all digests made anew. */
import { type ElfImage, parseElf, sectionBytes, sectionNamed } from "../../src/elf/image.js";
import { sealCarry } from "../../src/rewritten/carry.js";
import { CARRY_SECTION } from "../../src/rewritten/section-names.js";

/** Where the length of the memo stands in the section, and then the memo. */
const MEMO_AT = 8 + 4 + 32 + 8 + 2 * 6 + 32;
const [HASH_AT, CHECK_END] = [8 + 4, 8 + 4 + 32 + 8];
const [SH_OFFSET, SH_SIZE, SHDR_SIZE] = [24, 32, 64];

/** The parts of the section that a stranger chooses; what is not given stays. */
export interface Forged {
  readonly memo?: string | Uint8Array;
  /** The undo and all that comes after it. */
  readonly undo?: Uint8Array;
}

/** The file with another section at its end. */
export function forged(rewritten: Buffer, { memo, undo }: Forged): Buffer {
  const image = parseElf(rewritten);
  const section = sectionNamed(image, CARRY_SECTION)!;
  const carry = sectionBytes(image, section);
  const end = MEMO_AT + 4 + carry.readUInt32LE(MEMO_AT);
  const said = memo === undefined ? carry.subarray(MEMO_AT + 4, end) : Buffer.from(memo as Uint8Array);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(said.length);
  const made = Buffer.concat([carry.subarray(0, MEMO_AT), size, said, undo ?? carry.subarray(end)]);
  const bytes = Buffer.concat([rewritten, made]);
  const header = image.header.e_shoff + section.index * SHDR_SIZE;
  bytes.writeBigUInt64LE(BigInt(rewritten.length), header + SH_OFFSET);
  bytes.writeBigUInt64LE(BigInt(made.length), header + SH_SIZE);
  const own = bytes.subarray(rewritten.length);
  own.fill(0, HASH_AT, CHECK_END);
  sealCarry(own, rewritten.length, { size: bytes.length, pieces: [{ offset: 0, bytes }] });
  return bytes;
}

/** The memo that a file carries. */
export const memoOf = (image: ElfImage): string => {
  const carry = sectionBytes(image, sectionNamed(image, CARRY_SECTION)!);
  return carry.toString("utf8", MEMO_AT + 4, MEMO_AT + 4 + carry.readUInt32LE(MEMO_AT));
};
