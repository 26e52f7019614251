/**
 * The parts of a function, decoded: whether they jump through tables at all, and which bases they make. Asked only for
 * sites to which some word could lead, see parts.ts.
 */
import type { Vaddr } from "../address.js";
import { addressOf, type DecodedCode, Flow, lengthOf } from "../x86/decode.js";
import { constantsOf } from "../x86/relocate.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { unknownJumpIn } from "./indirect-jumps.js";
import type { Link } from "./scan-code.js";

export interface Group {
  /** Why one of the parts cannot be decoded, or undefined. */
  readonly unclean: string | undefined;
  /** Where a part jumps to a target that comes about in a way that is not understood, or undefined. */
  readonly unknownJump: number | undefined;
  /** Some part jumps through a register, so that tables of words matter. Through memory go pointers, which are seen. */
  readonly jumpsByRegister: boolean;
  readonly parts: readonly CodeRange[];
  /** Link-time addresses that the parts make. */
  readonly bases: ReadonlySet<number>;
}

const MOST_PARTS = 200;

/**
 * Followed are all direct jumps out of and into the site's range, and from those ranges on the jumps that are surely no
 * tail calls: conditional ones and those into the middle of a range.
 * @param incoming what looks like jumps into ranges that hold sites, by the index of the range they lead to
 * @param lowest for programs with fixed addresses: the lowest address of the image, from which on a constant may be a base
 */
export function groupOf(
  range: CodeRange,
  functions: FunctionIndex,
  incoming: ReadonlyMap<number, readonly Link[]>,
  lowest: Vaddr | undefined,
): Group {
  const indices = new Set<number>([range.index]);
  const queue: { range: CodeRange; depth: number }[] = [{ range, depth: 0 }];
  const parts: DecodedCode[] = [];
  const ranges: CodeRange[] = [];
  let unclean: string | undefined;
  const add = (address: number, depth: number, certain: boolean): void => {
    if (depth > 0 && !certain) return;
    const other = functions.containing(address);
    if (other === undefined) {
      if (functions.sectionAt(address) !== undefined)
        unclean ??= "code outside of any known function jumps into it, or is jumped to";
      return;
    }
    if (indices.has(other.index)) return;
    if (indices.size >= MOST_PARTS) {
      unclean ??= `it may have more than ${MOST_PARTS} parts`;
      return;
    }
    indices.add(other.index);
    queue.push({ range: other, depth: depth + 1 });
  };
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    const code = functions.code(next.range);
    parts.push(code);
    ranges.push(next.range);
    unclean ??= code.unclean;
    if (next.depth >= 2) continue;
    for (let i = 0; i < code.count; i++) {
      const flow = code.flow[i]!;
      if ((flow & (Flow.Jump | Flow.Conditional)) === 0) continue;
      const target = code.targets[i]!;
      if (target >= code.start && target < code.end) continue;
      const other = functions.containing(target);
      add(target, next.depth, (flow & Flow.Conditional) !== 0 || (other !== undefined && other.start !== target));
    }
    for (const link of incoming.get(next.range.index) ?? []) add(link.from, next.depth, link.to !== next.range.start);
  }
  const jumpsByRegister = parts.some(hasJumpByRegister);
  const unknownJump = parts.map(unknownJumpIn).find((at) => at !== undefined);
  const bases: ReadonlySet<number> = jumpsByRegister ? basesOf(parts, lowest) : new Set();
  return { unclean, unknownJump, jumpsByRegister, parts: ranges, bases };
}

/** FF /4 with mod 11 is a jump through a register. */
function hasJumpByRegister(code: DecodedCode): boolean {
  for (let i = 0; i < code.count; i++) {
    if ((code.flow[i]! & Flow.IndirectJump) === 0) continue;
    const at = code.offsets[i]!;
    const bytes = code.bytes.subarray(at, at + lengthOf(code, i));
    if (bytes[bytes.length - 2] === 0xff && (bytes[bytes.length - 1]! & 0xf8) === 0xe0) return true;
  }
  return false;
}

function basesOf(parts: readonly DecodedCode[], lowest: Vaddr | undefined): ReadonlySet<number> {
  const bases = new Set<number>();
  for (const code of parts) {
    for (let i = 0; i < code.count; i++) {
      if (code.flow[i]! & Flow.Lea) bases.add(code.targets[i]!);
      if (lowest === undefined) continue;
      const at = code.offsets[i]!;
      for (const { value } of constantsOf(code.bytes.subarray(at, at + lengthOf(code, i)), addressOf(code, i)))
        if (value >= lowest) bases.add(value);
    }
  }
  return bases;
}
