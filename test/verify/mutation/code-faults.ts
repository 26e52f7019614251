/**
 * Faults in the code that rewriting made: distances, conditions, operands, order. Each is planted only where semantics.ts
 * says that the changed code does something else.
 */
import { vaddr } from "../../../src/address.js";
import { relocate } from "../../../src/x86/relocate.js";
import { type Fault, number, type Patch } from "./fault.js";
import {
  addressCounts,
  decodePiece,
  entersElsewhere,
  type Field,
  immediateCounts,
  isRepeatable,
  orderCounts,
  type Piece,
  sizeCounts,
  survives,
} from "./semantics.js";
import type { Spot, Subject } from "./spots.js";

const JUMP_SIZE = 5;
const hex = (value: number): string => `0x${value.toString(16)}`;

export function codeFaults(subject: Subject): Fault[] {
  const helpers = subject.helpers.flatMap((spot) => new CodeFaults(subject, spot).all());
  return [
    ...subject.spots.flatMap((spot) => new CodeFaults(subject, spot).all()),
    ...helpers,
    ...retargetFaults(subject),
  ];
}

/** Branches outside of windows that were led to new code. */
function retargetFaults(subject: Subject): Fault[] {
  const { changed, read } = subject;
  const faults: Fault[] = [];
  for (const { start, end } of changed)
    for (let at = start - 6; at < start; at++) {
      const piece = read(at);
      if (piece === undefined || !piece.facts.isConditional || at + piece.bytes.length < end) continue;
      const { target, branchField } = piece.facts;
      if (!subject.isNew(target) || branchField?.size !== 4) continue;
      const spot = subject.spots.find((s) => s.pieces.some((p) => p.address === target));
      if (spot === undefined) continue;
      const plan = new CodeFaults(subject, spot);
      faults.push(...plan.led("a retargeted branch", piece, [-1, 1, JUMP_SIZE, spot.nop - target!]));
      const before = subject.rewritten.original.bytes;
      const offset = subject.offset(at + branchField.offset);
      const old = at + piece.bytes.length + before.readInt32LE(offset);
      if (old !== spot.entry?.address && entersElsewhere(read, target!, old))
        faults.push(
          plan.fault("a branch not retargeted", `${piece.facts.text} leads to ${hex(old)} as before`, [
            { offset, bytes: before.subarray(offset, offset + 4) },
          ]),
        );
    }
  return faults;
}

export class CodeFaults {
  private readonly faults: Fault[] = [];

  constructor(
    private readonly subject: Subject,
    private readonly spot: Spot,
  ) {}

  fault(kind: string, what: string, patches: readonly Patch[]): Fault {
    const { site, tactic, note } = this.spot;
    return { subject: this.subject, kind, tactic, note, what: `${site.name}: ${what}`, patches };
  }

  all(): Fault[] {
    this.entries();
    this.back();
    this.operands();
    this.branches();
    this.dropped();
    this.doubled();
    this.swapped();
    this.probeLate();
    this.clobbered();
    return this.faults;
  }

  /** A probe's own bytes, with a guard around. Two probes may share a piece of new code. */
  private isProbe({ address }: Piece): boolean {
    return this.subject.spots.some(({ site, nop, nopSize }) => {
      const guard = site.guard ? { before: 5, behind: 8 } : { before: 0, behind: 0 };
      return address >= site.newLocation - guard.before && address < nop + nopSize + guard.behind;
    });
  }

  /** What the program itself does there. */
  private get program(): readonly { readonly piece: Piece; readonly index: number }[] {
    return this.spot.pieces.flatMap((piece, index) =>
      this.isProbe(piece) || piece.facts.isNop || this.isBack(piece, index) ? [] : [{ piece, index }],
    );
  }

  /** The jump at the end of new code that goes back; it is no instruction of the program's. */
  private isBack({ facts }: Piece, index: number): boolean {
    const { entry, pieces, site } = this.spot;
    if (entry === undefined || index !== pieces.length - 1 || facts.target === undefined || !facts.ends) return false;
    // A jump of the program itself is among what was displaced.
    return !site.displaced.some((text) => /^jmp/.test(text)) || site.tactic === "call-through";
  }

