/** The state that a case starts from, before anything is arranged: random, with a preference for boundaries. */
import * as at from "./layout.js";
import { Record } from "./layout.js";
import type { Random } from "./random.js";

const RSP = 4;

/** What an instruction works on, as far as values for it are chosen. */
export type Element = "integer" | "float32" | "float64" | "bytes";

/** Fills a record with a random state that has the instruction at `address`. */
export function fillRecord(record: Uint8Array, address: number, random: Random, element: Element): void {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  record.fill(0);
  for (let i = 0; i < 16; i++) view.setBigUint64(Record.GPR + 8 * i, random.integer(), true);
  // Canonical: native.ts says why.
  view.setBigInt64(Record.GPR + 8 * RSP, BigInt.asIntN(48, view.getBigInt64(Record.GPR + 8 * RSP, true)), true);
  view.setUint32(Record.FLAGS, randomFlags(random), true);
  view.setUint32(Record.IP, address, true);
  view.setUint16(Record.FX, 0x37f, true);
  // The default is all that the emulator runs with: it says so where a program loads anything else.
  view.setUint32(Record.FX_MXCSR, 0x1f80, true);
  fill(view, Record.XMM, 256, random, element);
  fill(view, Record.AREA, at.AREA_SIZE, random, element);
  fill(view, Record.EDGE, at.EDGE_SIZE, random, element);
}

function randomFlags(random: Random): number {
  let flags = 0x202;
  for (const bit of [0x1, 0x4, 0x10, 0x40, 0x80, 0x800]) if (random.oneIn(2)) flags |= bit;
  if (random.oneIn(3)) flags |= 0x400;
  return flags;
}

/** Fills bytes of the record with elements; a multiple of 8 bytes. */
function fill(view: DataView, offset: number, size: number, random: Random, element: Element): void {
  // Few different bytes, so that comparisons of bytes find some equal.
  const alphabet = [0, 0xff, random.below(256), 0x80];
  // Few different numbers, so that zeros of both signs, infinities and NaNs meet each other.
  const special = random.oneIn(6);
  for (let i = 0; i < size; i += 8) {
    switch (element) {
      case "integer":
        view.setBigUint64(offset + i, random.integer(), true);
        break;
      case "float64":
        view.setBigUint64(offset + i, special ? random.special64() : random.float64(), true);
        break;
      case "float32":
        for (const at of [offset + i, offset + i + 4])
          view.setUint32(at, special ? random.special32() : random.float32(), true);
        break;
      case "bytes":
        for (let j = 0; j < 8; j++) view.setUint8(offset + i + j, random.pick(alphabet));
    }
  }
}
