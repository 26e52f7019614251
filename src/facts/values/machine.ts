/**
 * One step of a program on values: the registers, and those stack slots whose distance from the stack pointer is known.
 *
 * Stores through pointers that are not made of rsp change no slot here: a compiler's spill slot has no other name, and
 * whoever keeps addresses of code in one keeps to that as well (docs/assumptions.md).
 */
import { ALL_CLOBBERED } from "./clobbered.js";
import { COMPUTED, joinSlots, overlapping, type Place, remnants, type Slot, sameSlots } from "./slots.js";
import type { MemoryOperand, Operand, Step, StringStore } from "./steps.js";
import { Arithmetic, type Findings, loaded, type Memory } from "./sums.js";
import {
  GIVEN,
  Is,
  image,
  isNumber,
  isStack,
  join,
  plain,
  RET,
  SOMEWHERE_ON_STACK,
  type Source,
  same,
  small,
  stack,
  TAINT,
  type Value,
} from "./value.js";

const RAX = 0;
const RCX = 1;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;
const REGISTERS = 16;
/** Stands for all vector registers: which addresses any of them may hold. */
const VECTORS = 16;

/** What is known right before an instruction. Not changed once others have it. */
export interface State {
  readonly registers: readonly Value[];
  readonly slots: readonly Slot[];
}

/** At the start of a function, with the return address where rsp points to. */
export function entryState(): State {
  const registers = Array<Value>(VECTORS + 1).fill(GIVEN);
  registers[RSP] = stack(0, 0);
  return { registers, slots: [{ frame: 0, offset: 0, size: 8, value: RET, isPart: false }] };
}

/** Somewhere, with anything in the registers that may be handed over. */
export function anyState(): State {
  const registers = Array<Value>(VECTORS + 1).fill(GIVEN);
  registers[RSP] = SOMEWHERE_ON_STACK;
  return { registers, slots: [] };
}

export const sameState = (a: State, b: State): boolean =>
  a === b || (sameSlots(a.slots, b.slots, same) && a.registers.every((v, i) => same(v, b.registers[i]!)));

/** Either of two states: a slot that one of them does not know is not known. */
export function joinStates(a: State, b: State, widened: (joined: Value, before: Value) => Value): State {
  let { registers } = a;
  for (let i = 0; i < registers.length; i++) {
    const before = a.registers[i]!;
    const other = b.registers[i]!;
    if (before === other) continue;
    const joined = join(before, other);
    // Nearly always nothing is new.
    if (joined === before) continue;
    const value = widened(joined, before);
    if (same(value, before)) continue;
    if (registers === a.registers) registers = [...registers];
    (registers as Value[])[i] = value;
  }
  const slots = joinSlots(a.slots, b.slots, widened, same);
  return registers === a.registers && slots === a.slots ? a : { registers, slots };
}

/** Runs steps, one after the other, from a state on. */
export class Machine {
  readonly arithmetic: Arithmetic;
  registers: Value[] = [];
  /** Ascending by frame and offset; never changed, but replaced. */
  private known: readonly Slot[] = [];
  /** `known` is this machine's own and nobody else has seen it: it may be changed. */
  private isOwn = false;
  /** The link-time address of the step. */
  at = 0;
  /** Something that was computed went from a slot to a vector register. */
  putsIntoVectors = false;

  constructor(
    readonly memory: Memory,
    findings: Findings,
    /** Told of loads: what an address without an index may be, and the instruction. */
    private readonly onLoad?: (at: number, address: Value, size: number) => void,
    /** What comes from a vector register may have been computed: something was put in there, or is computed there. */
    private readonly computesInVectors = false,
  ) {
    this.arithmetic = new Arithmetic(memory, findings);
  }

  /** The slots, which stay as they are from now on. */
  get slots(): readonly Slot[] {
    this.isOwn = false;
    return this.known;
  }

  private set slots(slots: readonly Slot[]) {
    this.known = slots;
    this.isOwn = false;
  }

  enter({ registers, slots }: State): void {
    this.registers = [...registers];
    this.slots = slots;
  }

