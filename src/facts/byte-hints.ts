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

/** Whether bytes look like a jump or call through a register, or through a slot of the stack: ff /2 and ff /4. */
export function mayLeave(bytes: Uint8Array): boolean {
  for (let p = 0; p + 1 < bytes.length; p++) {
    if (bytes[p] !== 0xff) continue;
    const modrm = bytes[p + 1]!;
    const operation = (modrm >> 3) & 7;
    if (operation !== 2 && operation !== 4) continue;
    const mod = modrm >> 6;
    const rm = modrm & 7;
    if (mod === 3 || rm === 4 || (rm === 5 && mod !== 0)) return true;
  }
  return false;
}
