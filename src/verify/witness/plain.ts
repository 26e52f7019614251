/**
 * A first look at a part that spares following most of them: its indirect transfers go by what was just loaded or
 * handed over, and what addresses of code it makes it only compares, stores and passes on. Nothing is said of a part
 * where that is not plain.
 */
import { Decoder, type Instruction, iced, mnemonicsLike, ripAddress } from "./decode.js";
import type { Formation } from "./findings.js";
import { FrameStores, isSlotLoad } from "./frame-stores.js";
import { type Part, type Parts, Use } from "./parts.js";
import type { Program } from "./program.js";
import { lowerBound } from "./spans.js";
import { isPreserved, RBP, RSP } from "./state.js";
import { Switches } from "./switches.js";
import type { Thunks } from "./thunks.js";
import { addsInVectors } from "./vectors.js";
import { generals, WritesTable } from "./writes.js";

const { FlowControl, Mnemonic, OpKind, Register } = iced;

const MOST_STEPS = 2000;
const isFrame = (register: number): boolean => generals[register]?.index === RSP || generals[register]?.index === RBP;

/**
 * What is followed: an address of code, which must not be read by or added to; a short word, which must not be added.
 */
type Tracked = "code" | "word";

export class Plainness {
  private readonly decoder: Decoder;
  private readonly writes = new WritesTable();
  /** Of the part that is looked at: instructions that branch to an address. */
  private sources = new Map<number, number[]>();
  private switches: Switches | undefined;
  private stores: FrameStores | undefined;
  private adds: boolean | undefined;
  /** Tables of switches in parts that are plain. */
  readonly formations: Formation[] = [];

  constructor(
    private readonly program: Program,
    private readonly parts: Parts,
    /** Addresses inside of parts that are entered, but for by branches of the same part. */
    private readonly isEntered: (address: number) => boolean,
    private readonly thunks: Thunks,
  ) {
    this.decoder = new Decoder(program.sources);
  }

  free(): void {
    this.decoder.free();
    this.writes.free();
  }

  isPlain(part: Part): boolean {
    if (!part.linear || part.unknown !== undefined || part.isGap || part.heads.length > 1) return false;
    const { from, to, use, count } = this.parts.references;
    this.sources = new Map();
    for (let n = lowerBound(from, part.start); n < count && from[n]! < part.end; n++) {
      const target = to[n]!;
      // A label that goes somewhere may come back, and a table's word be added to it.
      if (use[n]! >= Use.Lea && use[n] !== Use.Memory && this.parts.at(target)?.heads.includes(target) === false)
        return false;
      if (target < part.start || target >= part.end) continue;
      if (use[n] === Use.Call && target !== part.start) return false;
      if (use[n] !== Use.Jump && use[n] !== Use.Conditional) continue;
      const known = this.sources.get(target);
      if (known === undefined) this.sources.set(target, [from[n]!]);
      else known.push(from[n]!);
    }
    this.stores = undefined;
    this.adds = undefined;
    if (this.thunks.returnsElsewhere(part)) return false;
    if (this.thunks.branchesOf(part).some(({ at, register }) => !this.isLoaded(part, at, register))) return false;
    this.switches = this.switchesOf(part);
    if (this.switches === undefined) return false;
    for (const at of this.parts.pointsIn(part)) {
      const i = this.decoder.at(at);
      if (i === undefined || !this.isPlainAt(part, i, at, at + i.length)) return false;
    }
    this.formations.push(...this.switches.formations);
    return true;
  }

  /** The part's jumps through registers that go by a sum; undefined where one does and is no switch. */
  private switchesOf(part: Part): Switches | undefined {
    const found = new Switches(this.program, this.parts, this.decoder, this.writes, part, this.sources, this.isEntered);
    const jumps: { at: number; register: number }[] = [];
    for (const at of this.parts.pointsIn(part)) {
      const i = this.decoder.at(at);
      if (i === undefined) return undefined;
      if (i.flowControl === FlowControl.IndirectBranch && i.opKind(0) === OpKind.Register)
        jumps.push({ at, register: generals[i.opRegister(0)]!.index });
    }
    const sums = jumps.filter(({ at, register }) => !this.isLoaded(part, at, register));
    if (sums.length === 0) return found;
    return found.areAll(sums) ? found : undefined;
  }