  private add(kind: string, what: string, address: number, bytes: Uint8Array): void {
    this.faults.push(this.fault(kind, what, [{ offset: this.subject.offset(address), bytes }]));
  }

  /** Gives a piece's field another value. */
  private alter(kind: string, piece: Piece, field: Field, by: number): void {
    const bytes = Buffer.from(piece.bytes);
    const value = bytes.readIntLE(field.offset, Math.min(field.size, 6)) + by;
    bytes.set(number(value, Math.min(field.size, 6)), field.offset);
    const now = decodePiece(bytes, piece.address);
    if (now === undefined || now.bytes.length !== piece.bytes.length || now.facts.text === piece.facts.text) return;
    this.add(kind, `${piece.facts.text} is ${now.facts.text}`, piece.address, bytes);
  }

  /** A branch that leads somewhere else, where that is somewhere else. */
  led(kind: string, piece: Piece, distances: readonly number[]): Fault[] {
    const { read } = this.subject;
    const { branchField, target } = piece.facts;
    return distances.flatMap((by) => {
      if (branchField === undefined || target === undefined || by === 0) return [];
      const { offset, size } = branchField;
      const distance = piece.bytes.readIntLE(offset, size) + by;
      if (size === 1 && distance !== (distance << 24) >> 24) return [];
      if (!this.passesBy(target, target + by) && !entersElsewhere(read, target, target + by)) return [];
      const what = `${piece.facts.text} leads to ${hex(target + by)}, not ${hex(target)}`;
      return [
        this.fault(kind, what, [
          { offset: this.subject.offset(piece.address + offset), bytes: number(distance, size) },
        ]),
      ];
    });
  }

  /** Whether a way into the piece that came by the probe's place begins behind it now. */
  private passesBy(right: number, wrong: number): boolean {
    const { newLocation } = this.spot.site;
    return (
      right <= newLocation && wrong > newLocation && wrong < this.spot.end && this.spot.pieces[0]!.address <= right
    );
  }

  /** How the window leads to new code. */
  private entries(): void {
    const { entry, pieces, nop } = this.spot;
    if (entry === undefined) return;
    const { target } = entry.facts;
    const inside = pieces[1] === undefined ? [] : [pieces[1].address - target!, nop + 2 - target!];
    const kind = entry.bytes[0] === 0xe8 ? "a call of new code" : "a jump to new code";
    this.faults.push(...this.led(kind, entry, [-1, 1]), ...this.led(`${kind}, to its middle`, entry, inside));
    const { spots } = this.subject;
    const other = spots.find(
      (s) => s.entry !== undefined && s.entry.facts.target !== target && s.note > this.spot.note,
    );
    if (other !== undefined)
      this.faults.push(...this.led(`${kind} of another probe`, entry, [other.entry!.facts.target! - target!]));
  }

  /** How new code goes back. */
  private back(): void {
    const { pieces, window } = this.spot;
    const last = pieces.at(-1)!;
    if (!this.isBack(last, pieces.length - 1)) return;
    const { target } = last.facts;
    if (this.spot.site.tactic === "call-through") {
      this.faults.push(...this.led("a call", last, [-1, 1]));
      return;
    }
    this.faults.push(...this.led("a jump back", last, [-1, 1]));
    const next = this.subject.read(target!);
    const late = next === undefined ? [] : [next.bytes.length];
    this.faults.push(...this.led("a jump back, one instruction late", last, late));
    if (next !== undefined && next.bytes.length > 2)
      this.faults.push(...this.led("a jump back, into an instruction", last, [2]));
    // To the window's start: round and round.
    this.faults.push(
      ...this.led("a jump back, to the window", last, [window.start - target!, this.spot.site.location - target!]),
    );
    // To where the last displaced instruction was.
    const before = pieces.at(-2);
    if (before !== undefined)
      this.faults.push(...this.led("a jump back, one instruction early", last, [-before.bytes.length]));
  }

