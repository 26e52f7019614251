/**
 * The one error that people see: bad or unsupported input, or an I/O failure. It becomes a single line on stderr,
 * `usdt-nop5: FILE: what is wrong (where)`, and exit status 1. Anything else that is thrown is a defect of this
 * program.
 */
export class InputError extends Error {
  override readonly name = "InputError";

  /**
   * @param what what is wrong, in a few words, lower case, no full stop
   * @param where a place that helps to find it, such as "offset 0x40" or "address 0x1290"
   */
  constructor(
    readonly what: string,
    readonly where?: string,
  ) {
    super(where === undefined ? what : `${what} (${where})`);
  }
}
