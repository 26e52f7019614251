/**
 * Switches as compilers write them, in a part that need not be followed for anything else: a jump by a sum, made right
 * before it, of the start of a table of distances and a word of that table.
 *
 *         lea table(%rip), %base              on every way that leads here
 *         movslq (%base,%index,4), %word
 *         add %base, %word
 *         jmp *%word
 *
 * Nothing is said of one that is not exactly so.
 */
import { type Decoder, type Instruction, iced, ripAddress } from "./decode.js";
import { type Formation, formationOf } from "./findings.js";
import type { Part, Parts } from "./parts.js";
import type { Program } from "./program.js";
import { isPreserved } from "./state.js";
import { generals, type WritesTable } from "./writes.js";

const { FlowControl, Mnemonic, OpKind, Register } = iced;

/** So many instructions in front of the jump may hold the addition and the load. */
const NEAR = 12;
const MOST_STEPS = 4000;

/** The load and the addition, and what they need. */
interface Shape {
  readonly load: number;
  readonly add: number;
  /** Which register holds the table's start at the load. */
  readonly base: number;
  readonly displacement: number;
}

export class Switches {
  /** Additions that are part of a switch, and its jumps. */
  readonly explained = new Set<number>();
  readonly formations: Formation[] = [];
  readonly jumps = new Set<number>();

  /** @param sources instructions that branch to an address of the part; those of the switches are added */
  constructor(
    private readonly program: Program,
    private readonly parts: Parts,
    private readonly decoder: Decoder,
    private readonly writes: WritesTable,
    private readonly part: Part,
    private readonly sources: Map<number, number[]>,
    private readonly isEntered: (address: number) => boolean,
  ) {}

  /** Whether each of these jumps through a register is a switch. */
  areAll(jumps: readonly { readonly at: number; readonly register: number }[]): boolean {
    // Any of the part's tables may lead anywhere that it says, before it is known whose it is.
    const entries = new Set([...this.candidates()].flatMap((t) => this.form(t, t, this.part.start)?.entries ?? []));
    for (const entry of entries)
      if (entry >= this.part.start && entry < this.part.end)
        this.sources.set(entry, [...(this.sources.get(entry) ?? []), ...jumps.map(({ at }) => at)]);
    return jumps.every(({ at, register }) => {
      const shape = this.shapeOf(at, register);
      if (shape === undefined) return false;
      const tables = this.tablesAt(shape.load, shape.base);
      if (tables === undefined) return false;
      for (const table of tables) {
        const formation = this.form(table, table + shape.displacement, shape.load);
        if (formation === undefined || formation.entries.length === 0) return false;
        this.formations.push(formation);
      }
      this.explained.add(shape.add);
      this.jumps.add(at);
      return true;
    });
  }

  private form(base: number, first: number, at: number): Formation | undefined {
    return formationOf(this.program, this.parts, base, { first, stride: 4, width: 4, signed: true }, false, at);
  }

  /** Addresses of data that the part makes. */
  private candidates(): ReadonlySet<number> {
    const found = new Set<number>();
    for (let at = this.part.start; at < this.part.end; ) {
      const i = this.decoder.at(at);
      if (i === undefined) break;
      const target = addressMade(i);
      if (target !== undefined && !this.program.isCode(target)) found.add(target);
      at += i.length;
    }
    return found;
  }

  /** The addition and the load in front of a jump, with nothing that leads in between. */
  private shapeOf(jump: number, register: number): Shape | undefined {
    let add = -1;
    let [word, base] = [register, -1];
    let at = jump;
    for (let n = 0; n < NEAR && at > this.part.start && !this.sources.has(at) && !this.isEntered(at); n++) {
      at = this.parts.startOf(at - 1);
      const i = this.decoder.at(at);
      if (i === undefined || i.flowControl !== FlowControl.Next) return undefined;
      const { written } = this.writes.of(i);
      if (add < 0) {
        if (!written.includes(register)) continue;
        if (i.mnemonic !== Mnemonic.Add || i.opKind(0) !== OpKind.Register || i.opKind(1) !== OpKind.Register)
          return undefined;
        const [to, from] = [generals[i.opRegister(0)], generals[i.opRegister(1)]];
        if (to?.size !== 8 || from?.size !== 8 || to.index !== register || from.index === register) return undefined;
        add = at;
        base = from.index;
        continue;
      }
      const isLoad = i.mnemonic === Mnemonic.Movsxd && i.memoryIndex !== Register.None && i.memoryIndexScale === 4;
      const to = isLoad ? generals[i.opRegister(0)]! : undefined;
      const from = isLoad ? generals[i.memoryBase]?.index : undefined;
      // Either of the two registers of the addition may be the word.
      if (to?.size === 8 && to.index === base && from === word) [word, base] = [base, word];
      if (to?.size === 8 && to.index === word && from === base)
        return { load: at, add, base, displacement: Number(BigInt.asIntN(64, i.memoryDisplacement)) };
      if (written.includes(word) || written.includes(base)) return undefined;
    }
    return undefined;
  }

  /** The tables whose start a register may hold at an address; undefined where it may hold anything else. */
  private tablesAt(start: number, register: number): ReadonlySet<number> | undefined {
    const tables = new Set<number>();
    const seen = new Set<number>([start * 16 + register]);
    const waiting = [...seen];
    for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) {
      if (seen.size > MOST_STEPS) return undefined;
      const tracked = key % 16;
      const at = (key - tracked) / 16;
      const enter = (from: number, other: number): void => {
        if (!seen.has(from * 16 + other)) waiting.push(from * 16 + other);
        seen.add(from * 16 + other);
      };
      if (this.isEntered(at)) return undefined;
      const branches = this.sources.get(at) ?? [];
      for (const source of branches) enter(source, tracked);
      const before = at > this.part.start ? this.parts.startOf(at - 1) : -1;
      const i = before < 0 ? undefined : this.decoder.at(before);
      if (i === undefined || before + i.length !== at) return undefined;
      const flow = i.flowControl;
      if (
        flow === FlowControl.UnconditionalBranch ||
        flow === FlowControl.IndirectBranch ||
        flow === FlowControl.Return
      ) {
        // Nothing else is known to lead here: who does may bring anything. Nops that align what follows nobody leads
        // to.
        if (branches.length === 0 && this.decoder.at(at)?.mnemonic !== Mnemonic.Nop) return undefined;
      } else if (flow === FlowControl.ConditionalBranch) enter(before, tracked);
      else if (flow === FlowControl.Call || flow === FlowControl.IndirectCall) {
        if (!isPreserved(tracked)) return undefined;
        enter(before, tracked);
      } else if (flow !== FlowControl.Next) return undefined;
      else if (!this.writes.of(i).written.includes(tracked)) enter(before, tracked);
      else {
        const table = addressMade(i);
        if (table !== undefined) tables.add(table);
        else if (i.mnemonic === Mnemonic.Mov && i.opKind(0) === OpKind.Register && i.opKind(1) === OpKind.Register) {
          const [to, from] = [generals[i.opRegister(0)], generals[i.opRegister(1)]];
          if (to?.size !== 8 || from?.size !== 8) return undefined;
          enter(before, from.index);
        } else return undefined;
      }
    }
    return tables;
  }
}

/** What a lea puts into a whole register. */
const addressMade = (i: Instruction): number | undefined =>
  i.mnemonic === Mnemonic.Lea && i.isIpRelMemoryOperand && generals[i.opRegister(0)]?.size === 8
    ? ripAddress(i)
    : undefined;