  /** What holds now. */
  get state(): State {
    return { registers: [...this.registers], slots: this.slots };
  }

  /** Where a jump, call or return leads: what its operand is. */
  target({ operation, operands }: Step): Value {
    if (operation === "return") return this.loadAt(this.registers[RSP]!, 8, false, false);
    const [operand] = operands;
    if (operand === undefined || operand.kind === "other") return TAINT;
    // Through some slot of the stack, whichever.
    if (operand.kind === "memory" && operand.index >= 0) {
      const { address } = this.placeOf(operand);
      if (address !== undefined && address.kinds & Is.Stack) return TAINT;
    }
    return this.read(operand, 8);
  }

  /** The state after a step, which is no direct jump. */
  run(step: Step, at: number): void {
    this.at = at;
    const [first, second] = step.operands;
    switch (step.operation) {
      case "compare":
      case "jump":
        return;
      case "return":
        return;
      case "move":
        this.write(first!, this.extended(second!, first!, false));
        return;
      case "move signed":
        this.write(first!, this.extended(second!, first!, true));
        return;
      case "address":
        this.write(first!, this.sized(this.addressOf(second as MemoryOperand), first!));
        return;
      case "add":
      case "subtract":
      case "and":
      case "or":
      case "xor":
        this.binary(step.operation, first!, second!);
        return;
      case "multiply":
        this.write(
          first!,
          this.sized(this.scaled(this.read(second!, sizeOf(first!)), this.read(step.operands[2]!, 8)), first!),
        );
        return;
      case "shift left": {
        const count = second?.kind === "number" ? this.read(second, 8) : undefined;
        const factor =
          count !== undefined && isNumber(count) && count.plain[0]! < 32 ? plain(2 ** count.plain[0]!) : TAINT;
        this.write(first!, this.sized(this.scaled(this.read(first!, sizeOf(first!)), factor), first!));
        return;
      }
      case "shift right":
        this.write(first!, this.arithmetic.shiftedRight(at, this.read(first!, sizeOf(first!))));
        return;
      case "rotate": {
        const value = this.read(first!, sizeOf(first!));
        // Pointers that glibc keeps mangled: ror $0x11, xor %fs:0x30 (PTR_DEMANGLE).
        const isPointer = value.kinds === Is.Given && value.image.length === 0 && second?.kind === "number";
        this.write(first!, isPointer && second.value === 0x11 ? MANGLED : this.arithmetic.spoiled(at, value));
        return;
      }
      case "exchange": {
        const [a, b] = [this.read(first!, sizeOf(first!)), this.read(second!, sizeOf(second!))];
        this.write(first!, b);
        this.write(second!, a);
        return;
      }
      case "conditional move":
        this.write(
          first!,
          this.sized(join(this.read(first!, sizeOf(first!)), this.read(second!, sizeOf(first!))), first!),
        );
        return;
      case "set condition":
        this.write(first!, small(0, 1));
        return;
      case "push":
        this.push(first === undefined || first.kind === "other" ? GIVEN : this.read(first, 8));
        return;
      case "pop": {
        const value = this.pop();
        if (first !== undefined) this.write(first, value);
        return;
      }
      case "enter": {
        this.push(this.registers[RBP]!);
        this.registers[RBP] = this.registers[RSP]!;
        this.registers[RSP] = this.arithmetic.add(at, this.registers[RSP]!, this.read(first!, 8), true);
        return;
      }
      case "leave":
        this.registers[RSP] = this.registers[RBP]!;
        this.registers[RBP] = this.pop();
        return;
      case "sign extend eax":
        this.registers[RAX] = this.arithmetic.signed32(at, this.registers[RAX]!);
        return;
      case "system call":
        this.registers[RAX] = this.registers[1] = this.registers[11] = GIVEN;
        return;
      case "call":
        this.call(ALL_CLOBBERED);
        return;
      case "other":
        this.other(step);
        return;
    }
  }

