/**
 * What functions may hold, by their bytes alone: cheap questions that spare decoding most of them. Each says yes too
 * often and never no where it is yes.
 */

/** Where the branch with a 32-bit distance leads whose 5 bytes begin at `p`, from the start of the bytes. */
export const distantEnd = (bytes: Uint8Array, p: number): number =>
  p + 5 + (bytes[p + 1]! | (bytes[p + 2]! << 8) | (bytes[p + 3]! << 16) | (bytes[p + 4]! << 24));

/** Whether bytes look like a call of a place among them, other than the first: e8. */
export function mayCallInside(bytes: Uint8Array): boolean {
  for (let p = 0; p + 5 <= bytes.length; p++) {
    if (bytes[p] !== 0xe8) continue;
    const to = distantEnd(bytes, p);
    if (to > 0 && to < bytes.length) return true;
  }
  return false;
}

/**
 * Whether bytes look like a jump or call through a register, or through a slot of the stack: ff /2 and ff /4; or like a
 * return to what was put on the stack right in front of it.
 */
export function mayLeave(bytes: Uint8Array): boolean {
  for (let p = 0; p < bytes.length; p++) {
    if (bytes[p] === RET && returnsElsewhere(bytes, p)) return true;
    if (bytes[p] !== 0xff || p + 1 === bytes.length) continue;
    const modrm = bytes[p + 1]!;
    const operation = (modrm >> 3) & 7;
    if (operation !== 2 && operation !== 4) continue;
    const mod = modrm >> 6;
    const rm = modrm & 7;
    if (mod === 3 || rm === 4 || (rm === 5 && mod !== 0)) return true;
  }
  return false;
}

const RET = 0xc3;

/** Whether a push, or a store to where rsp points, seems to stand in front of the ret at `p`. */
function returnsElsewhere(bytes: Uint8Array, p: number): boolean {
  const before = (n: number): number => bytes[p - n] ?? 0;
  // f3 c3: what old processors predict better.
  const back = before(1) === 0xf3 ? 1 : 0;
  const isPush = (before(1 + back) & 0xf8) === 0x50;
  // (%rsp) is a SIB byte 24 after a ModRM byte whose rm is 4, also with a distance of a byte.
  const isStack = (n: number): boolean => before(n + back) === 0x24 && (before(n + 1 + back) & 7) === 4;
  return isPush || isStack(1) || isStack(2);
}

/** Where bytes look as if a call, jmp or jcc led out of them, from their start. */
export function* waysOut(bytes: Uint8Array): Iterable<number> {
  const { length } = bytes;
  for (let p = 0; p + 2 <= length; p++) {
    const opcode = bytes[p]!;
    let to = 0;
    if (opcode === 0xeb || (opcode & 0xf0) === 0x70) to = p + 2 + ((bytes[p + 1]! << 24) >> 24);
    else if (p + 5 > length) continue;
    else if (opcode === 0xe8 || opcode === 0xe9 || ((opcode & 0xf0) === 0x80 && bytes[p - 1] === 0x0f))
      to = distantEnd(bytes, p);
    if (to < 0 || to >= length) yield to;
  }
}

/** Where bytes look like a jump through a register, or a return to what was put on the stack: what a thunk ends in. */
export function* thunkEnds(bytes: Uint8Array): Generator<number, void> {
  const { length } = bytes;
  for (let p = 0; p < length; p++) {
    const byte = bytes[p]!;
    if (byte === RET ? returnsElsewhere(bytes, p) : byte === 0xff && p + 1 < length && (bytes[p + 1]! & 0xf8) === 0xe0)
      yield p;
  }
}