  private isPlainAt(part: Part, i: Instruction, at: number, next: number): boolean {
    switch (i.flowControl) {
      case FlowControl.IndirectBranch:
      case FlowControl.IndirectCall:
        if (i.opKind(0) === OpKind.Memory) return !isFrame(i.memoryBase) && !isFrame(i.memoryIndex) && this.isBased(i);
        // Jumps have been looked at already, but for what the tables of others lead to.
        return (
          (i.flowControl === FlowControl.IndirectBranch && this.switches?.jumps.has(at) === true) ||
          this.isLoaded(part, at, generals[i.opRegister(0)]!.index)
        );
      case FlowControl.XbeginXabortXend:
        return false;
      case FlowControl.Next:
        break;
      default:
        return true;
    }
    if (i.mnemonic === Mnemonic.Movsxd && i.memoryIndex !== Register.None) {
      const word = generals[i.opRegister(0)]!.index;
      const addresses = addressesOf(i);
      // Words are a table's only where the function knows the table's address.
      return this.isPassedOn(part, next, word, "word") || this.isForeign(part, at, addresses);
    }
    const made = this.makes(i);
    return made === undefined || (made >= 0 && this.isPassedOn(part, next, made, "code"));
  }

  /** A pointer in memory that a register leads to: not one of a table at an address that the instruction says. */
  private isBased(i: Instruction): boolean {
    return i.isIpRelMemoryOperand || (i.memoryBase !== Register.None && !this.program.isFixed);
  }

  /** The register in which an instruction puts an address of code; -1 where it does something else with one. */
  private makes(i: Instruction): number | undefined {
    const { program } = this;
    if (i.isIpRelMemoryOperand) {
      const target = ripAddress(i);
      if (i.mnemonic === Mnemonic.Lea) return program.isCode(target) ? this.whole(i) : undefined;
      const value = program.isConstant(target) ? program.pointerAt(target) : undefined;
      if (value === undefined || !program.isCode(value)) return program.isCode(target) ? -1 : undefined;
      if (i.mnemonic === Mnemonic.Cmp || i.mnemonic === Mnemonic.Test) return undefined;
      return i.mnemonic === Mnemonic.Mov ? this.whole(i) : -1;
    }
    if (!program.isFixed) return undefined;
    for (let n = 0; n < i.opCount; n++) {
      const kind = i.opKind(n);
      if (kind === OpKind.Memory) {
        if (program.isCode(Number(i.memoryDisplacement))) return -1;
      } else if (kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64) {
        if (!program.isCode(Number(i.immediate(n)))) continue;
        if (i.mnemonic === Mnemonic.Cmp) return undefined;
        if (i.mnemonic !== Mnemonic.Mov) return -1;
        if (i.opKind(0) === OpKind.Memory) return isFrame(i.memoryBase) ? -1 : undefined;
        return generals[i.opRegister(0)]?.index ?? -1;
      }
    }
    return undefined;
  }

  private whole(i: Instruction): number {
    const general = i.opKind(0) === OpKind.Register ? generals[i.opRegister(0)] : undefined;
    return general?.size === 8 ? general.index : -1;
  }