  /**
   * What a call leaves. @param clobbered the registers that it may change (System V ABI, AMD64 supplement, section
   * 3.2.1)
   */
  call(clobbered: number): void {
    this.forgetPassed();
    this.registers[VECTORS] = GIVEN;
    for (let r = 0; r < REGISTERS; r++) if (clobbered & (1 << r)) this.registers[r] = GIVEN;
    const top = this.registers[RSP]!;
    if (isStack(top) && !Number.isNaN(top.offset))
      this.slots = this.known.filter((s) => s.frame !== top.frame || s.offset >= top.offset);
  }

  /** A callee that may hand its return address to its caller, in any of these registers. */
  tell(registers: number, address: number): void {
    const told = join(GIVEN, this.memory.fixed ? plain(address) : image(address));
    for (let r = 0; r < REGISTERS; r++) if (registers & (1 << r)) this.registers[r] = told;
  }

  /**
   * A callee may write to the objects on the stack that it is given addresses of, and these go on upwards from there.
   */
  private forgetPassed(): void {
    for (let r = 0; r < REGISTERS; r++) {
      const { kinds, frame, offset } = this.registers[r]!;
      if (r === RSP || r === RBP || (kinds & Is.Stack) === 0) continue;
      if (frame < 0 || Number.isNaN(offset)) this.slots = [];
      else
        this.slots = this.known.filter(
          (s) => s.frame !== frame || s.offset + s.size <= offset || s.value.kinds === Is.Ret,
        );
    }
  }

  push(value: Value): void {
    const top = this.arithmetic.add(this.at, this.registers[RSP]!, plain(8), true);
    this.registers[RSP] = top;
    this.storeAt(top, 8, value);
  }

  /** What a ret does to rsp; what it drops of the caller's arguments is not followed. */
  dropReturnAddress(): void {
    this.registers[RSP] = this.arithmetic.add(this.at, this.registers[RSP]!, plain(8), false);
  }

  private pop(): Value {
    const value = this.loadAt(this.registers[RSP]!, 8, false);
    this.dropReturnAddress();
    return value;
  }

  private binary(operation: "add" | "subtract" | "and" | "or" | "xor", first: Operand, second: Operand): void {
    const size = sizeOf(first);
    const isSame =
      first.kind === "register" && second.kind === "register" && first.register === second.register && size >= 4;
    if (isSame && (operation === "xor" || operation === "subtract")) {
      this.write(first, plain(0));
      return;
    }
    // A barrier: lock or $0 of what is at rsp.
    if (first.kind === "memory" && second.kind === "number" && second.value === 0 && operation !== "and") return;
    const [a, b] = [this.read(first, size), this.read(second, size)];
    const { arithmetic, at } = this;
    if (operation === "xor" && a === MANGLED && second.kind === "memory" && second.hasSegment) {
      this.write(first, GIVEN);
      return;
    }
    const result =
      operation === "add" || operation === "subtract"
        ? arithmetic.add(at, a, b, operation === "subtract")
        : arithmetic.bits(at, a, b, operation);
    this.write(first, this.sized(result, first));
  }

  /** Registers that an instruction writes which is not looked at more closely. */
  private other(step: Step): void {
    const { operands, writes, reads, vectors, string } = step;
    if (vectors !== "none") this.addressesIntoVectors(step);
    if (step.isSum) this.arithmetic.add(this.at, this.read(operands[0]!, 8), this.read(operands[1]!, 8), false);
    if (string !== undefined) this.storeString(string);
    for (let r = 0; r < REGISTERS; r++)
      if (reads & (1 << r) && writes !== 0) this.arithmetic.spoiled(this.at, this.registers[r]!);
    for (let r = 0; r < REGISTERS; r++) {
      if ((writes & (1 << r)) === 0) continue;
      // From a vector register: something that was handed over.
      const [to, from] = operands;
      const isMove = reads === 0 && operands.length === 2 && to!.kind === "register" && sizeOf(to!) === 8;
      this.registers[r] = r === RSP ? SOMEWHERE_ON_STACK : isMove && from!.kind === "other" ? this.ofVectors() : TAINT;
    }
    const [first] = operands;
    for (const o of operands)
      if (o.kind === "memory" && !o.hasSegment) {
        const { address } = this.placeOf(o);
        if (address !== undefined) this.onLoad?.(this.at, address, o.size || 8);
        if (o !== first && vectors !== "none") this.putsIntoVectors ||= this.losesComputed(address, o.size || 64);
      }
    if (first?.kind === "memory") this.storeOther(first, vectors === "none" ? TAINT : this.ofVectors());
  }

