/**
 * Where a case's operands in memory are: registers and displacements are chosen such that the address comes out where
 * it should, mostly in the scratch memory, now and then where the access faults in part or as a whole.
 */
import type { CaseState } from "./case-state.js";
import { setDisplacement } from "./encode.js";
import { isStack, isString } from "./forms.js";
import * as at from "./layout.js";
import { HIGH, LOW } from "./layout.js";

const [RCX, RBX, RSP, RBP, RSI, RDI] = [1, 3, 4, 5, 6, 7] as const;

export function placeStack(state: CaseState): void {
  const { form, random } = state;
  if (!isStack(form)) return;
  const middle = state.layout.area + 256;
  const size = form.operandSize === 16 ? 2 : 8;
  let stack = BigInt(middle + random.between(-120, 120));
  if (random.oneIn(12)) stack = chooseTarget(state, size, 0);
  if (random.oneIn(2)) stack &= ~7n;
  state.setGpr(RSP, stack);
  if (form.mnemonic === "enter" || form.mnemonic === "leave") {
    state.setGpr(RBP, random.oneIn(12) ? chooseTarget(state, 8, 0) : BigInt(middle + random.between(-100, 100)));
    state.pin(RBP);
  }
  if (form.mnemonic === "enter") {
    const { bytes } = state.encoded;
    bytes[bytes.length - 3] = random.below(64);
    bytes[bytes.length - 2] = 0;
    bytes[bytes.length - 1] = random.pick([0, 0, 0, 0, 0, 0, 32, 64, 1, 2, 3, 33]);
  }
  state.target = Number(stack);
}

export function placeStrings(state: CaseState): void {
  const { form, random, encoded } = state;
  const bits = BigInt(encoded.addressSize * 8);
  const put = (register: number, address: bigint, segment: bigint) => {
    const low = address - segment;
    setAddressGpr(state, register, bits === 32n && low < 0n ? address : low, bits);
    state.pin(register);
  };
  const size = Math.max(state.memorySize, 1);
  const choose = () => {
    const chosen = chooseTarget(state, size, 96);
    return bits === 32n && chosen >= 0x1_0000_0000n ? BigInt(state.layout.unmapped) : chosen;
  };
  for (const operand of form.operands) {
    if (operand === "seg_rSI") put(RSI, choose(), encoded.segmentBase);
    else if (operand === "es_rDI") put(RDI, choose(), 0n);
    else if (operand === "seg_rDI") put(RDI, choose(), encoded.segmentBase);
    else if (operand === "seg_rBX_al") put(RBX, BigInt(state.layout.area + random.below(200)), encoded.segmentBase);
  }
  if (isString(form) && encoded.repeated) {
    setAddressGpr(state, RCX, BigInt(random.below(12)), bits);
    state.pin(RCX);
  }
}