  private operands(): void {
    const { pieces } = this.spot;
    for (const { piece, index } of this.program) {
      const { facts } = piece;
      if (!survives(pieces, index)) continue;
      if (facts.ripField !== undefined && addressCounts(piece)) {
        this.alter("a %rip-relative operand", piece, facts.ripField, 1);
        this.alter("a %rip-relative operand", piece, facts.ripField, -1);
      }
      if (facts.displacement !== undefined && addressCounts(piece)) {
        this.alter("a displacement", piece, facts.displacement, 1);
        this.alter("a displacement", piece, facts.displacement, -1);
      }
      if (immediateCounts(piece)) {
        const { offset } = facts.immediate!;
        this.alter("an immediate", piece, facts.immediate!, piece.bytes[offset]! & 1 ? -1 : 1);
      }
      if (sizeCounts(piece)) {
        const bytes = Buffer.from(piece.bytes);
        bytes[0]! &= ~8;
        this.add("an operand size", `${facts.text} is of 32 bits`, piece.address, bytes);
      }
      this.registers(piece);
    }
  }

  /** Another register in ModRM.reg, where that is a register and not a part of the opcode. */
  private registers(piece: Piece): void {
    const { facts } = piece;
    const start = piece.bytes.findIndex((byte) => ![0x66, 0xf2, 0xf3].includes(byte) && (byte & 0xf0) !== 0x40);
    const modrm = piece.bytes[start] === 0x0f ? start + 2 : start + 1;
    if (modrm >= piece.bytes.length || facts.isSamePair || facts.leaves) return;
    const bytes = Buffer.from(piece.bytes);
    bytes[modrm]! ^= 8;
    const now = decodePiece(bytes, piece.address);
    if (now === undefined || now.bytes.length !== bytes.length || now.facts.code !== facts.code) return;
    // Of two operands one is another register now: what is read or what is written.
    const sets = [facts.reads, facts.writes].map((set) => [...set].sort().join());
    const setsNow = [now.facts.reads, now.facts.writes].map((set) => [...set].sort().join());
    if (sets.join("/") === setsNow.join("/") || now.facts.isSamePair) return;
    this.add("a register", `${facts.text} is ${now.facts.text}`, piece.address, bytes);
  }

  private branches(): void {
    for (const { piece } of this.program) {
      const { facts, bytes, address } = piece;
      if (facts.target === undefined) continue;
      this.faults.push(...this.led("a displaced branch", piece, [-1, 1]));
      const opcode = bytes.findIndex((byte) => (byte & 0xf0) === 0x70 || (byte & 0xf0) === 0x80);
      if (!facts.isConditional || opcode < 0 || facts.target === address + bytes.length) continue;
      if (!entersElsewhere(this.subject.read, facts.target, address + bytes.length)) continue;
      const changed = Buffer.from(bytes);
      changed[opcode]! ^= 1;
      this.add("a condition", `${facts.text} has the opposite condition`, address, changed);
      const other = Buffer.from(bytes);
      other[opcode]! ^= 2;
      this.add("a condition", `${facts.text} has another condition`, address, other);
    }
  }

  private dropped(): void {
    const { pieces } = this.spot;
    for (const { piece, index } of this.program) {
      if (!survives(pieces, index)) continue;
      const behind = piece.address + piece.bytes.length;
      if (piece.facts.target !== undefined && !entersElsewhere(this.subject.read, piece.facts.target, behind)) continue;
      this.add("an instruction dropped", piece.facts.text, piece.address, Buffer.alloc(piece.bytes.length, 0x90));
      // In the place of its neighbour, and so that one dropped and this one twice.
      const next = pieces[index + 1];
      if (next !== undefined && this.program.some((p) => p.piece === next))
        if (next.bytes.length === piece.bytes.length && isRepeatable(piece) && survives(pieces, index + 1))
          this.add(
            "an instruction for its neighbour",
            `${next.facts.text} is ${piece.facts.text}`,
            next.address,
            piece.bytes,
          );
    }
  }

  /** The rest of a piece of new code moves up by some bytes, into int3 behind it, and something comes in. */
  private inserted(index: number, bytes: Uint8Array): Uint8Array | undefined {
    const { pieces, free, entry } = this.spot;
    if (entry === undefined || free < bytes.length) return undefined;
    const at = pieces[index]!.address;
    const parts: Uint8Array[] = [bytes];
    for (const piece of pieces.slice(index)) {
      const moved = relocate(piece.bytes, vaddr(piece.address), vaddr(piece.address + bytes.length));
      if (moved === undefined || moved.length !== piece.bytes.length) return undefined;
      parts.push(moved);
    }
    // A branch within the piece would have to follow.
    const isWithin = (p: Piece): boolean =>
      p.facts.target !== undefined && p.facts.target >= at && p.facts.target < this.spot.end;
    return pieces.some(isWithin) ? undefined : Buffer.concat(parts);
  }

