/**
 * What one instruction does to a state. Moves are followed, sums are made by values.ts; whatever is not known here
 * leaves taint in all that it writes, as iced says what that is.
 */
import { type Instruction, iced, mnemonicsLike, ripAddress } from "./decode.js";
import { type Loads, type Place, placeOf, placesOf } from "./place.js";
import type { Program } from "./program.js";
import { isComputed, isPlaced, RBP, RSP, type State, VECTORS } from "./state.js";
import { copied, putString, stringMove, takesComputed } from "./strings.js";
import {
  Arithmetic,
  Atom,
  GIVEN,
  join,
  number,
  ROTATED,
  SOME_TABLE,
  TAINT,
  type Table,
  unite,
  type Value,
  type Watcher,
  ZERO,
} from "./values.js";
import { addsInVectors } from "./vectors.js";
import { generals, WritesTable } from "./writes.js";

const { Mnemonic, OpKind, Register, MemorySizeExt } = iced;

const isHigh = (register: number): boolean => register >= Register.AH && register <= Register.BH;

export class Stepper {
  readonly arithmetic: Arithmetic;
  private readonly writes = new WritesTable();
  private readonly sizes = new Map<number, number>();
  /** Vector registers may hold something that was computed. */
  private computesInVectors = false;

  constructor(
    private readonly program: Program,
    private readonly watcher: Watcher & Loads,
  ) {
    this.arithmetic = new Arithmetic(watcher);
  }

  /** Before another group is followed. */
  begin(): void {
    this.computesInVectors = false;
  }

  /** Instructions that go on to the next one. */
  step(i: Instruction, state: State, address: number): undefined {
    const { arithmetic } = this;
    switch (i.mnemonic) {
      case Mnemonic.Nop:
      case Mnemonic.Endbr64:
      case Mnemonic.Prefetchw:
      case Mnemonic.Prefetcht0:
      case Mnemonic.Prefetchnta:
        return;
      case Mnemonic.Cmp:
      case Mnemonic.Test:
      case Mnemonic.Bt:
        if (this.hasMemory(i)) this.load(i, state, 1, false);
        return;
      case Mnemonic.Mov:
        if (this.isPlain(i)) return this.write(i, 0, this.read(i, 1, state), state);
        break;
      case Mnemonic.Movzx:
        return this.write(i, 0, this.extended(i, state, false), state);
      case Mnemonic.Movsx:
      case Mnemonic.Movsxd:
        return this.write(i, 0, this.extended(i, state, true), state);
      case Mnemonic.Lea:
        return this.write(i, 0, this.effective(i, state), state);
      case Mnemonic.Add:
        return this.binary(i, state, (a, b) => arithmetic.add(a, b));
      case Mnemonic.Sub:
        if (this.isSameRegister(i)) return this.write(i, 0, ZERO, state);
        return this.binary(i, state, (a, b) => arithmetic.subtract(a, b));
      case Mnemonic.Xor:
        if (this.isSameRegister(i)) return this.write(i, 0, ZERO, state);
        if (this.isUnmangling(i, state)) return this.write(i, 0, GIVEN, state);
        return this.binary(i, state, (a, b) => arithmetic.bits(a, b, "xor", address));
      case Mnemonic.And:
        return this.binary(i, state, (a, b) => arithmetic.bits(a, b, "and", address));
      case Mnemonic.Or:
        return this.binary(i, state, (a, b) => arithmetic.bits(a, b, "or", address));
      case Mnemonic.Inc:
        return this.write(i, 0, arithmetic.add(this.read(i, 0, state), [number(1, false)]), state);
      case Mnemonic.Dec:
        return this.write(i, 0, arithmetic.add(this.read(i, 0, state), [number(-1, false)]), state);
      case Mnemonic.Shl:
      case Mnemonic.Sal: {
        const by = i.opKind(1) === OpKind.Immediate8 ? i.immediate8 : 99;
        const value = this.read(i, 0, state);
        return this.write(i, 0, by <= 3 ? arithmetic.scaled(value, 2 ** by) : arithmetic.mix(value, TAINT), state);
      }
      case Mnemonic.Ror: {
        const value = this.read(i, 0, state);
        const isGiven = value.every(({ kind }) => kind === "given" || kind === "rotated");
        if (isGiven && i.opKind(1) === OpKind.Immediate8 && i.immediate8 === 0x11)
          return this.write(i, 0, ROTATED, state);
        return this.write(i, 0, arithmetic.mix(value, TAINT), state);
      }
      case Mnemonic.Cdqe:
        state.registers[0] = arithmetic.narrowed(state.registers[0]!, 4, true);
        return;
      case Mnemonic.Xadd: {
        const [a, b] = [this.read(i, 0, state), this.read(i, 1, state)];
        this.write(i, 1, a, state);
        return this.write(i, 0, arithmetic.add(a, b), state);
      }
      case Mnemonic.Xchg: {
        const [a, b] = [this.read(i, 0, state), this.read(i, 1, state)];
        this.write(i, 0, b, state);
        return this.write(i, 1, a, state);
      }
      case Mnemonic.Push: {
        const value = this.read(i, 0, state);
        this.moveStack(state, -8);
        return this.storeAt(this.top(state), 8, value, state);
      }
      case Mnemonic.Pop: {
        const value = this.pop(state);
        return this.write(i, 0, value, state);
      }
      case Mnemonic.Enter: {
        // With nested frames, which nobody makes: then rsp and rbp are not followed any more.
        if (i.immediate8_2nd !== 0) break;
        this.moveStack(state, -8);
        this.storeAt(this.top(state), 8, state.registers[RBP]!, state);
        state.registers[RBP] = state.registers[RSP]!;
        this.moveStack(state, -i.immediate16);
        return;
      }
      case Mnemonic.Leave:
        state.registers[RSP] = state.registers[RBP]!;
        state.registers[RBP] = this.pop(state);
        return;
      case Mnemonic.Syscall:
        for (const register of [0, 1, 11]) state.registers[register] = GIVEN;
        return;
      case Mnemonic.Cmpxchg: {
        const [old, next] = [this.read(i, 0, state), this.read(i, 1, state)];
        state.registers[0] = this.sizeOf(i, 0) === 8 ? join(state.registers[0]!, old) : TAINT;
        return this.write(i, 0, join(old, next), state);
      }
    }
    if (CMOV.has(i.mnemonic)) return this.write(i, 0, join(this.read(i, 0, state), this.read(i, 1, state)), state);
    this.unknown(i, state);
  }

