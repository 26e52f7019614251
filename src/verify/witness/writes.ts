/**
 * Which of the sixteen general registers instructions write and read, operands and others, as iced says.
 */
import { type Instruction, iced } from "./decode.js";

const { OpKind, Register, OpAccess } = iced;

/** Which of the sixteen registers a register of iced's is, and how many bytes of it; -1 for others. */
export const generals: { readonly index: number; readonly size: number }[] = [];
for (let i = 0; i < 16; i++) {
  generals[Register.RAX + i] = { index: i, size: 8 };
  generals[Register.EAX + i] = { index: i, size: 4 };
  generals[Register.AX + i] = { index: i, size: 2 };
}
for (let i = 0; i < 20; i++) generals[Register.AL + i] = { index: i < 4 ? i : i - 4, size: 1 };
/** What an instruction writes: indices of operands; registers, and those that it reads other than for an address. */
export interface Writes {
  readonly operands: readonly number[];
  /** Indices of operands that are read. */
  readonly loaded: readonly number[];
  readonly written: readonly number[];
  readonly read: readonly number[];
}

export class WritesTable {
  private readonly info = new iced.InstructionInfoFactory();
  private readonly known = new Map<number, Writes>();

  /** By the code and the registers that are operands: asking iced is slow. */
  of(i: Instruction): Writes {
    let key = i.code * 2 + (i.hasRepPrefix || i.hasRepnePrefix ? 1 : 0);
    const named: number[] = [];
    for (let n = 0; n < i.opCount; n++) {
      const general = i.opKind(n) === OpKind.Register ? generals[i.opRegister(n)]?.index : undefined;
      if (general !== undefined) named.push(general);
      key = key * 17 + (general ?? 16);
    }
    const addresses = [i.memoryBase, i.memoryIndex].map((register) => generals[register]?.index ?? 16);
    key = (key * 17 + addresses[0]!) * 17 + addresses[1]!;
    let known = this.known.get(key);
    if (known !== undefined) return known;
    const info = this.info.info(i);
    const accesses = [info.op0Access, info.op1Access, info.op2Access, info.op3Access, info.op4Access];
    const operands = accesses.flatMap((access, n) => (n < i.opCount && isWrite(access) ? [n] : []));
    const loaded = accesses.flatMap((access, n) => (n < i.opCount && isRead(access) ? [n] : []));
    const written: number[] = [];
    const read: number[] = [];
    for (const used of info.usedRegisters()) {
      const index = generals[used.register]?.index;
      if (index !== undefined && isWrite(used.access)) written.push(index);
      if (index !== undefined && isRead(used.access) && (named.includes(index) || !addresses.includes(index)))
        read.push(index);
      used.free();
    }
    info.free();
    known = { operands, loaded, written, read };
    this.known.set(key, known);
    return known;
  }

  free(): void {
    this.info.free();
  }
}

const isWrite = (access: number): boolean =>
  access === OpAccess.Write ||
  access === OpAccess.CondWrite ||
  access === OpAccess.ReadWrite ||
  access === OpAccess.ReadCondWrite;
const isRead = (access: number): boolean =>
  access === OpAccess.Read ||
  access === OpAccess.CondRead ||
  access === OpAccess.ReadWrite ||
  access === OpAccess.ReadCondWrite;
