/**
 * Which frame records new code gets: what each says, but not where it stands.
 *
 * A piece of new code has an FDE with the CIE of its origin, and so the same personality routine, encodings and flags
 * (the S of signal frames). Its rows say at every new instruction what the origin's say at the place that it came from
 * (frame-program.ts). Where the origin has language-specific data, so has it (exceptions.ts).
 *
 * What cannot be said with certainty is left out: such code has no FDE, and `without` says why.
 */
import { hex, type Interval, type Vaddr, vaddr } from "../../address.js";
import type { CfaRows } from "../../elf/cfa-rows.js";
import type { Cie } from "../../elf/eh-records.js";
import { type FrameState, stateAt } from "../../elf/frame-states.js";
import { encodeUleb } from "../../elf/leb128.js";
import { encodeExceptionTable } from "./exceptions.js";
import { encodeFrameProgram, loweredState, type ProgramRow } from "./frame-program.js";
import type { OriginStretch } from "./origins.js";
import type { UnwindTables } from "./tables.js";

/** New code that wants to be unwound. */
export interface UnwoundCode {
  /** Pieces that come from functions of the input: their stretches, each piece without gaps. */
  readonly pieces: readonly (readonly OriginStretch[])[];
  /** Pieces that come from none. The return address is the only thing that is saved. */
  readonly own: readonly (Interval<Vaddr> & { readonly unwind: CfaRows })[];
}

/** A new FDE, but for its place. */
export interface NewFde extends Interval<Vaddr> {
  /** The input's CIE, or the number of one of our own. */
  readonly cie: Cie | number;
  readonly lsda: Vaddr | undefined;
  /** Call frame instructions. */
  readonly program: Uint8Array;
}

export interface NewFrames {
  /** In ascending order; at least one. */
  readonly fdes: readonly NewFde[];
  /** Contents of CIEs of our own, from after their id. */
  readonly cies: readonly Uint8Array[];
  /** Language-specific data. */
  readonly exceptions: Uint8Array;
  /** New code without an FDE although its origin has one, and why. */
  readonly without: readonly { readonly start: Vaddr; readonly reason: string }[];
}

/**
 * @param exceptionsAt where language-specific data will stand
 * @returns the records, or why there are none
 * @throws InputError where a table of the input is damaged
 */
export function newFrames(tables: UnwindTables, code: UnwoundCode, exceptionsAt: Vaddr): NewFrames | string {
  const draft = new Draft(tables, exceptionsAt);
  for (const piece of code.pieces) draft.addPiece(piece);
  for (const { start, end, unwind } of code.own) draft.addOwn(start, end, unwind);
  return draft.finish();
}

const isCall = ({ lastByte }: OriginStretch): boolean => lastByte > 0;

class Draft {
  readonly #tables: UnwindTables;
  readonly #exceptionsAt: Vaddr;
  readonly #exceptions: number[] = [];
  readonly #fdes: NewFde[] = [];
  readonly #cies: Uint8Array[] = [];
  readonly #without: { start: Vaddr; reason: string }[] = [];
  /** Why there can be no layout. */
  #obstacle: string | undefined;

  constructor(tables: UnwindTables, exceptionsAt: Vaddr) {
    this.#tables = tables;
    this.#exceptionsAt = exceptionsAt;
  }

  /** FDEs for a piece: one for each run of stretches that come from one FDE. */
  addPiece(stretches: readonly OriginStretch[]): void {
    const { records } = this.#tables.frames;
    let from = 0;
    for (let i = 1; i <= stretches.length; i++) {
      const index = records.indexAt(stretches[from]!.origin);
      if (i < stretches.length && records.indexAt(stretches[i]!.origin) === index) continue;
      const run = stretches.slice(from, i);
      const problem = index < 0 ? "its origin has no unwind information" : this.#addRun(index, run);
      if (problem !== undefined) {
        // Where the origin has none nothing is missing.
        if (index >= 0) this.#without.push({ start: run[0]!.start, reason: problem });
        if (run.some(isCall)) this.#obstacle ??= `a call moved to ${hex(run[0]!.start)}, and ${problem}`;
      }
      from = i;
    }
  }

