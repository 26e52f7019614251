/**
 * Stacks in new code are the stacks that they were: at every instruction of it the frame is found where it is found at
 * the place where the original is then, with rsp lower by as much as the proof says; registers are saved in the same
 * places; an exception there has the same handlers.
 *
 * Which places these are is told by the walk of both files beside each other (same-code.ts), not by whoever wrote the
 * rows. Where no walk comes by, in code that belongs to no probe, the rows must fit what its own instructions do to
 * rsp.
 *
 * The same for jumps in padding on the way to new code: an FDE for one covers the jump and nothing else.
 */
import { hex, vaddr } from "../../address.js";
import type { RegisterRule } from "../../elf/call-frames.js";
import { DWARF_RSP } from "../../elf/cfa-rows.js";
import { loweredExpression } from "../../elf/dwarf-expressions.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { pointerSize } from "../../elf/eh-pointers.js";
import { type ExceptionTable, readExceptionTable } from "../../elf/exception-table.js";
import { type FrameState, type FrameTable, readFrameTable, stateAt, stateKey } from "../../elf/frame-states.js";
import { type ElfImage, isCode, type Section, sectionBytes } from "../../elf/image.js";
import { hasKnownTables, personalityName } from "../../elf/personalities.js";
import { InputError } from "../../errors.js";
import { codeFrom } from "../../usdt/sites.js";
import { INT3, JUMP_SIZE, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { decode, lengthOf } from "../../x86/decode.js";
import type { FrameOrigin } from "../same-code.js";
import { atAddress, type Finding, finding } from "./findings.js";
import { stackDepths } from "./stack-depths.js";

/** One side's unwind information, read as far as it is asked for. */
class Side {
  readonly #tables = new Map<number, FrameTable>();
  readonly #exceptions = new Map<number, ExceptionTable | undefined>();

  constructor(
    readonly image: ElfImage,
    readonly frames: EhFrame,
  ) {}

  table(index: number): FrameTable {
    const known = this.#tables.get(index) ?? readFrameTable(this.frames.program(index));
    this.#tables.set(index, known);
    return known;
  }

  exceptions(index: number): ExceptionTable | undefined {
    if (!this.#exceptions.has(index)) {
      const { lsda, start } = this.frames.fde(index);
      this.#exceptions.set(index, lsda === undefined ? undefined : readExceptionTable(this.image, start, lsda));
    }
    return this.#exceptions.get(index);
  }
}

/** @throws InputError where a table is damaged */
export function judgeNewFrames(
  original: ElfImage,
  rewritten: ElfImage,
  before: EhFrame,
  now: EhFrame,
  code: Section | undefined,
  origins: readonly FrameOrigin[],
): Finding[] {
  const findings: Finding[] = [];
  const say = (at: number, what: string): void => {
    findings.push(finding("loaded", atAddress(at), what));
  };
  const [old, own] = [new Side(original, before), new Side(rewritten, now)];
  const walked = new Set<number>();
  const walkedAt = new Set<number>();
  for (const origin of origins) {
    const problem = isReadable(old, origin)
      ? (frameProblem(old, own, origin) ?? exceptionProblem(old, own, origin))
      : inventedRecord(now, origin);
    if (problem !== undefined) say(origin.rewritten, problem);
    walked.add(now.indexAt(origin.rewritten));
    walkedAt.add(origin.rewritten);
  }
  const known = new Set(before.starts);
  for (let i = 0; i < now.count; i++) {
    const [start, end] = [now.starts[i]!, now.ends[i]!];
    if (known.has(start) && original.sections.some((s) => isCode(s) && inside(s, start, end))) continue;
    if (code === undefined || !inside(code, start, end)) {
      if (isKnown(before, start, end)) continue;
      if (!walkedAt.has(start) || end !== start + jumpSize(rewritten, start) || overlaps(before, start, end))
        say(start, "an unwind record is about code that is not there");
      continue;
    }
    const bytes = sectionBytes(rewritten, code).subarray(start - code.sh_addr, end - code.sh_addr);
    // Records stand beside each other, and what is after a piece of code is nobody's.
    if ((now.starts[i + 1] ?? end) < end) say(start, "an unwind record reaches into the next one");
    if (!isWholeCode(bytes, start)) say(start, "an unwind record does not end where its code does");
    const problem = walked.has(i) ? undefined : ownProblem(own, i, bytes);
    if (problem !== undefined) say(start, problem);
  }
  return findings.slice(0, MOST);
}

const MOST = 30;
/** The column of return addresses on x86-64 (psABI 3.7.2). */
const RETURN_COLUMN = 16;

/** Whether bytes are whole instructions, the last of which is no int3. */
function isWholeCode(bytes: Uint8Array, start: number): boolean {
  const decoded = decode(bytes, vaddr(start));
  const { count, offsets } = decoded;
  return count > 0 && offsets[count] === bytes.length && (bytes.at(-1) !== INT3 || lengthOf(decoded, count - 1) > 1);
}

const inside = ({ sh_addr, sh_size }: Section, start: number, end: number): boolean =>
  start >= sh_addr && end <= sh_addr + sh_size;

function isKnown({ starts, ends, count }: EhFrame, start: number, end: number): boolean {
  for (let i = 0; i < count; i++) if (starts[i] === start && ends[i] === end) return true;
  return false;
}

/** The bytes of the jump at an address, or 0. */
function jumpSize(image: ElfImage, at: number): number {
  const [opcode] = codeFrom(image, vaddr(at)) ?? [];
  return opcode === JMP_SHORT ? SHORT_JUMP_SIZE : opcode === JMP_NEAR ? JUMP_SIZE : 0;
}

const JMP_NEAR = 0xe9;
const JMP_SHORT = 0xeb;

function overlaps(frames: EhFrame, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (frames.indexAt(vaddr(at)) >= 0) return true;
  return false;
}

/** Whether the original's own records about an instruction of new code can be read. */
function isReadable(old: Side, { originals }: FrameOrigin): boolean {
  try {
    for (const at of originals) {
      const index = old.frames.indexAt(at);
      if (index < 0) continue;
      old.table(index);
      old.exceptions(index);
    }
    return true;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return false;
  }
}

/** What cannot be read of the original nobody can say anew. */
const inventedRecord = (now: EhFrame, { rewritten }: FrameOrigin): string | undefined =>
  now.indexAt(rewritten) < 0 ? undefined : "there is an unwind record, and that of the original cannot be read";

/** Why the frame at an instruction of new code is not the one that it was, or undefined. */
function frameProblem(old: Side, own: Side, { rewritten, originals, shift }: FrameOrigin): string | undefined {
  const wanted = originals.map((at) => ({ at, index: old.frames.indexAt(at) }));
  const index = own.frames.indexAt(rewritten);
  const known = wanted.filter((w) => w.index >= 0);
  if (known.length === 0)
    return index < 0 ? undefined : `is in an unwind record, and ${hex(originals[0]!)} was in none`;
  // The original runs out of one function, through padding, into another: it can be unwound on a part of the way.
  if (known.length < wanted.length) return undefined;
  const states = known.map((w) => {
    const state = lowered(stateAt(old.table(w.index), w.at), shift);
    // A landing pad gets rsp as it is where the exception comes from, less what counts as pushed arguments.
    const hasHandlers = old.exceptions(w.index) !== undefined;
    return state && hasHandlers ? { ...state, argsSize: state.argsSize + shift } : state;
  });
  // Where no row can say it none has to.
  if (index < 0)
    return states.includes(undefined)
      ? undefined
      : `new code at ${hex(rewritten)} cannot be unwound: no record is about it`;
  const is = stateKey(stateAt(own.table(index), rewritten));
  const possible = states.map((state) => state && stateKey(state));
  if (possible.includes(is)) return undefined;
  return `the unwind rule there is ${is}; at ${hex(known[0]!.at)} it was ${possible[0] ?? "none that holds elsewhere"}`;
}

/** The same frame where rsp is lower; undefined where that cannot be said. */
function lowered(state: FrameState, by: number): FrameState | undefined {
  const { cfa } = state;
  if (cfa === undefined) return undefined;
  const rules = new Map<number, RegisterRule>();
  for (const [register, rule] of state.rules) {
    if ("expression" in rule) {
      const expression = loweredExpression(rule.expression, by);
      if (expression === undefined) return undefined;
      rules.set(register, { ...rule, expression });
    } else if (rule.kind === "register" && rule.register === DWARF_RSP && by !== 0) return undefined;
    else rules.set(register, rule);
  }
  if (cfa.kind === "register")
    return { ...state, rules, cfa: { ...cfa, offset: cfa.offset + (cfa.register === DWARF_RSP ? by : 0) } };
  const expression = loweredExpression(cfa.expression, by);
  return expression && { ...state, rules, cfa: { ...cfa, expression } };
}

/** What an unwinder finds for an address in an exception table, as text. */
function handlers(side: Side, index: number, address: number): string {
  if (index < 0) return "no frame";
  const table = side.exceptions(index);
  if (table === undefined) return "no table";
  const record = table.callSites.find((s) => address >= s.start && address < s.end);
  if (record === undefined) return "no record";
  if (record.landingPad === undefined) return "passes through";
  const type = (filter: number): string => {
    const at = table.type(filter);
    return `${filter}=${at === undefined ? "any" : hex(at)}`;
  };
  const filter = (f: number): string =>
    f > 0 ? type(f) : f === 0 ? "cleanup" : `${f}=(${table.specification(f).map(type).join(" ")})`;
  return `lands at ${hex(record.landingPad)} with ${record.filters?.map(filter).join(", ") ?? "cleanup alone"}`;
}

function exceptionProblem(old: Side, own: Side, { rewritten, originals, lengths }: FrameOrigin): string | undefined {
  const [was, is] = [old.frames.indexAt(originals[0]!), own.frames.indexAt(rewritten)];
  if (was < 0 || is < 0) return undefined;
  const augmentation = augmentationProblem(own, is);
  if (augmentation !== undefined) return augmentation;
  const [cieBefore, cieNow] = [old.frames.record(was).cie, own.frames.record(is).cie];
  const isSignal = (letters: string): boolean => letters.includes("S");
  if (isSignal(cieBefore.augmentation) !== isSignal(cieNow.augmentation))
    return "is in a record of another kind of frame";
  if (cieBefore.returnColumn !== cieNow.returnColumn) return "has its return address in another column";
  const name = personalityName(old.image, cieBefore);
  const isUnknown = name === undefined || (name !== null && !hasKnownTables(name));
  // Without a personality routine exceptions pass through: so be it where nobody could write its tables.
  if (isUnknown && own.frames.fde(is).lsda === undefined && lengths.original === 1) return undefined;
  const routine = (side: Side, cie: typeof cieBefore): string =>
    `${personalityName(side.image, cie) ?? ""}@${cie.personality?.value ?? "none"}`;
  if (routine(old, cieBefore) !== routine(own, cieNow)) return "has another personality routine";
  const at = rewritten + lengths.rewritten - 1;
  const found = originals.map((o) => handlers(old, old.frames.indexAt(o), o + lengths.original - 1));
  const now = handlers(own, is, at);
  return found.includes(now) ? undefined : `an exception there ${now}; at ${hex(originals[0]!)} it ${found[0]}`;
}

/** DW_EH_PE_pcrel | DW_EH_PE_sdata4: how the tables that rewriting makes write addresses. */
const PCREL_SDATA4 = 0x1b;

/**
 * What is wrong with the length of a record's augmentation data: it holds the address of an exception table, or
 * nothing.
 */
function augmentationProblem({ image, frames }: Side, index: number): string | undefined {
  const { idAt, cie } = frames.record(index);
  if (!cie.hasAugmentationData || cie.fdeEncoding !== PCREL_SDATA4) return undefined;
  const length = image.bytes[idAt + 12]!;
  // Eight in the medium and the large code model.
  const wanted = pointerSize(cie.lsdaEncoding);
  return length === wanted ? undefined : `has ${length} bytes of augmentation data, not ${wanted}`;
}

/** Why the rows of code of its own do not fit it, or undefined. */
function ownProblem(own: Side, index: number, bytes: Uint8Array): string | undefined {
  const start = vaddr(own.frames.starts[index]!);
  const augmentation = augmentationProblem(own, index);
  if (augmentation !== undefined) return `the unwind record from ${hex(start)} on ${augmentation}`;
  const depths = stackDepths(bytes, start);
  if (typeof depths === "string") return `the unwind rules from ${hex(start)} on cannot be judged: ${depths}`;
  const table = own.table(index);
  for (const [at, depth] of depths) {
    const wanted: FrameState = {
      cfa: { kind: "register", register: DWARF_RSP, offset: depth },
      rules: new Map([[RETURN_COLUMN, { kind: "offset", offset: -8 }]]),
      argsSize: 0,
    };
    const is = stateKey(stateAt(table, at));
    if (is !== stateKey(wanted)) return `the unwind rule at ${hex(at)} is ${is}, not ${stateKey(wanted)}`;
  }
  const { returnColumn } = own.frames.record(index).cie;
  if (returnColumn !== RETURN_COLUMN) return `its return address is in column ${returnColumn}`;
  return own.frames.fde(index).lsda === undefined ? undefined : "code of its own has an exception table";
}