  /** What a jmp or call through a register or memory goes by. */
  target(i: Instruction, state: State): Value {
    return this.read(i, 0, state);
  }

  /** The eight bytes at rsp, and rsp after them. */
  pop(state: State, isReturn = false): Value {
    const value = this.loadAt(this.top(state), 8, false, state, isReturn);
    this.moveStack(state, 8);
    return value;
  }

  pushAddress(state: State, address: number): void {
    this.moveStack(state, -8);
    this.storeAt(this.top(state), 8, [number(address, true)], state);
  }

  free(): void {
    this.writes.free();
  }

  private moveStack(state: State, by: number): void {
    state.registers[RSP] = this.arithmetic.add(state.registers[RSP]!, [number(by, false)]);
  }

  private top(state: State): Place {
    return placesOf(state.registers[RSP]!, 0);
  }

  private isPlain(i: Instruction): boolean {
    return i.opKind(0) === OpKind.Register ? generals[i.opRegister(0)] !== undefined : true;
  }

  private isSameRegister(i: Instruction): boolean {
    return i.opKind(1) === OpKind.Register && i.opKind(0) === OpKind.Register && i.opRegister(0) === i.opRegister(1);
  }

  private hasMemory(i: Instruction): boolean {
    return i.opKind(0) === OpKind.Memory || i.opKind(1) === OpKind.Memory;
  }

