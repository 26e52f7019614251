/**
 * Where processors of one maker differ from each other, so that nobody may be held to either: seen on Sapphire Rapids and
 * Emerald Rapids, which each do the one and the other.
 *
 *     rep with 32-bit addresses     without an iteration that was completed, the upper half of rcx stays or is cleared
 *     repe, repne cmps and scas     at a fault of a later iteration, flags are those from before or of the last iteration
 *     call to no canonical address  the fault comes before the return address is pushed, or after
 */
import { decodeOne } from "./decode-one.js";
import { EDGE_SIZE, Exception, FAULTED, Record } from "./layout.js";

const RCX = Record.GPR + 8;
const RSP = Record.GPR + 32;
const STRING = /^(cmps|lods|movs|scas|stos)[bwdq]$/;
const STATUS = 0x8d5;

/** Gives `native` what the emulator has where both are what some processor does. All three are records. */
export function takeEitherProcessor(
  mnemonic: string,
  bytes: Uint8Array,
  before: DataView,
  native: DataView,
  emulated: DataView,
): void {
  const { hasRepPrefix, hasRepePrefix, hasRepnePrefix, length } = decodeOne(bytes);
  if (length !== bytes.length) return;
  const trap = native.getUint32(Record.TRAP, true);
  if (mnemonic === "call" && trap === (FAULTED | Exception.PROTECTION)) takePush(before, native, emulated);
  const repeats = hasRepPrefix || hasRepePrefix || hasRepnePrefix;
  if (!repeats || !STRING.test(mnemonic)) return;
  if (bytes.includes(0x67)) takeCount(before, native, emulated);
  if (trap !== 0 && /^(cmps|scas)/.test(mnemonic)) takeFlags(before, native, emulated);
}

function takeCount(before: DataView, native: DataView, emulated: DataView): void {
  const count = before.getBigUint64(RCX, true);
  const low = count & 0xffff_ffffn;
  const either = [count, low];
  if (either.includes(native.getBigUint64(RCX, true)) && either.includes(emulated.getBigUint64(RCX, true)))
    native.setBigUint64(RCX, emulated.getBigUint64(RCX, true), true);
}

function takeFlags(before: DataView, native: DataView, emulated: DataView): void {
  const flags = native.getUint32(Record.FLAGS, true);
  const isFirst = before.getBigUint64(RCX, true) === native.getBigUint64(RCX, true);
  if (!isFirst && (flags & STATUS) === (before.getUint32(Record.FLAGS, true) & STATUS))
    native.setUint32(Record.FLAGS, emulated.getUint32(Record.FLAGS, true), true);
}

/** Eight bytes below rsp, as far as the record shows them. */
function takePush(before: DataView, native: DataView, emulated: DataView): void {
  const [from, size] = [Record.AREA, Record.EDGE + EDGE_SIZE - Record.AREA];
  const differing = Array.from({ length: size }, (_, i) => from + i).filter(
    (i) => native.getUint8(i) !== emulated.getUint8(i),
  );
  const isPush = differing.length > 0 && differing.at(-1)! - differing[0]! < 8;
  const isUnpushed = differing.every((i) => emulated.getUint8(i) === before.getUint8(i));
  if (!isPush || !isUnpushed || before.getBigUint64(RSP, true) !== native.getBigUint64(RSP, true)) return;
  for (const i of differing) native.setUint8(i, emulated.getUint8(i));
}
