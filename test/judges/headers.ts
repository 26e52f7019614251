/** Section and program headers, and the build-id, as readelf prints them. */
import { must } from "../run.js";

export interface Section {
  readonly index: number;
  readonly name: string;
  readonly type: string;
  readonly address: bigint;
  readonly offset: bigint;
  readonly size: bigint;
  readonly flags: string;
}

export interface Segment {
  readonly type: string;
  readonly offset: bigint;
  readonly vaddr: bigint;
  readonly fileSize: bigint;
  readonly memorySize: bigint;
  /** Of "RWE". */
  readonly flags: string;
}

export async function readSections(file: string): Promise<readonly Section[]> {
  const text = await must("readelf", ["-SW", file]);
  const row =
    /^ *\[ *(\d+)\] (.*?) +([A-Z0-9_]+|[0-9a-f]+: <unknown>) +([0-9a-f]{16}) ([0-9a-f]{6,}) ([0-9a-f]{6,}) [0-9a-f]{2,} +([A-Za-z]*) +\d+ +\d+ +\d+$/gm;
  const sections = [...text.matchAll(row)].map((found) => ({
    index: Number(found[1]),
    name: found[2]!,
    type: found[3]!,
    address: BigInt(`0x${found[4]}`),
    offset: BigInt(`0x${found[5]}`),
    size: BigInt(`0x${found[6]}`),
    flags: found[7]!,
  }));
  const promised = /There are (\d+) section headers/.exec(text)?.[1];
  // A row that this reader does not understand must not pass for a file without it.
  if (sections.length !== Number(promised))
    throw new Error(`readelf -S ${file}: ${sections.length} of ${promised} read`);
  return sections;
}

export async function readSegments(file: string): Promise<readonly Segment[]> {
  const text = await must("readelf", ["-lW", file]);
  const row =
    /^ +([A-Z_0-9+x]+) +0x([0-9a-f]+) 0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+) 0x([0-9a-f]+) ([R ][W ][E ]) 0x[0-9a-f]+$|^ +([A-Z_0-9+x]+) +0x([0-9a-f]+) 0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+) 0x([0-9a-f]+) ([R ][W ][E ]) 0$/gm;
  const segments = [...text.matchAll(row)].map((found) => {
    const [type, offset, vaddr, fileSize, memorySize, flags] = found[1] === undefined ? found.slice(7) : found.slice(1);
    return {
      type: type!,
      offset: BigInt(`0x${offset}`),
      vaddr: BigInt(`0x${vaddr}`),
      fileSize: BigInt(`0x${fileSize}`),
      memorySize: BigInt(`0x${memorySize}`),
      flags: flags!.replaceAll(" ", ""),
    };
  });
  const promised = /There (?:are|is) (\d+) program headers?/.exec(text)?.[1];
  if (segments.length !== Number(promised))
    throw new Error(`readelf -l ${file}: ${segments.length} of ${promised} read`);
  return segments;
}

export async function readBuildId(file: string): Promise<string | null> {
  return /Build ID: ([0-9a-f]+)/.exec(await must("readelf", ["-nW", file]))?.[1] ?? null;
}

/** Where an address is in the file, by the loadable segments: what libbpf and the kernel ask. */
export function fileOffset(segments: readonly Segment[], address: bigint, flags = ""): bigint | null {
  const holder = segments.find(
    (segment) =>
      segment.type === "LOAD" &&
      address >= segment.vaddr &&
      address < segment.vaddr + segment.fileSize &&
      [...flags].every((flag) => segment.flags.includes(flag)),
  );
  return holder === undefined ? null : address - holder.vaddr + holder.offset;
}

/** Whether perf's rule (offset = address + sh_offset - sh_addr of .stapsdt.base) finds the place where the kernel does. */
export function perfFinds(sections: readonly Section[], segments: readonly Segment[], address: bigint): boolean {
  const base = sections.find((section) => section.name === ".stapsdt.base");
  return base !== undefined && address + base.offset - base.address === fileOffset(segments, address, "E");
}