  /** glibc's PTR_DEMANGLE: xor %fs:0x30 of a pointer that was rotated. */
  private isUnmangling(i: Instruction, state: State): boolean {
    const register = generals[i.opRegister(0)];
    return (
      i.opKind(1) === OpKind.Memory &&
      i.memorySegment === Register.FS &&
      i.memoryDisplacement === 0x30n &&
      register !== undefined &&
      state.registers[register.index] === ROTATED
    );
  }

  /** Whether 0 is added to something, or combined with it by or or xor. */
  private isZero(i: Instruction): boolean {
    return i.mnemonic !== Mnemonic.And && i.opKind(1) !== OpKind.Memory && i.immediate(1) === 0n;
  }

  private sizeOf(i: Instruction, operand: number): number {
    if (i.opKind(operand) === OpKind.Register) return generals[i.opRegister(operand)]?.size ?? 16;
    const kind = i.memorySize;
    let size = this.sizes.get(kind);
    if (size === undefined) {
      size = MemorySizeExt.size(kind);
      this.sizes.set(kind, size);
    }
    return size;
  }

  private read(i: Instruction, operand: number, state: State): Value {
    switch (i.opKind(operand)) {
      case OpKind.Register: {
        const register = i.opRegister(operand);
        const general = generals[register];
        if (general === undefined) return GIVEN;
        if (general.size === 8) return state.registers[general.index]!;
        if (general.size === 4) return this.arithmetic.narrowed(state.registers[general.index]!, 4, false);
        return isHigh(register)
          ? TAINT
          : this.arithmetic.narrowed(state.registers[general.index]!, general.size, false);
      }
      case OpKind.Memory:
        return this.load(i, state, this.sizeOf(i, operand), false);
      default: {
        const n = Number(BigInt.asIntN(64, i.immediate(operand)));
        return Number.isSafeInteger(n) ? [this.constant(n)] : TAINT;
      }
    }
  }

  private constant(n: number): Atom {
    const { program, watcher } = this;
    if (program.isFixed && program.isCode(n)) watcher.made(n);
    return number(n, program.isFixed);
  }

  private extended(i: Instruction, state: State, signed: boolean): Value {
    const size = this.sizeOf(i, 1);
    if (i.opKind(1) === OpKind.Memory) return this.load(i, state, size, signed);
    const register = i.opRegister(1);
    if (isHigh(register)) return [new Atom("word", 1, signed, 1)];
    return this.arithmetic.narrowed(state.registers[generals[register]!.index]!, size, signed);
  }

  private effective(i: Instruction, state: State): Value {
    const { arithmetic, program, watcher } = this;
    if (i.isIpRelMemoryOperand) {
      const address = ripAddress(i);
      if (program.isCode(address)) watcher.made(address);
      return [number(address, true)];
    }
    const base = generals[i.memoryBase];
    const index = generals[i.memoryIndex];
    const n = Number(BigInt.asIntN(64, i.memoryDisplacement));
    let value: Value = base === undefined ? ZERO : state.registers[base.index]!;
    if (index !== undefined) {
      const scaled = arithmetic.scaled(state.registers[index.index]!, i.memoryIndexScale);
      value = base === undefined ? scaled : arithmetic.add(value, scaled);
    }
    if (n === 0 && (base ?? index) !== undefined) return value;
    return arithmetic.add(value, [this.constant(n)]);
  }

  private binary(i: Instruction, state: State, make: (a: Value, b: Value) => Value): undefined {
    // A barrier: lock or $0 of what is at rsp.
    if (i.opKind(0) === OpKind.Memory && i.opKind(1) !== OpKind.Register && this.isZero(i)) return;
    this.write(i, 0, make(this.read(i, 0, state), this.read(i, 1, state)), state);
  }

  private write(i: Instruction, operand: number, value: Value, state: State): undefined {
    if (i.opKind(operand) === OpKind.Memory) {
      const size = this.sizeOf(i, operand);
      this.storeAt(
        placeOf(this.program, i, state),
        size,
        size < 8 ? this.arithmetic.narrowed(value, size, false) : value,
        state,
      );
      return;
    }
    const general = generals[i.opRegister(operand)];
    if (general === undefined) return;
    if (general.size === 8) state.registers[general.index] = value;
    else if (general.size === 4) state.registers[general.index] = this.arithmetic.narrowed(value, 4, false);
    else state.registers[general.index] = this.arithmetic.mix(state.registers[general.index]!, value);
  }

