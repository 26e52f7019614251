/**
 * Parts of functions, and the first look at all instructions: one linear decode of everything.
 *
 * A part is a range that an FDE or a sized symbol covers; ranges that overlap are one part with several heads. Code
 * between parts is a part as well (a gap) once padding is skipped, with its start as its head. Padding belongs to the
 * part before it.
 *
 * A part is `linear` where it decodes from start to end and nothing known leads into the middle of one of its
 * instructions. Only then is it known which bytes are branches; everywhere else bytes count at every position.
 */
import type { Interval } from "../../address.js";
import { Decoder, type Instruction, iced, ripAddress } from "./decode.js";
import type { Program } from "./program.js";
import { lastNotAfter, lowerBound, type Span, spanAt } from "./spans.js";

export interface Part extends Interval {
  readonly index: number;
  /** Where functions begin in it; the first is `start`. */
  readonly heads: readonly number[];
  readonly isGap: boolean;
  linear: boolean;
  /** Why data lies inside, or it is no code at all: its instructions are not known. */
  unknown: string | undefined;
  /** It has an indirect transfer, or makes an address of code. */
  interesting: boolean;
  group: number;
}

/** How an instruction names an address of code. */
export const Use = { Jump: 0, Conditional: 1, Call: 2, Lea: 3, Memory: 4, Immediate: 5 } as const;

/** All direct branches and addresses in instructions, by their index. */
interface References {
  readonly count: number;
  readonly from: Float64Array;
  readonly to: Float64Array;
  readonly use: Uint8Array;
}

/** Bits for each byte of code. */
const START = 1;
const PADDING = 2;
const TARGET = 4;

export class Parts {
  readonly list: Part[] = [];
  readonly references: References;
  /** Addresses of data that instructions make, ascending. */
  private madeData = new Float64Array(0);
  /**
   * Instructions that a first look is for, ascending: computed transfers, and what makes, reads or may form an address
   * of code.
   */
  private points = new Float64Array(0);
  private readonly marks: Map<Span, Uint8Array>;

  constructor(private readonly program: Program) {
    this.marks = new Map(program.code.map((s) => [s, new Uint8Array(s.bytes.length)]));
    const decoder = new Decoder(program.sources);
    for (const span of program.code) this.divide(span);
    this.references = this.sweep(decoder);
    this.madeData = this.madeData.sort();
    decoder.free();
    const { from, to, use, count } = this.references;
    for (let i = 0; i < count; i++) if (use[i] === Use.Jump || use[i] === Use.Conditional) this.markTarget(to[i]!);
    for (const { pad } of program.landings) this.markTarget(pad);
    for (const { address } of program.names) this.markTarget(address);
    for (let i = 0; i < count; i++) {
      if (use[i] === Use.Memory || use[i] === Use.Immediate || this.isStart(to[i]!)) continue;
      const part = this.at(to[i]!);
      if (part === undefined || (this.isPrefixed(to[i]!) && use[i] !== Use.Lea)) continue;
      // An address that is not in the same part may be an end, or a start less something.
      if (use[i] === Use.Lea && part !== this.at(from[i]!)) continue;
      part.linear = false;
      part.unknown ??= "a branch or an address leads into the middle of one of its instructions";
    }
  }

  /** The part that holds an address, without its padding. */
  at(address: number): Part | undefined {
    return spanAt(this.list, address);
  }

  /** The part that holds an address, of those from another on: for addresses that ascend. */
  next(from: Part, address: number): Part {
    let part = from;
    while (address >= part.end) part = this.list[part.index + 1]!;
    return part;
  }

  /** The part that holds an address, or whose padding does. */
  owner(address: number): Part | undefined {
    const part = this.list[lastNotAfter(this.list, address)];
    return part !== undefined && spanAt(this.program.code, address) === spanAt(this.program.code, part.start)
      ? part
      : undefined;
  }

  /** Whether an instruction of the linear decode begins here. */
  isStart(address: number): boolean {
    return (this.mark(address) & START) !== 0;
  }

