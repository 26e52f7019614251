/**
 * Which other ranges may be parts of the same function, whether any of them may jump through a register, and which table
 * bases all of them may make: a superset, read off the
 * bytes at every position without decoding. It is cheap, and nothing escapes it; what it finds too much is settled by
 * groups.ts, which decodes, for the few sites where it matters.
 *
 * Compilers split functions: a hot part, cold parts, each with an FDE of its own, joined by direct branches. A jump table
 * may have its base set in one part and be used in another. Without symbols a branch between two parts looks like a tail
 * call; taking a tail call for one only makes the superset larger. Followed are all jumps out of and into the site's range,
 * and from those ranges on the jumps that are surely no tail calls: conditional ones and those into the middle of a range.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import type { Link } from "./scan-code.js";

/** What the bytes of one range may jump to outside of it, and which addresses they may make. */
interface RangeScan {
  /** Some byte looks like a jump through a register. */
  readonly jumpsByRegister: boolean;
  readonly jumps: readonly { readonly to: Vaddr; readonly conditional: boolean }[];
  readonly bases: readonly number[];
}

export class PartIndex {
  private readonly scans = new Map<number, RangeScan>();

  /**
   * @param incoming what looks like jumps into ranges that hold sites, by the index of the range
   * @param addresses for programs with fixed addresses: what a constant must be to name a place in the image
   */
  constructor(
    private readonly functions: FunctionIndex,
    readonly incoming: ReadonlyMap<number, readonly Link[]>,
    private readonly addresses: { readonly low: Vaddr; readonly high: Vaddr } | undefined,
  ) {}

  /** The site's range and all that may be parts of its function. */
  partsOf(range: CodeRange): readonly CodeRange[] {
    const found = new Map<number, CodeRange>([[range.index, range]]);
    const reach = (from: CodeRange, onlyCertain: boolean): CodeRange[] => {
      const fresh: CodeRange[] = [];
      const add = (address: number, certain: boolean): void => {
        const other = this.functions.containing(address);
        if (other === undefined || found.has(other.index) || (onlyCertain && !certain)) return;
        found.set(other.index, other);
        fresh.push(other);
      };
      for (const { to, conditional } of this.scan(from).jumps)
        add(to, conditional || this.functions.containing(to)?.start !== to);
      for (const link of this.incoming.get(from.index) ?? []) add(link.from, link.to !== from.start);
      return fresh;
    };
    for (const part of reach(range, false)) reach(part, true);
    return [...found.values()];
  }

  /** Addresses that a range may make: bases to which a table's words may be added. */
  basesOf(range: CodeRange): readonly number[] {
    return this.scan(range).bases;
  }

  /** Whether a range may jump through a register. */
  jumpsByRegister(range: CodeRange): boolean {
    return this.scan(range).jumpsByRegister;
  }

  private scan(range: CodeRange): RangeScan {
    let scan = this.scans.get(range.index);
    if (scan === undefined) {
      scan = scanRange(this.functions.bytes(range), range, this.addresses);
      this.scans.set(range.index, scan);
    }
    return scan;
  }
}

function scanRange(
  bytes: Uint8Array,
  { start, end }: CodeRange,
  addresses: { readonly low: Vaddr; readonly high: Vaddr } | undefined,
): RangeScan {
  const jumps: { to: Vaddr; conditional: boolean }[] = [];
  const bases = new Set<number>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let jumpsByRegister = false;
  const jump = (to: number, conditional: boolean): void => {
    if (to < start || to >= end) jumps.push({ to: vaddr(to), conditional });
  };
  for (let p = 0; p < bytes.length; p++) {
    const opcode = bytes[p]!;
    const next = bytes[p + 1]!;
    // jmp r64: ff, mod 11, reg 4.
    if (opcode === 0xff && (next & 0xf8) === 0xe0) jumpsByRegister = true;
    if ((opcode & 0xf0) === 0x70 || opcode === 0xeb || (opcode & 0xfc) === 0xe0) {
      if (p + 2 <= bytes.length) jump(start + p + 2 + ((next << 24) >> 24), opcode !== 0xeb);
    } else if (p + 5 > bytes.length) continue;
    else if (opcode === 0xe9) jump(start + p + 5 + view.getInt32(p + 1, true), false);
    else if (opcode === 0x0f && (next & 0xf0) === 0x80 && p + 6 <= bytes.length)
      jump(start + p + 6 + view.getInt32(p + 2, true), true);
    // lea r64, [rip + disp32]: 8d, mod 00, rm 101.
    else if (opcode === 0x8d && (next & 0xc7) === 0x05 && p + 6 <= bytes.length)
      bases.add(start + p + 6 + view.getInt32(p + 2, true));
    if (addresses !== undefined && p + 4 <= bytes.length) {
      const value = view.getUint32(p, true);
      if (value >= addresses.low && value < addresses.high) bases.add(value);
    }
  }
  return { jumpsByRegister, jumps, bases: [...bases] };
}
