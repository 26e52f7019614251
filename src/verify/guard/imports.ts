/**
 * Which functions of the C library a guard needs, and which imports a file can spare for that.
 *
 * An import can be spared where the loader finds it in no process: then its word keeps what the file has there, zero,
 * and the code that looks at it takes it for missing. The start files of GCC and glibc bring three:
 *
 *     __gmon_start__                  defined by nothing but the start file of a program that was built for profiling, which
 *                                     calls it itself
 *     _ITM_registerTMCloneTable       defined by libitm. Where a file imports nothing else of libitm, and has no functions
 *     _ITM_deregisterTMCloneTable     cloned for transactions, there is nothing that libitm could be told
 */
import * as elf from "../../elf/constants.js";
import { isImport } from "../../elf/symbols.js";
import { countOf, type LoaderView, nameOf } from "../loader-view.js";

/** The functions, and the versions under which a C library of x86-64 has them. */
export const guardImports: ReadonlyMap<string, readonly string[]> = new Map([
  ["__register_atfork", ["GLIBC_2.3.2"]],
  ["dlsym", ["GLIBC_2.34", "GLIBC_2.2.5"]],
  ["__cxa_finalize", ["GLIBC_2.2.5"]],
]);
/** Functions that fork, or may fork, without running child handlers: a guard may stand between them and the file. */
export const wrappable: ReadonlySet<string> = new Set(["_Fork", "syscall", "clone", "__clone"]);
export const C_LIBRARY = "libc.so.6";

/** What remains of a symbol's version without the bit that hides a definition. */
export const VERSION_MASK = 0x7fff;

const CLONES = ["_ITM_registerTMCloneTable", "_ITM_deregisterTMCloneTable"];
const PROFILING = "__gmon_start__";

/** The numbers of the symbols that a file can spare. */
export function spareSymbols(view: LoaderView): ReadonlySet<number> {
  const symbols = view.tables.get("symbols");
  const versions = view.tables.get("versions")?.bytes;
  const profiling = new Set<number>();
  const clones = new Set<number>();
  let usesClones = view.image.sections.some((s) => s.name === ".tm_clone_table" && s.sh_size > 0);
  for (let i = 1; i < countOf(symbols, elf.SYM_SIZE); i++) {
    const name = nameOf(view, i) ?? "";
    if (name !== PROFILING && !name.startsWith("_ITM_") && !name.startsWith("_ZGT")) continue;
    const entry = symbols!.bytes.subarray(i * elf.SYM_SIZE, (i + 1) * elf.SYM_SIZE);
    const isWeak = entry[4]! >> 4 === elf.STB_WEAK && isImport(entry, 0);
    const isUnversioned = versions === undefined || (versions.readUInt16LE(2 * i) & VERSION_MASK) <= 1;
    const isSpare = isWeak && isUnversioned && entry.readBigUInt64LE(8) === 0n;
    if (name === PROFILING) {
      if (isSpare) profiling.add(i);
    } else if (CLONES.includes(name)) {
      if (isSpare) clones.add(i);
      else usesClones = true;
    } else usesClones = true;
  }
  return usesClones ? profiling : new Set([...profiling, ...clones]);
}