  private doubled(): void {
    const { pieces } = this.spot;
    for (const { piece, index } of this.program) {
      if (!isRepeatable(piece) || !survives(pieces, index)) continue;
      const bytes = this.inserted(index, piece.bytes);
      if (bytes !== undefined && piece.facts.ripField === undefined)
        this.add("an instruction doubled", `${piece.facts.text} runs twice`, piece.address, bytes);
    }
  }

  private swapped(): void {
    const { pieces } = this.spot;
    const program = this.program;
    for (const { piece, index } of program) {
      const next = pieces[index + 1];
      if (next === undefined || !program.some((p) => p.piece === next) || !orderCounts(pieces, index)) continue;
      const a = relocate(next.bytes, vaddr(next.address), vaddr(piece.address));
      const b = relocate(piece.bytes, vaddr(piece.address), vaddr(piece.address + next.bytes.length));
      if (a === undefined || b === undefined || a.length + b.length !== piece.bytes.length + next.bytes.length)
        continue;
      this.add(
        "instructions swapped",
        `${piece.facts.text} behind ${next.facts.text}`,
        piece.address,
        Buffer.concat([a, b]),
      );
    }
  }

  /** The probe, with its guard, behind the instruction that follows it: a tracer sees another state. */
  private probeLate(): void {
    const { pieces, nop, nopSize, site } = this.spot;
    const behind = nop + nopSize + (site.guard ? 8 : 0);
    const start = site.newLocation - (site.guard ? 5 : 0);
    const index = pieces.findIndex((p) => p.address === behind);
    const piece = pieces[index];
    if (piece === undefined || !this.program.some((p) => p.piece === piece) || piece.facts.leaves) return;
    if (!survives(pieces, index)) return;
    const moved = relocate(piece.bytes, vaddr(behind), vaddr(start));
    const note = this.subject.notes[this.spot.note]!;
    if (moved?.length !== piece.bytes.length) return;
    const location = Buffer.alloc(8);
    location.writeBigInt64LE(BigInt(site.newLocation + moved.length - note.prelinkShift));
    this.faults.push(
      this.fault("a probe behind the next instruction", piece.facts.text, [
        { offset: this.subject.offset(start), bytes: Buffer.concat([moved, this.subject.bytes(start, behind)]) },
        { offset: note.locationOffset, bytes: location },
      ]),
    );
  }

  /** Something more runs: in front of the jump back, or where a nop of the program's or of the filling is. */
  private clobbered(): void {
    const { pieces } = this.spot;
    const last = pieces.length - 1;
    const clobbers = [
      ["a register clobbered", "xor ecx, ecx", [0x31, 0xc9]],
      ["a register clobbered", "mov dl, 1", [0xb2, 0x01]],
      ["flags clobbered", "cmc", [0xf5]],
    ] as const;
    for (const [kind, text, bytes] of clobbers) {
      const inserted =
        this.isBack(pieces[last]!, last) && pieces[last]!.facts.ends
          ? this.inserted(last, Buffer.from(bytes))
          : undefined;
      if (inserted !== undefined)
        this.add(kind, `${text} before ${pieces[last]!.facts.text}`, pieces[last]!.address, inserted);
      for (const [index, piece] of pieces.entries()) {
        // Behind the end of a block that moved up nothing runs.
        if (pieces.slice(0, index).some((p) => p.facts.ends)) break;
        if (!piece.facts.isNop || this.isProbe(piece) || piece.bytes.length < bytes.length) continue;
        const filled = Buffer.alloc(piece.bytes.length, 0x90);
        filled.set(bytes);
        const changed = pieces.flatMap((p, i) => (i === index ? (decodePiece(filled, p.address) ?? []) : [p]));
        if (survives(changed, index)) this.add(kind, `${text} in the place of a nop`, piece.address, filled);
      }
    }
  }
}
