/**
 * What binutils say about a file: the independent reader. Nothing of this project's own ELF or note code is used here, so
 * that an error in it cannot confirm itself.
 */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readSync } from "node:fs";

export interface ReadelfSite {
  readonly provider: string;
  readonly name: string;
  readonly location: number;
  readonly semaphore: number;
  readonly arguments: string;
}

interface LoadSegment {
  readonly p_offset: number;
  readonly p_vaddr: number;
  readonly p_filesz: number;
  readonly executable: boolean;
}

const environment = { ...process.env, LC_ALL: "C" };

function binutils(tool: string, args: readonly string[]): string {
  // readelf warns on stderr about things that are no concern of this test (gaps in notes of other kinds).
  return execFileSync(tool, args, {
    encoding: "utf8",
    env: environment,
    maxBuffer: 1 << 28,
    stdio: ["ignore", "pipe", "ignore"],
  });
}

/** Every stapsdt note as `readelf -n` prints it, in file order, with the prelink rule applied. */
export function readelfSites(file: string): readonly ReadelfSite[] {
  const base = stapsdtBase(file);
  const note =
    /Provider: (\S+)\s+Name: (\S+)\s+Location: 0x([0-9a-f]+), Base: 0x([0-9a-f]+), Semaphore: 0x([0-9a-f]+)\s+Arguments:[ \t]*(.*)/g;
  return [...binutils("readelf", ["-nW", file]).matchAll(note)].map((m) => {
    const shift = base === null ? 0 : base - Number.parseInt(m[4]!, 16);
    const semaphore = Number.parseInt(m[5]!, 16);
    return {
      provider: m[1]!,
      name: m[2]!,
      location: Number.parseInt(m[3]!, 16) + shift,
      semaphore: semaphore === 0 ? 0 : semaphore + shift,
      arguments: m[6]!.trim(),
    };
  });
}

function stapsdtBase(file: string): number | null {
  const found = /\.stapsdt\.base\s+PROGBITS\s+([0-9a-f]+)/.exec(binutils("readelf", ["-SW", file]));
  return found === null ? null : Number.parseInt(found[1]!, 16);
}

export function readelfBuildId(file: string): string | undefined {
  return /Build ID: ([0-9a-f]+)/.exec(binutils("readelf", ["-nW", file]))?.[1];
}

function loadSegments(file: string): readonly LoadSegment[] {
  const load = /^ +LOAD +0x([0-9a-f]+) 0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+ ([RWE ]{3})/gm;
  return [...binutils("readelf", ["-lW", file]).matchAll(load)].map((m) => ({
    p_offset: Number.parseInt(m[1]!, 16),
    p_vaddr: Number.parseInt(m[2]!, 16),
    p_filesz: Number.parseInt(m[3]!, 16),
    executable: m[4]!.includes("E"),
  }));
}

/** Turns addresses into file offsets the way the kernel maps the file; null where nothing of the file is mapped. */
export function addressToOffset(file: string): (address: number, needsCode?: boolean) => number | null {
  const segments = loadSegments(file);
  return (address, needsCode = false) => {
    const home = segments.find((s) => address >= s.p_vaddr && address < s.p_vaddr + s.p_filesz);
    return home === undefined || (needsCode && !home.executable) ? null : address - home.p_vaddr + home.p_offset;
  };
}

export function bytesAt(file: string, offset: number, length: number): Buffer {
  const fd = openSync(file, "r");
  try {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(fd, bytes, 0, length, offset));
  } finally {
    closeSync(fd);
  }
}

/**
 * objdump's reading of the instruction at each offset of a file: the first instruction of as many bytes as an instruction
 * can have. All of them go through one objdump run, as a raw binary with a row of 16 bytes each.
 */
export function disassembleAt(
  file: string,
  offsets: readonly number[],
  scratchFile: (bytes: Buffer) => string,
): readonly string[] {
  const rows = Buffer.concat(
    offsets.map((offset) => {
      const row = Buffer.alloc(ROW, 0x90);
      bytesAt(file, offset, 15).copy(row);
      return row;
    }),
  );
  const raw = scratchFile(rows);
  const listing = binutils("objdump", ["-D", "-w", "-b", "binary", "-m", "i386:x86-64", raw]);
  const byAddress = new Map<number, string>();
  for (const m of listing.matchAll(/^ *([0-9a-f]+):\t([0-9a-f ]+?) *\t(.*)$/gm)) {
    byAddress.set(Number.parseInt(m[1]!, 16), `${m[2]!.trim()}\t${m[3]!.trim()}`);
  }
  return offsets.map((_, row) => byAddress.get(row * ROW) ?? "?");
}

// Wider than an instruction by a run of nops: whatever the 15 bytes hold, the disassembler is in step again at the next row.
const ROW = 32;
