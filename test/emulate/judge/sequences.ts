/**
 * Cases of several instructions in a row. Alone, each instruction starts from a state that was set from outside; here
 * it starts from what the one before has left, in whatever form the emulator keeps it, and all are run as one block. An
 * instruction in the middle that faults has to leave what those in front of it have done, and nothing else.
 *
 * Memory operands are relative to rip, so that no register has to be kept. What an instruction leaves undefined stays
 * so until something defines it; an instruction that would read it is not chosen.
 */
import { iced } from "../../../src/x86/iced.js";
import { type Case, layoutOf } from "./cases.js";
import { codeOfBytes, decodeOne } from "./decode-one.js";
import { encode, setDisplacement } from "./encode.js";
import { fillRecord } from "./fill-record.js";
import type { Form } from "./forms.js";
import { AREA_SIZE, INSTRUCTION_IN_SLOT, instructionAt, LANDING_BEHIND, LANDING_SIZE } from "./layout.js";
import { Random } from "./random.js";
import { rflagsOf, undefinedResults } from "./undefined-results.js";

/** The bytes in a slot between the first instruction and the landing behind. */
const ROOM = LANDING_BEHIND - INSTRUCTION_IN_SLOT - LANDING_SIZE;
const MOST = 9;

/** It stands for all of them where a form is asked for. */
export const sequenceForm = (forms: readonly Form[]): Form => ({
  ...forms[0]!,
  code: 1,
  name: "sequence",
  mnemonic: "sequence",
});

/**
 * Implied operands in memory need registers; branches leave; popf and ldmxcsr set more than a sequence can bear; mmx is
 * not implemented.
 */
const suits = (form: Form): boolean =>
  !/^(j|loop|call|ret|push|pop(?!cnt)|enter|leave|int|ud|hlt|ldmxcsr|xlat|maskmov|cmpxchg(8|16)b)/.test(
    form.mnemonic,
  ) &&
  !form.operands.some((o) => /_rSI|_rDI|_rBX|mem_offs|^br|seg_reg|^mm_/.test(o)) &&
  // A bit offset in a register leads anywhere.
  !(/^bt/.test(form.mnemonic) && form.operands[1]!.endsWith("_reg")) &&
  // A shift by more than 16 bits leaves its whole result undefined.
  !(/^sh[lr]d$/.test(form.mnemonic) && form.operandSize === 16);

/** Makes cases out of `forms`, each by its mnemonic as likely as any other. */
export function sequencesOf(forms: readonly Form[]) {
  const pool = new Map<string, Form[]>();
  for (const form of forms.filter(suits)) pool.set(form.mnemonic, [...(pool.get(form.mnemonic) ?? []), form]);
  const names = [...pool.keys()];
  return (sequence: Form, seed: number, number: number, slot: number, record: Uint8Array): Case => {
    const random = new Random(seed, 0x5e9, number);
    const layout = layoutOf(number);
    const bytes: number[] = [];
    /** For each instruction where it begins, and which flags are undefined in front of it. */
    const undefinedAt: { readonly at: number; readonly flags: number }[] = [];
    let flags = 0;
    let count = 0;
    fillRecord(record, instructionAt(layout, slot), random, random.pick(["integer", "integer", "float32", "float64"]));
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    for (let attempts = 0; attempts < 200 && count < MOST; attempts++) {
      const form = random.pick(pool.get(random.pick(names))!);
      const encoded = encode(form, random, { relativeMemory: true });
      if (bytes.length + encoded.bytes.length > ROOM || codeOfBytes(encoded.bytes) !== form.code) continue;
      const instruction = decodeOne(Uint8Array.from(encoded.bytes));
      if (rflagsOf(instruction.rflagsRead) & flags) continue;
      if (encoded.memory !== undefined) {
        const size = iced.MemorySizeExt.size(instruction.memorySize);
        const place = layout.area + 64 + random.below(AREA_SIZE - 128 - size);
        const target = random.oneIn(60) ? layout.unmapped : place - (place % Math.max(size, 1));
        encoded.memory.displacement = BigInt(
          target - instructionAt(layout, slot) - bytes.length - encoded.bytes.length,
        );
        setDisplacement(encoded);
      }
      undefinedAt.push({ at: bytes.length, flags });
      // By how much is shifted is not known here: whatever it may leave undefined counts, and nothing counts as
      // defined.
      const known = undefinedResults(instruction, /^(sh|sa|r[oc])/.test(form.mnemonic) ? "" : form.mnemonic, view);
      const defines = isShift(form) ? 0 : rflagsOf(instruction.rflagsModified) & ~known.flags;
      flags = (flags & ~defines) | known.flags | (isShift(form) ? SHIFT_UNDEFINED : 0);
      bytes.push(...encoded.bytes);
      count++;
    }
    return {
      form: sequence,
      number,
      layout,
      bytes: Uint8Array.from(bytes),
      shape: String(count),
      count,
      undefinedAfter: (_, faultAt) => ({
        flags: undefinedAt.find(({ at }) => at === faultAt)?.flags ?? flags,
        result: false,
      }),
    };
  };
}

const isShift = (form: Form): boolean => /^(sh[lr]d?|sa[lr]|r[oc][lr])$/.test(form.mnemonic);

/** CF, AF, OF. */
const SHIFT_UNDEFINED = 0x811;
