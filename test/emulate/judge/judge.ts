/** Makes cases, has both sides run them, and compares what came out. */

import { vaddr } from "../../../src/address.js";
import { disassemble } from "../../../src/x86/relocate.js";
import { type Case, layoutOf, makeCase } from "./cases.js";
import { decodeOne } from "./decode-one.js";
import { EmulatedSide } from "./emulated.js";
import type { Form } from "./forms.js";
import * as at from "./layout.js";
import { Exception, FAULTED, instructionAt, type Layout, RECORD_SIZE, Record } from "./layout.js";
import { codeOf, runNatively } from "./native.js";
import { takeEitherProcessor } from "./processors-differ.js";
import { describe } from "./report.js";
import type { FormResult } from "./result.js";

const REPORTS = 3;
/** Cases in one native program: some megabytes. */
const BATCH = 4096;

export interface Options {
  /** Of each form. */
  readonly cases: number;
  readonly seed: number;
  /** Only the case with this number. */
  readonly single?: number | undefined;
  /** Changes the instruction for the emulator alone, to see that the judge finds it. */
  readonly plant?: (instruction: Uint8Array) => Uint8Array;
  /** Who makes the cases of a form: makeCase, unless another one is given. */
  readonly make?: typeof makeCase;
}

/** Judges cases of each form. */
export async function judge(forms: readonly Form[], options: Options): Promise<readonly FormResult[]> {
  const results = forms.map((form): FormResult => emptyResult(form));
  const { cases, single } = options;
  const capacity = Math.min(BATCH, forms.length * (single === undefined ? cases : 1));
  const batches = new Map<Layout, Batch>();
  for (const result of results) {
    for (let number = single ?? 0; number < (single === undefined ? cases : single + 1); number++) {
      const layout = layoutOf(number);
      const batch = batches.get(layout) ?? new Batch(layout, options, capacity);
      batches.set(layout, batch);
      if (!batch.add(result, number)) {
        // Some choices of operands make another instruction; some forms have none that a decoder takes.
        result.unencodable++;
        if (result.unencodable === number + 1 && number >= 3) break;
        continue;
      }
      if (batch.isFull) {
        await batch.run();
        batches.delete(layout);
      }
    }
  }
  for (const batch of batches.values()) await batch.run();
  return results;
}

export const emptyResult = (form: Form): FormResult => ({
  form,
  shapes: new Map(),
  cases: 0,
  faults: 0,
  unimplemented: 0,
  example: undefined,
  differences: 0,
  excused: 0,
  reports: [],
  unencodable: 0,
});

class Batch {
  private readonly cases: Case[] = [];
  private readonly results: FormResult[] = [];
  private readonly before: Uint8Array;

  constructor(
    private readonly layout: Layout,
    private readonly options: Options,
    private readonly capacity: number,
  ) {
    this.before = new Uint8Array(capacity * RECORD_SIZE);
  }

  get isFull(): boolean {
    return this.cases.length === this.capacity;
  }

  add(result: FormResult, number: number): boolean {
    const slot = this.cases.length;
    const record = this.before.subarray(slot * RECORD_SIZE, (slot + 1) * RECORD_SIZE);
    const made = (this.options.make ?? makeCase)(result.form, this.options.seed, number, slot, record);
    if (made === undefined) return false;
    this.cases.push(made);
    this.results.push(result);
    return true;
  }

  async run(): Promise<void> {
    const { cases, results } = this;
    if (cases.length === 0) return;
    const before = this.before.subarray(0, cases.length * RECORD_SIZE);
    const emulated = new Uint8Array(before.length);
    const recordOf = (records: Uint8Array, i: number) => records.subarray(i * RECORD_SIZE, (i + 1) * RECORD_SIZE);
    const plant = this.options.plant ?? ((instruction) => instruction);
    const side = new EmulatedSide(
      this.layout,
      codeOf(
        this.layout,
        cases.map((c) => plant(c.bytes)),
      ),
    );
    const unknown = cases.map((one, i) => side.run(recordOf(before, i), recordOf(emulated, i), one.count));
    // What the emulator cannot run is not run natively either: it might change what the other cases rely on.
    const native = await runNatively(
      this.layout,
      codeOf(
        this.layout,
        cases.map((c, i) => (unknown[i] === undefined ? c.bytes : nothing)),
      ),
      before,
    );
    cases.forEach((one, i) => {
      const result = results[i]!;
      const recordBefore = recordOf(before, i);
      const theirs = recordOf(native, i);
      const ours = recordOf(emulated, i);
      if (unknown[i] !== undefined) {
        result.unimplemented++;
        result.example ??= unknown[i];
        return;
      }
      result.cases++;
      result.shapes.set(one.shape, (result.shapes.get(one.shape) ?? 0) + 1);
      if (theirs[Record.TRAP + 1] !== 0) result.faults++;
      const differs = compare(one, i, recordBefore, theirs, ours);
      if (differs === undefined) return;
      if (differs === "") {
        result.excused++;
        return;
      }
      result.differences++;
      if (result.reports.length < REPORTS)
        result.reports.push(
          describe(one, this.options.seed, disassembleAll(one, i), recordBefore, theirs, ours, differs),
        );
    });
  }
}