  /** Eight bytes of a vector register. */
  private ofVectors(): Value {
    return join(this.computesInVectors ? TAINT : GIVEN, this.registers[VECTORS]!);
  }

  /**
   * Which addresses go into vector registers; what is added to them there, or takes the place of a part, is not
   * followed.
   */
  private addressesIntoVectors({ operands, reads, vectors }: Step): void {
    const { arithmetic, memory, registers } = this;
    const take = (value: Value): void => {
      if (value.image.length > 0 || value.bases.length > 0 || arithmetic.codeOf(value).length > 0)
        registers[VECTORS] = join(registers[VECTORS]!, value);
    };
    // Instructions that write a vector register say nothing of what else they read.
    for (const o of operands) if (o.kind === "register") take(registers[o.register]!);
    for (let r = 0; r < REGISTERS; r++) if (reads & (1 << r)) take(registers[r]!);
    for (const o of operands.slice(1)) {
      if (o.kind !== "memory" || o.hasSegment) continue;
      const { address } = this.placeOf(o);
      if (address === undefined) continue;
      const size = o.size || 64;
      for (const slot of this.slotsAt(address, size)) take(slot.value);
      for (const at of memory.fixed ? address.plain : address.image)
        for (let word = 0; word < size; word += 8) take(memory.pointerAt(at + word) ?? GIVEN);
    }
    if (vectors === "adds" && registers[VECTORS] !== GIVEN) arithmetic.add(this.at, registers[VECTORS]!, TAINT, false);
  }

  /** What an instruction that is not looked at more closely stores: of vectors each eight bytes. */
  private storeOther(m: MemoryOperand, value: Value): void {
    const size = m.size || 64;
    if (size <= 8 || m.hasSegment) {
      this.store(m, size, value);
      return;
    }
    const address = this.placeOf(m).address ?? TAINT;
    if (!isStack(address) || Number.isNaN(address.offset)) this.storeAt(address, size, value);
    else for (let at = 0; at < size; at += 8) this.storeAt(stack(address.frame, address.offset + at), 8, value);
  }

  /** A string instruction, or a masked store of a vector, at rdi. */
  private storeString({ size, isRepeated, content }: StringStore): void {
    const to = this.registers[RDI]!;
    if ((to.kinds & Is.Stack) === 0) return;
    const from = this.registers[RSI]!;
    const isFromStack = content === "rsi" && (from.kinds & Is.Stack) !== 0;
    const isComputed =
      content === "vector" ||
      (isFromStack && this.losesComputed(SOMEWHERE_ON_STACK, 8)) ||
      (content === "rax" && this.matters(this.registers[RAX]!));
    const count = this.registers[RCX]!;
    const times = !isRepeated ? 1 : isNumber(count) ? Math.max(0, count.plain[0]!) : MANY;
    if (!isStack(to) || Number.isNaN(to.offset)) this.storeAt(to, size, TAINT);
    else
      this.put(
        { frame: to.frame, offset: to.offset, size: size * Math.min(times, MANY) },
        isComputed ? TAINT : undefined,
        true,
      );
  }

  /**
   * Whether something computed is in the slots that an address may lead to, of which the bytes go where they are not
   * followed. An address of code that is there counts as computed from now on.
   */
  private losesComputed(address: Value | undefined, size: number): boolean {
    if (address === undefined) return false;
    const lost = this.slotsAt(address, size).filter(({ value }) => this.matters(value) && value.kinds !== Is.Ret);
    if (lost.length > 0) this.arithmetic.spoiled(this.at, ...lost.map(({ value }) => value));
    return lost.some(({ value }) => value.kinds & COMPUTED);
  }