export function placeMemory(state: CaseState): void {
  const { encoded, form, random } = state;
  const memory = encoded.memory;
  if (memory === undefined) return;
  const bits = BigInt(encoded.addressSize * 8);
  const ownStack = isStack(form) && memory.base === RSP;
  const bitOffset = /^bt/.test(form.mnemonic) && form.operands[1]!.endsWith("_reg");
  let target = chooseTarget(state, state.memorySize, bitOffset ? 128 : 0);
  if (ownStack) target = BigInt(state.layout.area + 256 + random.between(-64, 64));
  const narrow = encoded.addressSize === 4;
  const absolute = memory.base < 0 && memory.index < 0;
  const isFar = (address: bigint) => address < 0n || address >= 0x2_0000_0000n;
  if ((narrow || memory.relative || absolute) && isFar(target)) target = BigInt(state.layout.unmapped);
  // The sum that the instruction has to come to, before the segment's base.
  let sum = target - encoded.segmentBase;
  if (narrow && (sum < 0n || sum >= 0x1_0000_0000n)) sum = BigInt(LOW.area + 128);
  if (absolute && memory.displacementSize === 4 && !narrow && !fits32(sum)) sum = BigInt(LOW.readOnly + 128);
  const scale = BigInt(memory.scale);
  if (memory.relative) {
    const distance = sum - BigInt(state.address + encoded.bytes.length);
    memory.displacement = fits32(distance) ? distance : 0n;
  } else if (absolute) memory.displacement = sum;
  else if (memory.base < 0) {
    const near = BigInt(random.between(-1000, 1000));
    const index = fits32(sum - near * scale) ? near : sum / scale - near;
    memory.displacement = sum - index * scale;
    setAddressGpr(state, memory.index, index, bits);
  } else if (memory.base === memory.index) {
    setAddressGpr(state, memory.base, (sum - memory.displacement) / (scale + 1n), bits);
  } else {
    let index = 0n;
    if (memory.index >= 0) {
      index = state.pinned & (1 << memory.index) ? state.gpr(memory.index) : chooseIndex(state, memory.base);
      setAddressGpr(state, memory.index, index, bits);
    }
    setAddressGpr(state, memory.base, sum - memory.displacement - index * scale, bits);
  }
  state.pin(memory.base, memory.index);
  setDisplacement(encoded);
  state.target = effectiveAddress(state, bits);
  // Values stand where the operand is, aligned to it.
  const offset = state.offsetIn(state.target - (state.target % 8), 32);
  if (offset >= 0 && state.target % 8 !== 0) {
    const whole = state.record.slice(offset, offset + 24);
    state.record.set(whole, offset + (state.target % 8));
  }
}

/** Where an access of `size` bytes goes: mostly into AREA, aligned or not; now and then to a place where it faults. */
function chooseTarget(state: CaseState, size: number, room: number): bigint {
  const random = state.random;
  const choice = random.below(40);
  const alignment = size > 0 && (size & (size - 1)) === 0 && random.below(4) > 0 ? size : 1;
  const align = (address: number) => BigInt(address - (address % alignment));
  if (choice < 34) {
    // With 32 bits only the part below 2^32 is in reach.
    const length = state.encoded.addressSize === 4 && state.layout === HIGH ? at.AREA_SIZE / 2 : at.AREA_SIZE;
    return align(state.layout.area + room + random.below(Math.max(1, length - 2 * room - size + 1)));
  }
  // Out of the mapped memory, in part or not quite.
  if (choice < 36) return align(state.layout.edge + at.EDGE_SIZE - random.below(2 * Math.max(size, 1) + 1));
  if (choice < 38) return align(state.layout.readOnly + 64 + random.below(at.READ_ONLY_SIZE - 128 - size));
  if (choice < 39) return align(state.layout.unmapped + random.below(4096));
  // Far from the ends of the canonical addresses: a segment's base is added later, and the processor faults as well
  // where only the address before that is not canonical.
  return random.pick([0x8000000000000000n, 0x0000900000000000n, 0xffff7f0000000000n, 0xffff900000000000n]);
}

/** A base in rsp stays canonical: native.ts says why. */
function chooseIndex(state: CaseState, base: number): bigint {
  return base !== RSP && state.random.oneIn(3) ? state.random.bits64() : BigInt(state.random.between(-300, 300));
}

function setAddressGpr(state: CaseState, register: number, value: bigint, bits: bigint): void {
  const low = BigInt.asUintN(Number(bits), value);
  // With an address-size prefix the upper half is garbage that must not matter.
  const garbage = BigInt(state.random.bits()) & (register === RSP ? 0x7fffn : 0xffffffffn);
  state.setGpr(register, bits === 32n ? (garbage << 32n) | low : low);
}

function effectiveAddress(state: CaseState, bits: bigint): number {
  const memory = state.encoded.memory!;
  let sum = memory.displacementSize === 4 ? BigInt.asIntN(32, memory.displacement) : memory.displacement;
  if (memory.relative) sum += BigInt(state.address + state.encoded.bytes.length);
  if (memory.base >= 0) sum += state.gpr(memory.base);
  if (memory.index >= 0) sum += state.gpr(memory.index) * BigInt(memory.scale);
  return Number(BigInt.asUintN(64, BigInt.asUintN(Number(bits), sum) + state.encoded.segmentBase));
}

const fits32 = (value: bigint): boolean => BigInt.asIntN(32, value) === value;