  /** A byte of code. */
  byteAt(address: number): number {
    const span = spanAt(this.program.code, address)!;
    return span.bytes[address - span.start]!;
  }

  isPadding(address: number): boolean {
    return (this.mark(address) & PADDING) !== 0;
  }

  /** Whether a direct branch, an exception or a name leads to an address. */
  isTarget(address: number): boolean {
    return (this.mark(address) & TARGET) !== 0;
  }

  private markTarget(address: number): void {
    const span = spanAt(this.program.code, address);
    if (span !== undefined) this.marks.get(span)![address - span.start]! |= TARGET;
  }

  /** The first address of data after this one that an instruction makes. */
  nextMade(address: number): number {
    return this.madeData[lowerBound(this.madeData, address + 1)] ?? Number.POSITIVE_INFINITY;
  }

  /** The instructions of a part that make it interesting, and its other computed transfers. */
  *pointsIn({ start, end }: Part): Iterable<number> {
    for (let i = lowerBound(this.points, start); i < this.points.length && this.points[i]! < end; i++)
      yield this.points[i]!;
  }

  /** Whether what is known of a byte is the linear decode's word for it. */
  isLinear(address: number): boolean {
    return this.isPadding(address) || this.at(address)?.linear === true;
  }

  /** The linear instruction that covers an address begins here. */
  startOf(address: number): number {
    let at = address;
    while (at > address - 15 && !this.isStart(at)) at--;
    return at;
  }

  private mark(address: number): number {
    const span = spanAt(this.program.code, address);
    return span === undefined ? 0 : this.marks.get(span)![address - span.start]!;
  }

  /** After a lock prefix: a way that old C libraries take where there is one thread. */
  private isPrefixed(address: number): boolean {
    const span = spanAt(this.program.code, address);
    return span !== undefined && span.bytes[address - 1 - span.start] === 0xf0 && this.isStart(address - 1);
  }

  private divide(span: Span): void {
    const { frames, functions } = this.program;
    const ranges: { start: number; end: number }[] = [];
    for (let i = 0; i < frames.count; i++) ranges.push({ start: frames.starts[i]!, end: frames.ends[i]! });
    for (const range of functions) ranges.push(range);
    const own = ranges
      .filter((r) => r.start >= span.start && r.start < span.end)
      .sort((a, b) => a.start - b.start || a.end - b.end);
    let at = span.start;
    for (let i = 0; i < own.length; ) {
      const { start } = own[i]!;
      let end = Math.min(own[i]!.end, span.end);
      const heads = [start];
      for (i++; i < own.length && own[i]!.start < end; i++) {
        end = Math.max(end, Math.min(own[i]!.end, span.end));
        if (own[i]!.start !== heads.at(-1)) heads.push(own[i]!.start);
      }
      this.gap(span, at, start);
      this.add(start, end, heads, false);
      at = end;
    }
    this.gap(span, at, span.end);
  }

  private gap(span: Span, start: number, end: number): void {
    const marks = this.marks.get(span)!;
    let at = start;
    while (at < end) {
      const length = paddingLength(span.bytes, at - span.start, end - span.start);
      if (length === 0) break;
      marks.fill(PADDING, at - span.start, at - span.start + length);
      at += length;
    }
    if (at < end) this.add(at, end, [at], true);
  }

  private add(start: number, end: number, heads: number[], isGap: boolean): void {
    const index = this.list.length;
    this.list.push({
      index,
      start,
      end,
      heads,
      isGap,
      linear: true,
      unknown: undefined,
      interesting: false,
      group: index,
    });
  }

