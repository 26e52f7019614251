/** Rewrites programs in memory, and changes the result byte by byte. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Vaddr, vaddr } from "../../src/address.js";
import { type ElfImage, offsetOf, parseElf } from "../../src/elf/image.js";
import { forEachSymbol, symbolName, symtab } from "../../src/elf/symbols.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { Layout, RewriteReport } from "../../src/rewritten/contract.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { build } from "../fixtures/build.js";

export interface Rewritten {
  readonly original: ElfImage;
  /** The original's, for all who hold files with faults against it. */
  readonly facts: FileFacts;
  /** The rewritten file. */
  readonly bytes: Buffer;
  readonly report: RewriteReport;
}

/** The program of tactics.S as a shared library; its path. */
export async function tacticsLibrary(): Promise<string> {
  const source = fileURLToPath(new URL("./tactics.S", import.meta.url));
  const built = await build({ output: "tactics.so", compiler: "gcc", sources: [source], flags: ["-shared", "-fPIC"] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

export function rewriteFile(path: string, layout: Exclude<Layout, "auto">): Rewritten {
  const original = parseElf(readFileSync(path));
  const options = {
    kernel: "6.18",
    layout,
    only: [],
    newBuildId: false,
    tableAtEnd: false,
    keepOffsets: false,
    forkGuard: false,
  } as const;
  const { content, report } = rewrite(original, options);
  if (content === null) throw new Error(`nothing to rewrite in ${path}`);
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  return { original, facts: new FileFacts(original), bytes, report };
}

/** A copy of a rewritten file, to plant faults in. Addresses are link-time addresses. */
export class Faulty {
  readonly bytes: Buffer;

  constructor(private readonly from: Rewritten) {
    this.bytes = Buffer.from(from.bytes);
  }

  get image(): ElfImage {
    return parseElf(this.bytes);
  }

  /** Where a probe is in the original, and in the rewritten file. */
  probe(name: string): { from: Vaddr; to: Vaddr } {
    const site = this.from.report.sites.find((s) => s.name === name && s.status === "rewritten");
    if (site === undefined) throw new Error(`${name} was not rewritten`);
    return { from: site.location, to: site.newLocation };
  }

  /**
   * Replaces the first bytes `before` (hexadecimal) that stand at most 64 bytes behind a probe's new place, or in front of
   * it, by `after`.
   */
  replace(name: string, before: string, after: string): this {
    const { to } = this.probe(name);
    const old = Buffer.from(before, "hex");
    const found = this.bytes.indexOf(old, this.offset(vaddr(to - 16)));
    if (found < 0 || found > this.offset(to) + 64) throw new Error(`no ${before} near ${name}`);
    return this.write(found, after);
  }

  /** Puts bytes (hexadecimal) at an address. */
  put(address: number, hex: string): this {
    return this.write(this.offset(vaddr(address)), hex);
  }

  /** Changes the text of a probe's note by as many bytes as it has. */
  note(name: string, before: string, after: string): this {
    const note = readUsdtNotes(this.image).find((n) => n.name === name)!;
    const at = this.bytes.indexOf(before, note.offset);
    if (at < 0 || at >= note.offset + note.size || before.length !== after.length)
      throw new Error(`no ${before} in the note of ${name}`);
    this.bytes.write(after, at, "latin1");
    return this;
  }

  /** Lets a probe's note name another place. */
  locate(name: string, address: number): this {
    const note = readUsdtNotes(this.image).find((n) => n.name === name)!;
    this.bytes.writeBigUInt64LE(BigInt(address - note.prelinkShift), note.locationOffset);
    return this;
  }

  /** The 4 bytes of a jump's distance from behind `opcode` (hexadecimal) on, changed by `by`. */
  lead(name: string, opcode: string, by: number): this {
    const { to } = this.probe(name);
    const at = this.bytes.indexOf(Buffer.from(opcode, "hex"), this.offset(to)) + opcode.length / 2;
    this.bytes.writeInt32LE(this.bytes.readInt32LE(at) + by, at);
    return this;
  }

  /** The 4 bytes of a distance, in hexadecimal, counted from behind the instruction that holds it. */
  distance(from: number, to: number): string {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(to - from);
    return bytes.toString("hex");
  }

  /** The address of a function. */
  symbol(name: string): Vaddr {
    const table = symtab(this.image);
    let found: number | undefined;
    if (table !== null)
      forEachSymbol(table, (value, _size, _info, _shndx, index) => {
        if (symbolName(table, index) === name) found = value;
      });
    if (found === undefined) throw new Error(`no symbol ${name}`);
    return vaddr(found);
  }

  private write(offset: number, hex: string): this {
    this.bytes.set(Buffer.from(hex, "hex"), offset);
    return this;
  }

  private offset(address: Vaddr): number {
    const offset = offsetOf(this.image, address);
    if (offset === undefined) throw new Error(`0x${address.toString(16)} is not in the file`);
    return offset;
  }
}
