/**
 * What an instruction needs to do something interesting: relations between its operands that random values do not have.
 */
import type { CaseState } from "./case-state.js";
import { setBranch } from "./encode.js";
import * as at from "./layout.js";

const [RAX, RCX, RDX, RSP] = [0, 1, 2, 4] as const;

/** Where two operands are compared or subtracted, random ones are never equal: now and then they are made so. */
export function placeEquals(state: CaseState): void {
  const [first, second] = state.places;
  if (first === undefined || second === undefined || !state.random.oneIn(8)) return;
  const [from, to] = [state.offsetOf(first), state.offsetOf(second)];
  if (from < 0 || to < 0 || (second.kind === "gpr" && state.pinned & (1 << second.register))) return;
  state.record.copyWithin(to, from, from + Math.min(first.size, second.size));
}

export function arrange(state: CaseState): void {
  const { form } = state;
  const name = form.mnemonic;
  if (form.operands.includes("cl")) state.trySetGpr(RCX, (state.gpr(RCX) & ~0xffn) | BigInt(shiftCount(state)));
  if (/^bt[cst]?r?$/.test(name) && form.operands[1]!.endsWith("_reg")) arrangeBitOffset(state);
  if (name === "div" || name === "idiv") arrangeDivision(state);
  if (name === "cmpxchg") arrangeCompareExchange(state);
  if (/^cmpxchg(8|16)b$/.test(name)) arrangeCompareExchangePair(state);
  if (/^(bsf|bsr|tzcnt|lzcnt)$/.test(name) && state.random.oneIn(6)) state.write(state.places[1]!, 0n);
  if (/^loop|^j.?cxz$/.test(name)) state.setGpr(RCX, loopCount(state));
  if (/^popf/.test(name)) arrangeFlags(state);
  // Reserved bits fault. The exceptions that may be unmasked are those of later instructions.
  if (name === "ldmxcsr" && !state.random.oneIn(4)) state.write(state.places[0]!, BigInt(state.random.below(0x10000)));
  if (/^(jmp|call|ret|j|loop)/.test(name)) arrangeBranch(state);
}

function shiftCount(state: CaseState): number {
  const { random } = state;
  return random.oneIn(3)
    ? random.below(256)
    : random.pick([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x41]);
}

function loopCount(state: CaseState): bigint {
  return state.random.pick([0n, 1n, 2n, 3n, 0x100000000n, 0x100000001n, 0xffffffff00000000n, 0xffffffffffffffffn]);
}

/** A bit offset in a register leads away from a memory operand by offset / 8 bytes, with its sign. */
function arrangeBitOffset(state: CaseState): void {
  const { random, places } = state;
  const [base, offset] = places;
  if (base?.kind !== "memory" || offset?.kind !== "gpr") return;
  const value = BigInt.asUintN(64, BigInt(random.between(-900, 900)));
  const kept = BigInt(8 * offset.size);
  const upper = (random.bits64() >> kept) << kept;
  state.trySetGpr(offset.register, kept === 64n ? value : upper | BigInt.asUintN(Number(kept), value));
}

/** Makes the quotient fit in three of four cases. */
function arrangeDivision(state: CaseState): void {
  const { random, form } = state;
  const place = state.places[0]!;
  const divisor = state.read(place);
  if (divisor === undefined || random.oneIn(4)) return;
  const bits = 8 * place.size;
  const signed = form.mnemonic === "idiv";
  const by = signed ? BigInt.asIntN(bits, divisor) : divisor;
  if (by === 0n) return;
  const quotient = chooseQuotient(state, bits, signed);
  const magnitude = by < 0n ? -by : by;
  const rest = random.oneIn(4) ? magnitude - 1n : random.integer() % magnitude;
  const product = quotient * by;
  const negative = product < 0n || (product === 0n && random.oneIn(2) && signed);
  const dividend = negative ? product - rest : product + rest;
  const low = BigInt.asUintN(bits, dividend);
  const high = BigInt.asUintN(bits, dividend >> BigInt(bits));
  if (bits === 8) state.trySetGpr(RAX, (state.gpr(RAX) & ~0xffffn) | (high << 8n) | low);
  else {
    const keep = bits === 16 ? ~0xffffn : 0n;
    const garbage = bits === 32 ? BigInt(random.bits()) << 32n : 0n;
    // The divisor itself may be in rax or rdx: then it is what it is.
    if (place.kind === "gpr" && (place.register === RAX || place.register === RDX)) return;
    state.trySetGpr(RAX, (state.gpr(RAX) & keep) | garbage | low);
    state.trySetGpr(RDX, (state.gpr(RDX) & keep) | garbage | high);
  }
}

/** One that fits, or is next to the largest or smallest that does. */
function chooseQuotient(state: CaseState, bits: number, signed: boolean): bigint {
  const { random } = state;
  const width = BigInt(signed ? bits - 1 : bits);
  if (random.oneIn(3)) {
    const end = signed && random.oneIn(2) ? -(1n << width) : (1n << width) - 1n;
    return end + BigInt(random.between(-1, 1));
  }
  return signed ? BigInt.asIntN(bits, random.integer()) : BigInt.asUintN(bits, random.integer());
}

function arrangeCompareExchange(state: CaseState): void {
  const place = state.places[0]!;
  const value = state.read(place);
  if (value === undefined || state.random.oneIn(2)) return;
  const mask = (1n << BigInt(8 * place.size)) - 1n;
  state.trySetGpr(RAX, (state.gpr(RAX) & ~mask) | value);
}

function arrangeCompareExchangePair(state: CaseState): void {
  if (state.random.oneIn(2)) return;
  const half = state.memorySize / 2;
  const offset = state.offsetIn(state.target, state.memorySize);
  if (offset < 0) return;
  const read = (from: number) =>
    half === 4 ? BigInt(state.view.getUint32(from, true)) : state.view.getBigUint64(from, true);
  state.trySetGpr(RAX, read(offset));
  state.trySetGpr(RDX, read(offset + half));
}

/** TF would trap behind the next instruction, AC fault at every misaligned operand of the program around the case. */
function arrangeFlags(state: CaseState): void {
  const offset = state.offsetIn(Number(state.gpr(RSP)), 8);
  if (offset < 0) return;
  state.record[offset + 1]! &= ~0x01;
  state.record[offset + 2]! &= ~0x04;
}

function arrangeBranch(state: CaseState): void {
  const { encoded, random, form } = state;
  const slot = state.address - at.INSTRUCTION_IN_SLOT;
  const landing = slot + (random.oneIn(2) ? at.LANDING_BEFORE : at.LANDING_BEHIND);
  if (encoded.branchAt >= 0) {
    setBranch(encoded, landing - (state.address + encoded.bytes.length));
    return;
  }
  const target = BigInt(random.oneIn(16) ? state.layout.unmapped + random.below(4096) : landing);
  if (/^ret/.test(form.mnemonic)) {
    const offset = state.offsetIn(Number(state.gpr(RSP)), 8);
    if (offset >= 0) state.view.setBigUint64(offset, target, true);
  } else if (!state.write(state.places[0]!, target)) {
    // Whatever stands there is the target, which may not be canonical: the stack must not fault as well, since which of
    // two faults comes first is not the same on all processors.
    state.trySetGpr(RSP, BigInt(state.layout.area + 256));
  }
}
