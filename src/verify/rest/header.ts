/**
 * The ELF header: everything in it says the same but where the two tables are and how long they are; and where a
 * program begins, if that is the code that sets its selector.
 */
import { hex, type Vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { atOffset, type Finding, finding } from "./findings.js";
import { differingRuns } from "./runs.js";
import type { SectionPairs } from "./sections.js";

/** The fields of Elf64_Ehdr that stay, with their offsets and sizes. */
const fields: readonly (readonly [name: string, offset: number, size: number])[] = [
  ["e_ident", 0, 16],
  ["e_type", 16, 2],
  ["e_machine", 18, 2],
  ["e_version", 20, 4],
  ["e_entry", 24, 8],
  ["e_flags", 48, 4],
  ["e_ehsize", 52, 2],
  ["e_phentsize", 54, 2],
  ["e_shentsize", 58, 2],
];

/** @param entry where e_entry leads now, if that has been judged */
export function judgeHeader(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  entry: Vaddr | undefined,
): Finding[] {
  const findings: Finding[] = [];
  for (const [name, offset, size] of fields) {
    const [o, r] = [original, rewritten].map((image) => image.bytes.subarray(offset, offset + size)) as [
      Buffer,
      Buffer,
    ];
    if (differingRuns(o, r).next().done) continue;
    if (name === "e_entry" && rewritten.header.e_entry === entry) continue;
    const number = (bytes: Buffer): string => (size === 16 ? bytes.toString("hex") : hex(littleEndian(bytes)));
    findings.push(finding("loaded", atOffset(offset), `${name} is ${number(r)}, not ${number(o)}`));
  }
  const names = rewritten.header.e_shstrndx;
  if (pairs.numberOf(original.header.e_shstrndx) !== names)
    findings.push(finding("described", atOffset(62), `e_shstrndx names section ${names}, which is another one`));
  return findings;
}

const littleEndian = (bytes: Uint8Array): number => bytes.reduceRight((value, byte) => value * 256 + byte, 0);