  private load(i: Instruction, state: State, size: number, signed: boolean): Value {
    return this.loadAt(placeOf(this.program, i, state), size, signed, state);
  }

  private loadAt(
    { exact, stride, stack, inData, other }: Place,
    size: number,
    signed: boolean,
    state: State,
    isReturn = false,
  ): Value {
    const { program, watcher } = this;
    const plain = (table?: Table): Atom =>
      size === 8
        ? table === undefined
          ? GIVEN[0]!
          : new Atom("given", 0, false, 0, table)
        : new Atom("word", size, signed, 1, table);
    if (exact.length === 0 && stack.length === 0 && !inData) return size === 8 ? GIVEN : [plain()];
    const atoms: Atom[] = other ? [plain()] : [];
    if (inData) atoms.push(plain(size >= 4 ? SOME_TABLE : undefined));
    for (const at of exact) {
      if (program.isCode(at)) watcher.readCode(at);
      const table = size >= 4 ? { first: at, stride, width: size, signed } : undefined;
      if (stride === 0 && size === 8) atoms.push(this.constantAt(at), ...this.codeAtFirst(at));
      else atoms.push(program.isImage(at) ? plain(table) : plain());
    }
    for (const place of stack) {
      if (!isReturn) watcher.readStack(place);
      if (size === 8)
        atoms.push(...(state.isPart(place) ? this.arithmetic.mix(state.load(place), TAINT) : state.load(place)));
      else atoms.push(...this.piece(state.pieces(place, size), plain()));
    }
    return unite(atoms);
  }

  /** A piece of what slots hold: of addresses of code it is lost what is made of them. */
  private piece(held: readonly Value[], plain: Atom): Value {
    const isCode = held.some((value) =>
      value.some(({ kind, n }) => kind === "off" || ((kind === "number" || kind === "sum") && this.program.isCode(n))),
    );
    return isCode ? held.reduce((all, value) => this.arithmetic.mix(all, value), TAINT) : [plain];
  }

  /** A load of eight bytes at one address: what the loader or the file puts there, if nobody writes to it. */
  private constantAt(address: number): Atom {
    const { program } = this;
    if (!program.isConstant(address)) return GIVEN[0]!;
    const pointer = program.pointerAt(address);
    if (pointer !== undefined) {
      if (program.isCode(pointer)) this.watcher.made(pointer);
      return Number.isNaN(pointer) ? GIVEN[0]! : number(pointer, true);
    }
    const span = program.spanOf(address);
    if (span === undefined || address + 8 > span.end) return GIVEN[0]!;
    const n = Number(span.view.getBigInt64(address - span.start, true));
    return Number.isSafeInteger(n) ? number(n, program.isFixed) : TAINT[0]!;
  }

  /** Where the program may write: the address of code that is there at first. */
  private codeAtFirst(address: number): Value {
    const { program } = this;
    if (program.isConstant(address)) return [];
    const span = program.isFixed ? program.spanOf(address) : undefined;
    const isStored = span !== undefined && address + 8 <= span.end;
    const value = isStored ? Number(span.view.getBigUint64(address - span.start, true)) : program.pointerAt(address);
    return value !== undefined && program.isCode(value) ? [number(value, true)] : [];
  }

  private storeAt({ stack, exact, inData, other }: Place, size: number, value: Value, state: State): undefined {
    this.watcher.handOn(value);
    const isOne = stack.length === 1 && exact.length === 0 && !inData && !other && isPlaced(stack[0]!);
    for (const place of stack) state.store(place, size, value, isOne);
  }

