/**
 * Whether a process that runs this file may fork and go on without exec: then, on the kernels that optimize nop5, a
 * child dies at the first site that its parent had hit while traced.
 *
 * A program shows it by what it imports, under any symbol version; a static one by the system calls in its code. A
 * shared library cannot know who loads it. "No way to fork is seen" does not speak for libraries that the program
 * loads.
 */
import * as elf from "../elf/constants.js";
import { isMarkedPie, startsProcesses } from "../elf/dynamic.js";
import { type ElfImage, isCode, sectionBytes } from "../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../elf/symbols.js";

/** Functions of the C library that fork, or that make any system call one likes. vfork and posix_spawn share memory. */
const forking = new Set([
  "fork",
  "_Fork",
  "__fork",
  "__libc_fork",
  "daemon",
  "forkpty",
  "clone",
  "__clone",
  "clone3",
  "syscall",
]);

const SYS_clone = 56;
const SYS_fork = 57;
const SYS_clone3 = 435;

/** Why the process may fork, in words for people, or undefined where no way is seen. */
export function wayToFork(image: ElfImage): string | undefined {
  if (startsProcesses(image)) return forkingImport(image);
  const has = (type: number): boolean => image.programHeaders.some((p) => p.p_type === type);
  if (has(elf.PT_INTERP) || (has(elf.PT_DYNAMIC) && !isMarkedPie(image)))
    return "it is a shared library, which cannot know whether its process forks";
  return forkingSystemCall(image);
}

function forkingImport(image: ElfImage): string | undefined {
  const table = dynsym(image);
  if (table === null) return undefined;
  const found: string[] = [];
  forEachSymbol(table, (_value, _size, _info, shndx, index) => {
    if (shndx !== elf.SHN_UNDEF) return;
    const name = symbolName(table, index);
    if (forking.has(name)) found.push(name);
  });
  return found.length === 0 ? undefined : `it imports ${found.sort().join(", ")}`;
}

/**
 * `syscall` (0f 05) with the number of a forking one, or with a number that cannot be seen: `mov $n, %eax` (b8) close
 * before it. Read off the bytes at every position, so that nothing is missed; what is found too much errs on the safe
 * side.
 */
function forkingSystemCall(image: ElfImage): string | undefined {
  for (const section of image.sections.filter(isCode)) {
    const bytes = sectionBytes(image, section);
    for (let at = bytes.indexOf(0x0f); at >= 0; at = bytes.indexOf(0x0f, at + 1)) {
      if (bytes[at + 1] !== 0x05) continue;
      const number = numberBefore(bytes, at);
      if (number === undefined) return "it is static, and makes system calls whose number cannot be seen";
      if (number === SYS_fork || number === SYS_clone || number === SYS_clone3)
        return `it is static, and makes the system call ${number}`;
    }
  }
  return undefined;
}

const WINDOW = 24;

function numberBefore(bytes: Buffer, syscall: number): number | undefined {
  for (let at = syscall - 5; at >= 0 && at >= syscall - WINDOW; at--)
    if (bytes[at] === 0xb8 && bytes.readUInt32LE(at + 1) < 1024) return bytes.readUInt32LE(at + 1);
  return undefined;
}
