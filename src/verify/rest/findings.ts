/**
 * What the rules about the rest of a file find, and where.
 *
 * A file over which another tool went since (strip, say) is no longer laid out as it was. Then only what is loaded can
 * be held against the original; the rest is told, not judged. So each finding says which of the two it is about.
 */
import { type FileOffset, hex, type Interval } from "../../address.js";
import { type ElfImage, segmentAt } from "../../elf/image.js";
import type { FileFinding } from "../contract.js";

/** loaded: what the kernel and the dynamic loader see; described: section headers, and what only these lead to. */
export type Part = "loaded" | "described";

export interface Finding extends FileFinding {
  readonly part: Part;
}

/** What a rule answers: what is wrong, and which bytes of the original it has judged, so that nobody else need to. */
export interface Ruling {
  readonly findings: readonly Finding[];
  readonly judged: readonly Interval<FileOffset>[];
}

export const finding = (part: Part, where: string, what: string): Finding => ({ part, where, what });

export const atOffset = (offset: number): string => `offset ${hex(offset)}`;
export const atAddress = (address: number): string => `address ${hex(address)}`;

/** The name of the section that holds a file offset of an image, for a person to read. */
export function sectionAt(image: ElfImage, offset: number): string {
  const section = image.sections.find(
    (s) => s.sh_type !== 0 && s.sh_type !== 8 && offset >= s.sh_offset && offset < s.sh_offset + s.sh_size,
  );
  return section === undefined ? "no section" : section.name || `section ${section.index}`;
}

/** A readable piece of bytes: at most eight of them. */
export function shown(bytes: Uint8Array): string {
  const text = [...bytes.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > 8 ? `${text} ...` : text;
}

/** The bytes of a file that are at link-time addresses [start, start + size), where one segment holds them all. */
export function loadedBytes(image: ElfImage, start: number, size: number): Buffer | undefined {
  const segment = segmentAt(image, start as never);
  if (segment === undefined || start + size > segment.p_vaddr + segment.p_filesz) return undefined;
  const offset = start - segment.p_vaddr + segment.p_offset;
  return image.bytes.subarray(offset, offset + size);
}