  /** The slots that an address may lead to. */
  private slotsAt({ kinds, frame, offset }: Value, size: number): readonly Slot[] {
    if ((kinds & Is.Stack) === 0) return [];
    if (frame < 0 || Number.isNaN(offset)) return this.known;
    return this.known.slice(...overlapping(this.known, { frame, offset, size }));
  }

  /** Whether it matters that a value is not lost: it was computed, or is an address of code. */
  private matters(value: Value): boolean {
    return (value.kinds & (COMPUTED | Is.Ret)) !== 0 || this.arithmetic.codeOf(value).length > 0;
  }

  private scaled(value: Value, factor: Value): Value {
    return isNumber(factor)
      ? this.arithmetic.times(this.at, value, factor.plain[0]!)
      : this.arithmetic.spoiled(this.at, value);
  }

  /** What an operand is, as far as `size` bytes of it are used. */
  private read(operand: Operand, size: number): Value {
    switch (operand.kind) {
      case "number":
        return plain(operand.value);
      case "other":
        return TAINT;
      case "register": {
        const value = this.registers[operand.register]!;
        if (operand.size === 8) return value;
        if (operand.size === 4) return this.arithmetic.low32(this.at, value);
        return this.narrow(value, operand.size, operand.high);
      }
      case "memory":
        return this.load(operand, operand.size || size, false);
    }
  }

  /** The low 8 or 16 bits, zero-extended. */
  private narrow(value: Value, size: number, isHigh: boolean): Value {
    const range = 2 ** (8 * size);
    if (this.arithmetic.codeOf(value).length > 0) this.arithmetic.spoiled(this.at, value);
    if (isNumber(value) && !isHigh) return plain(((value.plain[0]! % range) + range) % range);
    return small(0, range - 1);
  }

  /** The source of a mov, movzx or movsx, as wide as it gets. */
  private extended(source: Operand, destination: Operand, isSigned: boolean): Value {
    const size = source.kind === "register" || source.kind === "memory" ? sizeOf(source) : sizeOf(destination);
    if (source.kind === "memory") return this.sized(this.load(source, size, isSigned), destination);
    const value = this.read(source, size);
    if (source.kind === "number") return destination.kind === "memory" ? value : this.sized(value, destination);
    if (!isSigned) return value;
    if (size === 4) return sizeOf(destination) === 8 ? this.arithmetic.signed32(this.at, this.fullOf(source)) : value;
    if (isNumber(value)) return plain((value.plain[0]! << (32 - 8 * size)) >> (32 - 8 * size));
    const half = 2 ** (8 * size - 1);
    return this.sized(small(-half, half - 1), destination);
  }

  private fullOf(operand: Operand): Value {
    return operand.kind === "register" ? this.registers[operand.register]! : TAINT;
  }

  /** What is left of a result in a register of this size. */
  private sized(value: Value, destination: Operand): Value {
    return destination.kind === "register" && destination.size === 4 ? this.arithmetic.low32(this.at, value) : value;
  }

  private write(destination: Operand, value: Value): void {
    if (destination.kind === "memory") {
      const { size } = destination;
      const kept = size === 8 ? value : size === 4 ? this.arithmetic.low32(this.at, value) : TAINT;
      this.store(destination, size, kept);
      return;
    }
    if (destination.kind !== "register") return;
    const { register, size } = destination;
    if (register === RSP && !isStack(value) && value.kinds & Is.Stack) this.registers[RSP] = SOMEWHERE_ON_STACK;
    else if (size >= 4) this.registers[register] = value;
    else this.registers[register] = this.partly(this.registers[register]!, destination.high ? 2 : size);
  }

  /** A register of which the low 8 or 16 bits are something else now. */
  private partly(old: Value, size: number): Value {
    const isSmallOld = this.arithmetic.isSmall(old);
    const low = Math.min(old.kinds & Is.Small ? old.low : 0, 0, ...old.plain);
    const high = Math.max(old.kinds & Is.Small ? old.high : 0, ...old.plain);
    if (isSmallOld && low >= 0 && high < 2 ** 24) return small(0, Math.max(high, 2 ** (8 * size) - 1) * 2);
    return this.arithmetic.spoiled(this.at, old);
  }