  /** Any other instruction: taint in all that it writes, and any address that it reads for that is lost. */
  private unknown(i: Instruction, state: State): undefined {
    const { arithmetic } = this;
    const { registers } = state;
    const { operands, loaded, written, read } = this.writes.of(i);
    const isVector = this.hasVector(i);
    if (isVector) {
      this.computesInVectors ||= this.putsIntoVectors(i, read, state);
      this.addressesIntoVectors(i, read, state);
    }
    const ofVector = join(this.computesInVectors ? TAINT : GIVEN, registers[VECTORS]!);
    this.string(i, state, isVector ? ofVector : undefined);
    for (let n = 0; n < i.opCount; n++) {
      if (i.opKind(n) !== OpKind.Memory) continue;
      const old = loaded.includes(n) ? this.load(i, state, this.sizeOf(i, n) === 8 ? 8 : 1, false) : TAINT;
      if (!operands.includes(n)) continue;
      const value = isVector
        ? ofVector
        : read.reduce((all, r) => arithmetic.mix(all, registers[r]!), arithmetic.mix(TAINT, old));
      this.storeAt(placeOf(this.program, i, state), this.sizeOf(i, n), value, state);
    }
    if (written.length === 0) return;
    const isKept = isVector && KEEPS.has(i.mnemonic);
    const result = isKept ? ofVector : read.reduce((all, r) => arithmetic.mix(all, registers[r]!), TAINT);
    for (const register of written) registers[register] = result;
  }

  /** What goes by rsi and rdi. Addresses of code that are taken from slots are lost. */
  private string(i: Instruction, state: State, masked: Value | undefined): void {
    const move = stringMove(i, state);
    if (move === undefined) return;
    for (const place of move.from?.stack ?? []) this.piece(state.pieces(place, move.bytes), GIVEN[0]!);
    const isTaken = move.from !== undefined && takesComputed(move.from, move.bytes, state);
    const value = masked ?? move.value ?? copied(isTaken, move);
    this.watcher.handOn(value);
    putString(move, value, state);
  }

  /**
   * Whether an instruction brings something computed into a vector register: of a general one, of a slot, or by
   * computing it.
   */
  private putsIntoVectors(i: Instruction, read: readonly number[], state: State): boolean {
    if (read.some((r) => isComputed(state.registers[r]!))) return true;
    if (addsInVectors(i)) return true;
    for (let n = 1; n < i.opCount; n++)
      if (i.opKind(n) === OpKind.Memory && placeOf(this.program, i, state).stack.length > 0)
        return state.holdsComputed();
    return false;
  }

  /**
   * Which addresses go into vector registers; what is added to them there, or takes the place of a part, is not
   * followed.
   */
  private addressesIntoVectors(i: Instruction, read: readonly number[], state: State): void {
    const { registers } = state;
    const taken = read.flatMap((register) => [...registers[register]!]);
    for (let n = 1; n < i.opCount; n++) {
      if (i.opKind(n) !== OpKind.Memory) continue;
      const size = this.sizeOf(i, n);
      const { exact, stack } = placeOf(this.program, i, state);
      for (const place of stack) for (const value of state.pieces(place, size)) taken.push(...value);
      for (const at of exact) for (let word = 0; word < size; word += 8) taken.push(this.constantAt(at + word));
    }
    const addresses = taken.filter(isAddress);
    if (addresses.length > 0) registers[VECTORS] = join(registers[VECTORS]!, addresses);
    const held = registers[VECTORS]!;
    if (held !== GIVEN && addsInVectors(i)) this.arithmetic.add(held.filter(isAddress), SOME_WORD);
  }

  private hasVector(i: Instruction): boolean {
    for (let n = 0; n < i.opCount; n++)
      if (i.opKind(n) === OpKind.Register && generals[i.opRegister(n)] === undefined) return true;
    return false;
  }
}

const isAddress = ({ kind, flag }: Atom): boolean =>
  (kind === "number" && flag) || kind === "sum" || kind === "data" || kind === "off";
/** A word of memory that may stand anywhere. */
const SOME_WORD: Value = [new Atom("given", 0, false, 0, SOME_TABLE)];

/** From a vector register as it is. */
const KEEPS = new Set([Mnemonic.Movq, Mnemonic.Vmovq, Mnemonic.Pextrq, Mnemonic.Vpextrq]);

const CMOV = mnemonicsLike(/^Cmov/);
