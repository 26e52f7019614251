/** LEB128, written: seven bits a byte, the lowest first. Specification: DWARF 5 section 7.6. */

/** Bytes of a number that is not negative. */
export function encodeUleb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return bytes;
}

export function encodeSleb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (;;) {
    const byte = ((rest % 128) + 128) % 128;
    rest = Math.floor(rest / 128);
    const isSign = (byte & 0x40) !== 0;
    if ((rest === 0 && !isSign) || (rest === -1 && isSign)) {
      bytes.push(byte);
      return bytes;
    }
    bytes.push(byte | 128);
  }
}