  /** The value that a memory operand's address has. */
  addressOf(m: MemoryOperand): Value {
    if (m.isRipRelative) return this.memory.fixed ? plain(m.displacement) : image(m.displacement);
    let value = plain(m.displacement);
    const { arithmetic, at, registers } = this;
    if (m.base >= 0) value = arithmetic.add(at, registers[m.base]!, value, false);
    if (m.index >= 0) value = arithmetic.add(at, value, arithmetic.times(at, registers[m.index]!, m.scale), false);
    return value;
  }

  /** Where a memory operand lies, as far as that can be said without making a sum that nobody makes. */
  private placeOf(m: MemoryOperand): { address: Value | undefined; sources: readonly Source[] | undefined } {
    const { registers, memory } = this;
    if (m.isRipRelative)
      return { address: memory.fixed ? plain(m.displacement) : image(m.displacement), sources: undefined };
    const base = m.base < 0 ? plain(0) : registers[m.base]!;
    const numbers = (v: Value): readonly number[] => (v.kinds !== 0 ? [] : memory.fixed ? v.plain : v.image);
    if (m.index < 0) {
      if (isStack(base)) return { address: stack(base.frame, base.offset + m.displacement), sources: undefined };
      if (m.base < 0) return { address: plain(m.displacement), sources: undefined };
      const known = numbers(base).map((n) => n + m.displacement);
      if (known.length === 0)
        return { address: base.kinds & Is.Stack ? SOMEWHERE_ON_STACK : undefined, sources: undefined };
      return {
        address: { ...plain(0), plain: memory.fixed ? known : [], image: memory.fixed ? [] : known },
        sources: undefined,
      };
    }
    const index = registers[m.index]!;
    if (base.kinds & Is.Stack || (index.kinds & Is.Stack && m.scale === 1))
      return { address: SOMEWHERE_ON_STACK, sources: undefined };
    const fromBase = m.base < 0 ? (memory.fixed ? [0] : []) : numbers(base);
    const isBase =
      m.base < 0 ? memory.fixed : fromBase.length > 0 && fromBase.every((n) => memory.isImage(n + m.displacement));
    if (isBase)
      return { address: undefined, sources: fromBase.map((n) => ({ at: n + m.displacement, step: m.scale })) };
    // gcc -O0 has the address as index, with a scale of 1.
    const fromIndex = m.scale === 1 ? numbers(index) : [];
    if (fromIndex.length > 0 && fromIndex.every((n) => memory.isImage(n + m.displacement)))
      return { address: undefined, sources: fromIndex.map((n) => ({ at: n + m.displacement, step: 1 })) };
    return { address: undefined, sources: undefined };
  }

  private load(m: MemoryOperand, size: number, isSigned: boolean): Value {
    if (m.hasSegment) return loaded(size > 8 ? 8 : size, isSigned, undefined);
    const { address, sources } = this.placeOf(m);
    if (address !== undefined) return this.loadAt(address, size, isSigned);
    if (sources !== undefined)
      for (const { at } of sources) this.onLoad?.(this.at, this.memory.fixed ? plain(at) : image(at), size);
    else if (m.base >= 0) this.onLoad?.(this.at, this.registers[m.base]!, size);
    return loaded(size > 8 ? 8 : size, isSigned, sources);
  }

  private loadAt(address: Value, size: number, isSigned: boolean, isTold = true): Value {
    if (isTold) this.onLoad?.(this.at, address, size);
    if (address.kinds & Is.Stack) {
      return this.loadSlot(address, size, isSigned);
    }
    const known = this.memory.fixed ? address.plain : address.image;
    if (address.kinds === 0 && known.length > 0 && known.every((n) => this.memory.isImage(n))) {
      // No index: this one word.
      const sources = known.map((at) => ({ at, step: 0 }));
      if (size !== 8) return loaded(size, isSigned, sources);
      let result: Value | undefined;
      for (const at of known) {
        const value = this.memory.pointerAt(at) ?? { ...GIVEN, sources: [{ at, step: 0 }] };
        result = result === undefined ? value : join(result, value);
      }
      return result!;
    }
    return loaded(size, isSigned, undefined);
  }