  private sweep(decoder: Decoder): References {
    const { program, marks } = this;
    let room = 1 << 16;
    let from = new Float64Array(room);
    let to = new Float64Array(room);
    let use = new Uint8Array(room);
    let count = 0;
    let data = new Float64Array(room);
    let dataCount = 0;
    let points = new Float64Array(room);
    let pointCount = 0;
    const point = (at: number): void => {
      if (points[pointCount - 1] === at) return;
      if (pointCount === points.length) points = grown(points, pointCount * 2);
      points[pointCount++] = at;
    };
    const refer = (part: Part, a: number, b: number, how: number): void => {
      if (!program.isCode(b)) {
        if (how !== Use.Lea && how !== Use.Immediate) return;
        if (dataCount === data.length) data = grown(data, dataCount * 2);
        data[dataCount++] = b;
        return;
      }
      if (how >= Use.Lea) part.interesting = true;
      if (how >= Use.Lea || how === Use.Memory) point(a);
      if (count === room) {
        room *= 2;
        from = grown(from, room);
        to = grown(to, room);
        use = grown(use, room);
      }
      from[count] = a;
      to[count] = b;
      use[count++] = how;
    };
    const { FlowControl, Mnemonic, Register } = iced;
    const calls: { part: Part; at: number }[] = [];
    for (const part of this.list) {
      const span = spanAt(program.code, part.start)!;
      const mark = marks.get(span)!;
      let at = part.start;
      while (at < part.end) {
        const i = decoder.at(at);
        if (i === undefined) break;
        mark[at - span.start] = START;
        switch (i.flowControl) {
          case FlowControl.Next:
            if (i.mnemonic === Mnemonic.Movsxd && i.memoryIndex !== Register.None) {
              part.interesting = true;
              point(at);
            } else if (i.isIpRelMemoryOperand) {
              const target = ripAddress(i);
              if (i.mnemonic === Mnemonic.Lea) refer(part, at, target, Use.Lea);
              else {
                refer(part, at, target, Use.Memory);
                const value = program.isConstant(target) ? program.pointerAt(target) : undefined;
                if (value !== undefined && program.isCode(value)) {
                  part.interesting = true;
                  point(at);
                }
              }
            }
            if (program.isFixed) this.immediates(span, i, at, (value) => refer(part, at, value, Use.Immediate));
            break;
          case FlowControl.UnconditionalBranch:
            refer(part, at, Number(i.nearBranchTarget), Use.Jump);
            break;
          case FlowControl.ConditionalBranch:
            refer(part, at, Number(i.nearBranchTarget), Use.Conditional);
            break;
          case FlowControl.XbeginXabortXend:
            point(at);
            if (i.mnemonic === Mnemonic.Xbegin) refer(part, at, Number(i.nearBranchTarget), Use.Conditional);
            break;
          case FlowControl.Call:
            if (i.mnemonic === Mnemonic.Call) refer(part, at, Number(i.nearBranchTarget), Use.Call);
            break;
          case FlowControl.IndirectBranch:
            // A stub in a table of calls to other files goes by a pointer that the loader fills.
            if (!i.isIpRelMemoryOperand) part.interesting = true;
            point(at);
            break;
          case FlowControl.IndirectCall:
            point(at);
            calls.push({ part, at });
            break;
        }
        at += i.length;
        if (GOES_NOWHERE.has(i.flowControl)) {
          const zeros = zerosAt(span.bytes, at - span.start, part.end - span.start);
          mark.fill(PADDING, at - span.start, at - span.start + zeros);
          at += zeros;
        }
      }
      if (at !== part.end) {
        part.linear = false;
        part.unknown = "its bytes do not decode from start to end";
      }
    }
    this.madeData = data.slice(0, dataCount);
    this.points = points.slice(0, pointCount);
    const targets = to.slice(0, count).sort();
    for (const { part, at } of calls) part.interesting ||= !this.goesByLoad(decoder, part, at, targets);
    return { count, from: from.slice(0, count), to: to.slice(0, count), use: use.slice(0, count) };
  }

