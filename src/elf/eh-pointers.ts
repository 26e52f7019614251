/**
 * Pointers in the DW_EH_PE encodings, written: the counterpart of eh-cursor.ts, for formats of a fixed size.
 */
import { DW_EH_PE_application, DW_EH_PE_datarel, DW_EH_PE_omit, DW_EH_PE_pcrel } from "./eh-cursor.js";

/** Bytes of a pointer, by the format half of its encoding; undefined where it has no fixed size. */
export function pointerSize(encoding: number): 0 | 2 | 4 | 8 | undefined {
  if (encoding === DW_EH_PE_omit) return 0;
  switch (encoding & 0x0f) {
    case 0x00:
    case 0x04:
    case 0x0c:
      return 8;
    case 0x02:
    case 0x0a:
      return 2;
    case 0x03:
    case 0x0b:
      return 4;
    default:
      return undefined;
  }
}

/** Whether a value fits into the format half of an encoding. */
function fits(encoding: number, value: number): boolean {
  const isSigned = (encoding & 0x08) !== 0;
  const size = pointerSize(encoding);
  if (size === undefined) return false;
  // Eight bytes hold whatever a double holds exactly; what is negative wraps around, as addresses do.
  if (size === 8) return Number.isSafeInteger(value);
  const span = 2 ** (8 * size);
  return isSigned ? value >= -span / 2 && value < span / 2 : value >= 0 && value < span;
}

/** A number as it stands in a table; undefined where it does not fit. */
export function encodeNumber(encoding: number, value: number): Uint8Array | undefined {
  const size = pointerSize(encoding);
  if (size === undefined || size === 0 || !fits(encoding, value)) return undefined;
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigInt64(0, BigInt(value), true);
  return bytes.subarray(0, size);
}

/**
 * A pointer to `target`, standing at link-time address `place`; undefined where it does not fit, or would read as null.
 * @param dataBase what DW_EH_PE_datarel is relative to
 */
export function encodePointer(
  encoding: number,
  target: number,
  place: number,
  dataBase?: number,
): Uint8Array | undefined {
  const base = baseOf(encoding, place, dataBase);
  return base === undefined || target === base ? undefined : encodeNumber(encoding, target - base);
}

function baseOf(encoding: number, place: number, dataBase: number | undefined): number | undefined {
  switch (encoding & DW_EH_PE_application) {
    case 0:
      return 0;
    case DW_EH_PE_pcrel:
      return place;
    case DW_EH_PE_datarel:
      return dataBase;
    default:
      return undefined;
  }
}