  #addRun(index: number, run: readonly OriginStretch[]): string | undefined {
    const { frames, image } = this.#tables;
    const { cie } = frames.records.record(index);
    const table = frames.table(index);
    const rows: ProgramRow[] = [];
    const fde = frames.records.fde(index);
    for (const { start, origin, lower } of run) {
      const state = loweredState(stateAt(table, origin), lower, fde.lsda !== undefined);
      if (state === undefined) return `the unwind rule of ${hex(origin)} does not hold elsewhere`;
      rows.push({ start, state });
    }
    const program = encodeFrameProgram(rows, table.initial, cie);
    if (program === undefined) return "its unwind rules cannot be encoded";
    const common = { start: run[0]!.start, end: run.at(-1)!.end, program };
    if (fde.lsda === undefined) {
      this.#fdes.push({ ...common, cie, lsda: undefined });
      return undefined;
    }
    const obstacle = frames.personalityObstacle(cie);
    const at = vaddr(this.#exceptionsAt + this.#exceptions.length);
    const bytes = obstacle ?? encodeExceptionTable(image, fde.start, fde.lsda, run, at);
    if (typeof bytes === "string") {
      if (run.some(isCall)) return bytes;
      // Frames can be found without it, and exceptions pass through: no call and nothing that a handler is for is here.
      this.#fdes.push({ ...common, cie: this.#plainCie(cie), lsda: undefined });
      return undefined;
    }
    this.#exceptions.push(...bytes);
    while (this.#exceptions.length % 4 !== 0) this.#exceptions.push(0);
    this.#fdes.push({ ...common, cie, lsda: at });
    return undefined;
  }

  addOwn(start: Vaddr, end: Vaddr, { starts, registers, offsets }: CfaRows): void {
    const rows = starts.map((at, i): ProgramRow => {
      const state: FrameState = {
        cfa: { kind: "register", register: registers[i]!, offset: offsets[i]! },
        rules: new Map(ownInitial.rules),
        argsSize: 0,
      };
      return { start: at, state };
    });
    const program = encodeFrameProgram(rows, ownInitial, OWN_FACTORS)!;
    this.#fdes.push({ start, end, cie: this.#newCie(OWN_CIE), lsda: undefined, program });
  }

  /** The same CIE without a personality routine. */
  #plainCie(cie: Cie): number {
    const { bytes } = this.#tables.image;
    const letters = cie.augmentation.includes("S") ? "zRS" : "zR";
    return this.#newCie([
      1,
      ...Buffer.from(`${letters}\0`, "latin1"),
      ...encodeUleb(cie.codeAlignment),
      ...signedByte(cie.dataAlignment),
      cie.returnColumn,
      1,
      OWN_FDE_ENCODING,
      ...bytes.subarray(cie.instructions, cie.end),
    ]);
  }

  #newCie(content: readonly number[]): number {
    const bytes = Uint8Array.from(content);
    const known = this.#cies.findIndex((c) => Buffer.compare(c, bytes) === 0);
    return known >= 0 ? known : this.#cies.push(bytes) - 1;
  }

  finish(): NewFrames | string {
    if (this.#obstacle !== undefined) return this.#obstacle;
    const fdes = this.#fdes.sort((a, b) => a.start - b.start);
    if (fdes.length === 0) return this.#without[0]?.reason ?? "no new code has a frame";
    return { fdes, cies: this.#cies, exceptions: Uint8Array.from(this.#exceptions), without: this.#without };
  }
}

/** DW_EH_PE_pcrel, sdata4: how FDEs with a CIE of our own name their code. */
export const OWN_FDE_ENCODING = 0x1b;
const OWN_FACTORS = { codeAlignment: 1, dataAlignment: -8 };
const RETURN_COLUMN = 16;
const RSP = 7;

/** Version 1, "zR", factors 1 and -8, the return address in column 16; CFA = rsp + 8, the return address at CFA - 8. */
const OWN_CIE = [1, 0x7a, 0x52, 0, 1, 0x78, RETURN_COLUMN, 1, OWN_FDE_ENCODING, 0x0c, RSP, 8, 0x80 | RETURN_COLUMN, 1];
const ownInitial: FrameState = {
  cfa: { kind: "register", register: RSP, offset: 8 },
  rules: new Map([[RETURN_COLUMN, { kind: "offset", offset: -8 }]]),
  argsSize: 0,
};

/** A factor such as -8, as LEB128. */
const signedByte = (value: number): number[] => (value >= -64 && value < 64 ? [value & 0x7f] : []);