  /**
   * Whether a call goes by a pointer that was just loaded, from anywhere but this function's own frame: in front of it
   * stands a load of the register, and nothing leads in between.
   */
  private goesByLoad(decoder: Decoder, part: Part, at: number, targets: Float64Array): boolean {
    const { OpKind, Register, Mnemonic, FlowControl } = iced;
    const call = decoder.at(at)!;
    const isFrame = (register: number): boolean => register === Register.RSP || register === Register.RBP;
    if (call.opKind(0) === OpKind.Memory) return !isFrame(call.memoryBase) && !isFrame(call.memoryIndex);
    const register = call.opRegister(0);
    let from = at;
    for (let n = 0; n < NEAR && from > part.start; n++) {
      from = this.startOf(from - 1);
      const i = decoder.at(from);
      if (i === undefined || i.flowControl !== FlowControl.Next) return false;
      if (i.opCount === 0 || i.opKind(0) !== OpKind.Register || !isWithin(i.opRegister(0), register)) continue;
      if (i.mnemonic === Mnemonic.Test || i.mnemonic === Mnemonic.Cmp) continue;
      if (i.mnemonic !== Mnemonic.Mov || i.opKind(1) !== OpKind.Memory || i.opRegister(0) !== register) return false;
      if (isFrame(i.memoryBase) || isFrame(i.memoryIndex)) return false;
      const next = targets[lowerBound(targets, from + 1)];
      return next === undefined || next > at;
    }
    return false;
  }

  /** Words of an instruction of a fixed program that are addresses of code: constants and absolute displacements. */
  private immediates(span: Span, i: Instruction, start: number, visit: (value: number) => void): void {
    const { OpKind } = iced;
    for (let at = start + 1; at + 4 <= start + i.length; at++) {
      const value = span.view.getUint32(at - span.start, true);
      if (!this.program.isImage(value)) continue;
      let isOwn = false;
      for (let n = 0; n < i.opCount; n++) {
        const kind = i.opKind(n);
        if (kind === OpKind.Memory) isOwn ||= Number(i.memoryDisplacement & 0xffff_ffffn) === value;
        else if (kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64)
          isOwn ||= Number(i.immediate(n) & 0xffff_ffffn) === value;
      }
      if (isOwn) visit(value);
    }
  }
}

/** After these nothing runs but what somebody leads to. */
const GOES_NOWHERE: ReadonlySet<number> = new Set([
  iced.FlowControl.UnconditionalBranch,
  iced.FlowControl.IndirectBranch,
  iced.FlowControl.Return,
  iced.FlowControl.Exception,
]);

/** How many zeros stand there: what linkers fill gaps with, between functions that nothing tells apart. */
function zerosAt(bytes: Uint8Array, from: number, end: number): number {
  let at = from;
  while (at < end && bytes[at] === 0) at++;
  return at - from;
}

/** So many instructions in front of a call are looked at. */
const NEAR = 8;

/** Whether a register is another or a part of it. */
const isWithin = (register: number, whole: number): boolean =>
  iced.RegisterExt.fullRegister(register) === iced.RegisterExt.fullRegister(whole);

function grown<T extends Float64Array | Uint8Array>(array: T, room: number): T {
  const larger = new (array.constructor as new (size: number) => T)(room);
  larger.set(array);
  return larger;
}

/** How long a piece of padding is: a zero, an int3, a nop of any length; 0 where it is none. */
function paddingLength(bytes: Uint8Array, at: number, end: number): number {
  const byte = bytes[at]!;
  if (byte === 0 || byte === 0xcc || byte === 0x90) return 1;
  let from = at;
  while (from < end && (bytes[from] === 0x66 || bytes[from] === 0x2e || bytes[from] === 0x48)) from++;
  if (bytes[from] === 0x90 && from < end) return from + 1 - at;
  if (bytes[from] !== 0x0f || bytes[from + 1] !== 0x1f) return 0;
  const modrm = bytes[from + 2]!;
  const length =
    modrm === 0x00 ? 3 : modrm === 0x40 ? 4 : modrm === 0x44 ? 5 : modrm === 0x80 ? 7 : modrm === 0x84 ? 8 : 0;
  return length === 0 || from + length > end ? 0 : from + length - at;
}