  /** Whether what a register holds from an address on is only compared, stored, called or handed on. */
  private isPassedOn(part: Part, start: number, register: number, what: Tracked): boolean {
    const seen = new Set<number>();
    const waiting = [start * 16 + register];
    let left = MOST_STEPS;
    for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) {
      const tracked = key % 16;
      for (let at = (key - tracked) / 16; !seen.has(at * 16 + tracked); ) {
        seen.add(at * 16 + tracked);
        if (left-- === 0 || at >= part.end) return false;
        const i = this.decoder.at(at);
        if (i === undefined) return false;
        const next = at + i.length;
        const flow = i.flowControl;
        if (flow === FlowControl.Return || flow === FlowControl.IndirectBranch || flow === FlowControl.Exception) break;
        if (flow === FlowControl.UnconditionalBranch || flow === FlowControl.ConditionalBranch) {
          const target = Number(i.nearBranchTarget);
          if (target >= part.start && target < part.end) waiting.push(target * 16 + tracked);
          else if (this.parts.at(target)?.group === part.group) return false;
          if (flow === FlowControl.UnconditionalBranch) break;
        } else if (flow === FlowControl.Call || flow === FlowControl.IndirectCall) {
          if (i.mnemonic !== Mnemonic.Syscall && (!isPreserved(tracked) || next >= part.end)) break;
        } else {
          const said = what === "word" && this.switches?.explained.has(at) ? "gone" : this.use(part, i, tracked, what);
          if (said === "bad") return false;
          if (said === "gone") break;
          if (typeof said === "number") waiting.push(next * 16 + said);
        }
        at = next;
      }
    }
    return true;
  }

  /** What an instruction does with what a register holds; a number: it copies it to that register. */
  private use(part: Part, i: Instruction, register: number, what: Tracked): "bad" | "gone" | "kept" | number {
    const { written, read } = this.writes.of(i);
    const isAddress = generals[i.memoryBase]?.index === register || generals[i.memoryIndex]?.index === register;
    if (isAddress && i.mnemonic !== Mnemonic.Nop) {
      const isSum = i.mnemonic === Mnemonic.Lea && !this.isWithNumber(i);
      if (what === "code" || isSum) return "bad";
    }
    let copied = -1;
    // What another operation makes of a short word is no word, and added to an address it forms no table.
    const isUsed = read.includes(register) && !(what === "word" && MIXES.has(i.mnemonic));
    if (isUsed && CHOICES.has(i.mnemonic)) {
      const general = generals[i.opRegister(0)];
      if (general === undefined || (general.size !== 8 && what === "code")) return "bad";
      return general.index;
    }
    if (isUsed) {
      if (i.mnemonic === Mnemonic.Mov && i.opKind(1) === OpKind.Register) {
        if (i.opKind(0) === OpKind.Memory) {
          if (isFrame(i.memoryBase)) return "bad";
        } else {
          const general = generals[i.opRegister(0)];
          if (general === undefined) return "bad";
          if (general.size === 8 || what === "word") copied = general.index;
          else return "bad";
        }
      } else if (i.mnemonic === Mnemonic.Movq && generals[i.opRegister(0)] === undefined)
        return what === "code" && this.addsInVectors(part) ? "bad" : "kept";
      else if (i.mnemonic !== Mnemonic.Cmp && i.mnemonic !== Mnemonic.Test) return "bad";
    }
    if (written.includes(register) && copied !== register) return copied >= 0 ? "bad" : "gone";
    return copied >= 0 ? copied : "kept";
  }

  /** Whether anything is added in vector registers, or bits are changed there. */
  private addsInVectors(part: Part): boolean {
    this.adds ??= [...this.parts.pointsIn(part)].some((at) => addsAt(this.decoder.at(at)));
    return this.adds;
  }

  /** A lea of a register, scaled perhaps, and a number that is no address. */
  private isWithNumber(i: Instruction): boolean {
    const isOne = i.memoryBase === Register.None || i.memoryIndex === Register.None || i.memoryBase === i.memoryIndex;
    return isOne && !this.program.isFixed;
  }

  /**
   * Whether a register holds at an address what was loaded or handed over: from a slot of the frame what was put there,
   * which must be that, too.
   */
  private isLoaded(part: Part, start: number, register: number): boolean {
    return this.comesFrom(part, start, [register], (i, tracked, enter) => {
      if (!isSlotLoad(i)) return this.origin(i, tracked);
      this.stores ??= FrameStores.of(this.decoder, part);
      const stores = this.stores.into(Number(BigInt.asIntN(64, i.memoryDisplacement)));
      if (stores === undefined) return "bad";
      for (const { at, register: stored } of stores) enter(at, stored);
      return [];
    });
  }

  /**
   * Whether registers hold no address that this function makes, nor one that stands in memory that it knows the address
   * of.
   */
  private isForeign(part: Part, start: number, registers: readonly number[]): boolean {
    if (this.program.isFixed) return false;
    return this.comesFrom(part, start, registers, (i, tracked) => this.foreignOrigin(i, tracked));
  }

  /**
   * Whether all ways to what registers hold at an address lead to where `origin` says that it comes from nowhere else.
   */
  private comesFrom(
    part: Part,
    start: number,
    registers: readonly number[],
    origin: (
      i: Instruction,
      register: number,
      enter: (at: number, register: number) => void,
    ) => "bad" | readonly number[],
  ): boolean {
    const seen = new Set<number>();
    const waiting = registers.map((register) => start * 16 + register);
    let left = MOST_STEPS;
    const enter = (at: number, tracked: number): void => {
      const key = at * 16 + tracked;
      if (!seen.has(key)) waiting.push(key);
      seen.add(key);
    };
    for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) {
      if (left-- === 0) return false;
      const tracked = key % 16;
      const at = (key - tracked) / 16;
      for (const source of this.sources.get(at) ?? []) enter(source, tracked);
      if (at <= part.start) continue;
      const before = this.parts.startOf(at - 1);
      const i = this.decoder.at(before);
      if (i === undefined || before + i.length !== at) return false;
      switch (i.flowControl) {
        case FlowControl.Next:
          if (!this.writes.of(i).written.includes(tracked)) enter(before, tracked);
          else {
            const others = origin(i, tracked, enter);
            if (others === "bad") return false;
            for (const other of others) enter(before, other);
          }
          break;
        case FlowControl.Call:
        case FlowControl.IndirectCall:
          if (isPreserved(tracked)) enter(before, tracked);
          break;
        case FlowControl.ConditionalBranch:
          enter(before, tracked);
          break;
        default:
          break;
      }
    }
    return true;
  }

  /** The registers that what an instruction writes to a register may be an address by. */
  private foreignOrigin(i: Instruction, register: number): "bad" | readonly number[] {
    // From a variable: whatever somebody put there. What the loader fills may be the address of a table.
    if (i.isIpRelMemoryOperand && i.mnemonic === Mnemonic.Mov && i.opKind(1) === OpKind.Memory) {
      const place = ripAddress(i);
      return this.program.isConstant(place) && this.program.pointerAt(place) !== undefined ? "bad" : [];
    }
    if (i.isIpRelMemoryOperand || i.opCount === 0 || i.opKind(0) !== OpKind.Register) return "bad";
    if (generals[i.opRegister(0)]?.index !== register) return "bad";
    const { read } = this.writes.of(i);
    const all = [...read, ...addressesOf(i)];
    return all.includes(RSP) || all.includes(RBP) ? "bad" : all;
  }

  /** What an instruction writes to a register: what others hold, or else something loaded (none). */
  private origin(i: Instruction, register: number): "bad" | readonly number[] {
    const isMove = i.mnemonic === Mnemonic.Mov;
    if (i.opCount !== 2 || i.opKind(0) !== OpKind.Register) return "bad";
    const general = generals[i.opRegister(0)];
    if (general?.index !== register) return "bad";
    if (i.mnemonic === Mnemonic.Lea && general.size === 8) return i.isIpRelMemoryOperand ? [] : "bad";
    const isChoice = CHOICES.has(i.mnemonic);
    const isRegister = i.opKind(1) === OpKind.Register;
    if (i.mnemonic === Mnemonic.Xor && isRegister && i.opRegister(0) === i.opRegister(1)) return [];
    if (!isMove && !isChoice) return "bad";
    if (general.size !== 8)
      return isMove && general.size === 4 && !isRegister && i.opKind(1) !== OpKind.Memory ? [] : "bad";
    const own = isChoice ? [register] : [];
    if (i.opKind(1) === OpKind.Memory) return isFrame(i.memoryBase) || isFrame(i.memoryIndex) ? "bad" : own;
    if (!isRegister) return own;
    const source = generals[i.opRegister(1)];
    return source === undefined || source.index === RSP ? "bad" : [...own, source.index];
  }
}

/** The general registers that an instruction's operand in memory goes by. */
const addressesOf = (i: Instruction): readonly number[] =>
  [i.memoryBase, i.memoryIndex].flatMap((register) => generals[register]?.index ?? []);

const addsAt = (i: Instruction | undefined): boolean => i !== undefined && addsInVectors(i);

const CHOICES = mnemonicsLike(/^Cmov/);

const MIXES = new Set<number>([
  Mnemonic.Shl,
  Mnemonic.Sal,
  Mnemonic.Shr,
  Mnemonic.Sar,
  Mnemonic.Imul,
  Mnemonic.Mul,
  Mnemonic.Div,
  Mnemonic.Idiv,
  Mnemonic.Neg,
  Mnemonic.Not,
  Mnemonic.Tzcnt,
  Mnemonic.Bsf,
  Mnemonic.Bsr,
  Mnemonic.Cqo,
  Mnemonic.Cdq,
]);
