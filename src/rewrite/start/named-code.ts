/** A function among new code that comes from nowhere in the input. */
import { type Vaddr, vaddr } from "../../address.js";
import { type CfaRows, DWARF_RSP } from "../../elf/cfa-rows.js";
import type { Assembler } from "../../x86/assembler.js";
import type { FrameRow, LinkedUnit } from "../../x86/link.js";
import type { NamedCode } from "../new-code.js";

/** A linked unit that has a name. @param isUnwindable whether it is certain where the caller's frame is */
export function namedCode(
  { options }: Assembler,
  { start, codeEnd, rows }: LinkedUnit,
  isUnwindable = true,
): NamedCode {
  const [from, end] = [vaddr(start), vaddr(codeEnd)];
  return { name: options.name!, start: from, end, unwind: isUnwindable ? rowsByStack(rows) : undefined };
}

const rowsByStack = (rows: readonly FrameRow[]): CfaRows => ({
  starts: rows.map((row): Vaddr => vaddr(row.start)),
  registers: rows.map(() => DWARF_RSP),
  offsets: rows.map((row) => row.offset),
});
