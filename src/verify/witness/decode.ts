/**
 * Instructions, by iced and nobody else: one decoder over the executable sections, one Instruction for all.
 *
 * iced is loaded by require, since an import would have Node look for export names in its generated code first.
 */
import { createRequire } from "node:module";
import { setFlagsFromString } from "node:v8";
import type * as Iced from "iced-x86";
import { type Span, spanAt } from "./spans.js";

// V8 would compile the WebAssembly a second time, optimized, beside us; on two cores that takes more than it gives.
setFlagsFromString("--liftoff-only");

export const iced = createRequire(import.meta.url)("iced-x86") as typeof Iced;
export type { Instruction } from "iced-x86";

/** A span and its decoder, which has a copy of its bytes. */
interface Source {
  readonly span: Span;
  readonly decoder: Iced.Decoder;
  /** Where it goes on by itself; -1: nowhere. */
  next: number;
}

/** One decoder for each span of a file's code, made when it is first asked for. */
export class Sources {
  private readonly made = new Map<Span, Source>();

  constructor(private readonly code: readonly Span[]) {}

  at(address: number): Source | undefined {
    const span = spanAt(this.code, address);
    if (span === undefined) return undefined;
    let source = this.made.get(span);
    if (source === undefined) {
      source = { span, decoder: new iced.Decoder(64, span.bytes, iced.DecoderOptions.None), next: -1 };
      this.made.set(span, source);
    }
    return source;
  }

  /** Gives back what decoding held. */
  free(): void {
    for (const { decoder } of this.made.values()) decoder.free();
    this.made.clear();
  }
}

/** The link-time address that an operand relative to rip names: below 0 where that is in front of the file's memory. */
export const ripAddress = (i: Iced.Instruction): number => Number(BigInt.asIntN(64, i.ipRelMemoryAddress));

/** The mnemonics whose names in iced fit. */
export const mnemonicsLike = (names: RegExp): ReadonlySet<number> =>
  new Set(
    Object.entries(iced.Mnemonic)
      .filter(([name, value]) => names.test(name) && typeof value === "number")
      .map(([, value]) => value as number),
  );

/**
 * Decodes at any address of code. What it gives back is the same object each time. Its sources are shared with others.
 */
export class Decoder {
  readonly instruction = new iced.Instruction();
  private source: Source | undefined;

  constructor(private readonly sources: Sources) {}

  /** The instruction at an address, or undefined where there is none. */
  at(address: number): Iced.Instruction | undefined {
    let { source } = this;
    if (source === undefined || address < source.span.start || address >= source.span.end) {
      source = this.sources.at(address);
      if (source === undefined) return undefined;
      this.source = source;
    }
    const { instruction } = this;
    if (address !== source.next) {
      source.decoder.position = address - source.span.start;
      source.decoder.ip = BigInt(address);
    }
    source.decoder.decodeOut(instruction);
    if (instruction.code === iced.Code.INVALID) {
      source.next = -1;
      return undefined;
    }
    source.next = address + instruction.length;
    if (source.next >= source.span.end) source.next = -1;
    return instruction;
  }

  free(): void {
    this.instruction.free();
  }
}