/** The instructions of a case, as assembly. */
function disassembleAll(one: Case, slot: number): string {
  const lines: string[] = [];
  for (let at = 0; at < one.bytes.length; ) {
    const rest = one.bytes.subarray(at);
    const { length } = decodeOne(rest);
    lines.push(disassemble(rest.subarray(0, length), vaddr(instructionAt(one.layout, slot) + at)));
    at += length;
  }
  return lines.join("\n");
}

const nothing = new Uint8Array(0);

/** What is compared byte by byte. */
const areas: readonly (readonly [name: string, from: number, size: number])[] = [
  ["memory", Record.AREA, at.AREA_SIZE],
  ["memory", Record.EDGE, at.EDGE_SIZE],
  ["registers", Record.GPR, 128],
  ["next instruction", Record.IP, 8],
  ["exception", Record.TRAP, 8],
  ["xmm", Record.XMM, 256],
  // The control bits. The flags of exceptions (bits 0 to 5) are not tracked by arithmetic.
  ["mxcsr", Record.FX_MXCSR, 2],
];

/**
 * What differs, in words: none where only what is undefined does; undefined where nothing does. `theirs` is brought
 * into the form in which the emulator speaks of faults.
 */
function compare(
  one: Case,
  slot: number,
  before: Uint8Array,
  theirs: Uint8Array,
  ours: Uint8Array,
): string | undefined {
  const native = new DataView(theirs.buffer, theirs.byteOffset, theirs.byteLength);
  const emulated = new DataView(ours.buffer, ours.byteOffset, ours.byteLength);
  normalize(native, instructionAt(one.layout, slot));
  for (const view of [native, emulated])
    view.setUint16(Record.FX_MXCSR, view.getUint16(Record.FX_MXCSR, true) & 0xffc0, true);
  const initial = new DataView(before.buffer, before.byteOffset, before.byteLength);
  if (one.count === 1) takeEitherProcessor(one.form.mnemonic, one.bytes, initial, native, emulated);
  const found: string[] = [];
  for (const [name, from, size] of areas)
    if (Buffer.compare(theirs.subarray(from, from + size), ours.subarray(from, from + size)) !== 0) found.push(name);
  const faulted = theirs[Record.TRAP + 1] !== 0;
  const flags = native.getUint32(Record.FLAGS, true) ^ emulated.getUint32(Record.FLAGS, true);
  if (flags === 0 && found.length === 0) return undefined;

  const free = one.undefinedAfter(
    initial,
    faulted ? Number(native.getBigUint64(Record.IP, true)) - instructionAt(one.layout, slot) : undefined,
  );
  if ((flags & ~free.flags) !== 0) found.push("flags");
  else if (free.result && found.every((name) => name === "memory" || name === "registers")) return "";
  return found.join(", ");
}

function normalize(native: DataView, instruction: number): void {
  const trap = native.getUint32(Record.TRAP, true);
  const ip = native.getBigUint64(Record.IP, true);
  // #SS is #GP by another name: both say that an address is not canonical.
  if (trap === (FAULTED | Exception.STACK)) native.setUint32(Record.TRAP, FAULTED | Exception.PROTECTION, true);
  // A branch to where nothing can be run has itself succeeded: the fault is that of the next instruction.
  if (
    trap === (FAULTED | Exception.PAGE) &&
    ip !== BigInt(instruction) &&
    ip === native.getBigUint64(Record.ADDRESS, true)
  )
    native.setUint32(Record.TRAP, 0, true);
}
