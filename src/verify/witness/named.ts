/**
 * Groups inside of which anything knows an address, other than by a direct branch: only into those can code jump that
 * makes its target of what it was given and of numbers. (Where a function begins is known of most; that nobody adds to
 * it in order to jump inside from elsewhere is assumed, docs/assumptions.md.)
 *
 * A word of data counts where it may be meant: a pointer of eight bytes in fixed programs, at any place; four bytes
 * relative to their own place, where that is aligned and leads to the start of an instruction.
 */
import { type Parts, Use } from "./parts.js";
import type { Program } from "./program.js";
import { isFree, type Ranges } from "./scan.js";

/**
 * @param distances whether words relative to their own place count: not where nothing but words of eight bytes is added
 * @param made addresses of code that instructions make
 * @param tables whose words are entries and nothing else
 */
export function namedInside(
  program: Program,
  parts: Parts,
  made: Iterable<number>,
  tables: Ranges,
  distances: boolean,
): ReadonlySet<number> {
  const inside = new Set<number>();
  const add = (address: number): void => {
    const part = parts.at(address);
    if (part !== undefined && !part.heads.includes(address)) inside.add(part.group);
  };
  for (const { address, isPad, isLocal } of program.names) if (!isPad && !isLocal) add(address);
  const { to, use, count } = parts.references;
  for (let i = 0; i < count; i++) if (use[i] === Use.Lea || use[i] === Use.Immediate) add(to[i]!);
  for (const address of made) add(address);
  const lowest = program.code[0]?.start ?? 0;
  const highest = program.code.at(-1)?.end ?? 0;
  for (const { view, start, bytes } of program.data)
    for (let at = 0; at + 4 <= bytes.length; at++) {
      const isPointer =
        program.isFixed &&
        at + 8 <= bytes.length &&
        view.getUint32(at, true) >= lowest &&
        view.getUint32(at, true) < highest &&
        view.getUint32(at + 4, true) === 0;
      if (isPointer && !program.isRelocated(start + at, 8)) add(view.getUint32(at, true));
      if (!distances || (start + at) % 4 !== 0) continue;
      const target = start + at + view.getInt32(at, true);
      if (target >= lowest && target < highest && parts.isStart(target) && isFree(program, tables, start + at))
        add(target);
    }
  return inside;
}
