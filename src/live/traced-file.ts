/** The probes of a file as places for uprobes. Several notes may share a place, which gets one uprobe. */
import { realpathSync } from "node:fs";
import type { FileOffset, Vaddr } from "../address.js";
import { offsetOf, parseElf } from "../elf/image.js";
import { readInput } from "../files/input.js";
import type { KernelFacts, LongNop } from "../kernel/kernels.js";
import { treatmentAt } from "../kernel/treatment.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { findTwins, twinPlaces } from "../usdt/twins.js";
import type { UprobePoint } from "./uprobes.js";

/** How a file is traced. */
export interface Tracing {
  /** Attach one byte on where the note's nop has this one after it, as a libbpf does on kernels that optimize it. */
  readonly behind?: LongNop;
  /** What is traced on it: places that it refuses get no uprobe, for one there would be taken and never fire. */
  readonly kernel?: KernelFacts;
}

export interface TracedSite {
  readonly provider: string;
  readonly name: string;
  readonly location: Vaddr;
  /** Which of the file's places, or null where there is none. */
  readonly place: number | null;
  /** Why there is none, or null. */
  readonly obstacle: string | null;
  /** The kernel takes no uprobe on what stands there. */
  readonly refused: boolean;
  /** The other place of a universal probe, of which a pass runs one, or null; its site stands beside this one. */
  readonly twin: Vaddr | null;
  /** It is the twin of the site before it. */
  readonly isSecond: boolean;
}

export interface TracedFile {
  /** As the user named it. */
  readonly path: string;
  readonly realPath: string;
  /** What /proc/PID/maps calls it: device numbers and inode. */
  readonly identity: string;
  readonly inode: string;
  readonly sites: readonly TracedSite[];
  /** Distinct places, each with its file offset. */
  readonly places: readonly UprobePoint[];
}

/**
 * Reads the probes of a program or library.
 * @throws InputError where it is no such file
 */
export function readTracedFile(path: string, { behind, kernel }: Tracing = {}): TracedFile {
  const file = readInput(path);
  const { stat } = file;
  const image = parseElf(file.bytes, file);
  const realPath = realpathSync(path);
  const places: UprobePoint[] = [];
  const placeAt = new Map<number, number>();
  const notes = readUsdtNotes(image);
  const pairs = findTwins(image, notes);
  const twins = twinPlaces(notes, pairs);
  const second = new Set(pairs.map((pair) => pair.twin));
  const sites = notes.map((note, i): TracedSite => {
    const code = codeFrom(image, note.location);
    const at = offsetOf(image, note.location);
    const { provider, name, location } = note;
    const known = { provider, name, location, refused: false, twin: twins[i]!, isSecond: second.has(i) };
    if (code === null || at === undefined) return { ...known, place: null, obstacle: "its note leads to no code" };
    const skip = probeInstruction(code) === `nop,${behind}` ? 1 : 0;
    if (kernel !== undefined && treatmentAt(kernel, code.subarray(skip), location + skip) === "refused") {
      const obstacle = `refused: Linux ${kernel.range} takes no uprobe on this nop`;
      return { ...known, place: null, obstacle, refused: true };
    }
    const offset = at + skip;
    const semaphoreOffset: FileOffset | null = note.semaphore === 0 ? null : (offsetOf(image, note.semaphore) ?? null);
    let place = placeAt.get(offset);
    if (place === undefined) {
      place = places.push({ path: realPath, offset, semaphoreOffset }) - 1;
      placeAt.set(offset, place);
    } else if (places[place]!.semaphoreOffset === null) {
      places[place] = { path: realPath, offset, semaphoreOffset };
    }
    return { ...known, place, obstacle: null };
  });
  return { path, realPath, identity: identityOf(stat.dev, stat.ino), inode: String(stat.ino), sites, places };
}

/** Two names of one file are one file. */
export function distinctFiles(files: readonly TracedFile[]): readonly TracedFile[] {
  return [...new Map(files.map((file) => [file.identity, file])).values()];
}

/** "fe:01 1234": major and minor as two hexadecimal digits or more, and the inode. */
export function identityOf(device: bigint, inode: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn);
  return `${major.toString(16).padStart(2, "0")}:${minor.toString(16).padStart(2, "0")} ${inode}`;
}