  private store(m: MemoryOperand, size: number, value: Value): void {
    if (!m.hasSegment) this.storeAt(this.placeOf(m).address ?? TAINT, size, value);
  }

  private loadSlot({ frame, offset }: Value, size: number, isSigned: boolean): Value {
    const { arithmetic, at } = this;
    const [first, last] = Number.isNaN(offset) ? [0, 0] : overlapping(this.known, { frame, offset, size });
    if (first === last) return loaded(size, isSigned, undefined);
    const slot = this.known[first]!;
    if (last === first + 1 && !slot.isPart && slot.offset === offset && slot.size >= size) {
      if (size === 8) return slot.value;
      if (size === 4) return isSigned ? arithmetic.signed32(at, slot.value) : arithmetic.low32(at, slot.value);
    }
    const slots = this.known.slice(first, last);
    const values = slots.map((s) => s.value);
    // One or two bytes of an address make another one, whatever the others are.
    const isPutTogether = size === 8 && slots.some((s) => s.isPart);
    if (!isPutTogether && !values.some((v) => this.matters(v))) return loaded(size, isSigned, undefined);
    const spoiled = arithmetic.spoiled(at, ...values);
    return size === 8 ? spoiled : size === 4 ? arithmetic.low32(at, spoiled) : loaded(size, isSigned, undefined);
  }

  private storeAt(address: Value, size: number, value: Value): void {
    if ((address.kinds & Is.Stack) === 0) return;
    if (!isStack(address) || Number.isNaN(address.offset)) {
      // Any of them may be something else now. What was computed is not taken for something that was handed over. An
      // element of an array is not the return address, unless it is made of an address of code.
      const mayReturn = (value.kinds & (Is.Sum | Is.Off)) === 0 && this.arithmetic.codeOf(value).length === 0;
      this.slots = this.known.flatMap((s) =>
        s.value.kinds & COMPUTED
          ? [{ ...s, value: TAINT }]
          : s.isPart || (mayReturn && s.value.kinds === Is.Ret)
            ? [s]
            : [],
      );
      return;
    }
    const { frame, offset } = address;
    if (size < 4) {
      this.put({ frame, offset, size }, PIECE, true);
      return;
    }
    // What a load gives that finds no slot need not be kept.
    const isKept = size === 8 ? !same(value, GIVEN) : size === 4;
    this.put({ frame, offset, size }, isKept ? value : undefined, false);
  }

  /** @param value undefined where it is not kept */
  private put(place: Place, value: Value | undefined, isPart: boolean): void {
    const slots = this.known;
    const [first, last] = overlapping(slots, place);
    if (last === first && value === undefined) return;
    if (value !== undefined && last === first + 1) {
      const old = slots[first]!;
      if (old.offset === place.offset && old.size === place.size && !old.isPart && !isPart && same(old.value, value))
        return;
    }
    const own = this.isOwn ? (slots as Slot[]) : [...slots];
    const put = value === undefined ? [] : [{ ...place, value, isPart }];
    if (last === first) own.splice(first, 0, ...put);
    else {
      const left = remnants(slots.slice(first, last), place, (v) => this.matters(v));
      own.splice(first, last - first, ...left.before, ...put, ...left.behind);
    }
    this.known = own;
    this.isOwn = true;
  }
}

/** More bytes than a string instruction is followed for. */
const MANY = 1 << 12;

/** One or two bytes in a slot. */
const PIECE: Value = small(0, 2 ** 16 - 1);

/** A pointer that was loaded and rotated: xor with the guard makes it whole again. */
const MANGLED: Value = { ...TAINT };

const sizeOf = (operand: Operand): number =>
  operand.kind === "register" || operand.kind === "memory" ? operand.size : 8;
