/**
 * The ways to fork that a file uses and that no child handler sees.
 *
 * fork, daemon and forkpty run the handlers that were registered with the C library; popen, system and posix_spawn share
 * the parent's memory until they call exec. What is left:
 *
 *     _Fork                    copies the memory and runs no handlers: that is what it is for
 *     clone, __clone, clone3   copy the memory unless CLONE_VM is among the flags
 *     syscall                  makes any system call, so perhaps one of these
 *     vfork                    shares the memory, and the parent waits: no handler runs, and none is needed
 *     the instruction itself   with the number of such a system call close before it
 *
 * What is found in the code is read off its bytes at every position: it may be too much. A system call whose number cannot
 * be seen is not reported: wherever the C library's own functions are not enough, that is the ordinary case.
 */
import * as elf from "../elf/constants.js";
import { type ElfImage, isCode, sectionBytes } from "../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../elf/symbols.js";

export interface UncoveredFork {
  /** The function that is imported, or the system call. */
  readonly name: string;
  /** "copies": the child has a copy of the memory; "may copy": so it may be, by arguments; "shares": it has none. */
  readonly memory: "copies" | "may copy" | "shares";
}

const imports: ReadonlyMap<string, UncoveredFork["memory"]> = new Map([
  ["_Fork", "copies"],
  ["clone", "may copy"],
  ["__clone", "may copy"],
  ["clone3", "may copy"],
  ["syscall", "may copy"],
  ["vfork", "shares"],
  ["__vfork", "shares"],
]);

const calls: ReadonlyMap<number, UncoveredFork> = new Map([
  [56, { name: "system call clone", memory: "may copy" }],
  [57, { name: "system call fork", memory: "copies" }],
  [58, { name: "system call vfork", memory: "shares" }],
  [435, { name: "system call clone3", memory: "may copy" }],
]);

/** Each way once, imports first. */
export function forksWithoutHandlers(image: ElfImage): readonly UncoveredFork[] {
  const found = new Map<string, UncoveredFork>();
  const table = dynsym(image);
  if (table !== null)
    forEachSymbol(table, (_value, _size, _info, shndx, index) => {
      const name = shndx === elf.SHN_UNDEF ? symbolName(table, index) : "";
      const memory = imports.get(name);
      if (memory !== undefined) found.set(name, { name, memory });
    });
  for (const section of image.sections.filter(isCode))
    forEachSystemCall(sectionBytes(image, section), (number) => {
      const call = calls.get(number);
      if (call !== undefined) found.set(call.name, call);
    });
  return [...found.values()];
}

/** How far before the `syscall` its number is looked for, in bytes. */
const WINDOW = 24;

/** `mov $number, %eax` (b8) and the nearest `syscall` (0f 05) behind it. */
function forEachSystemCall(bytes: Buffer, visit: (number: number) => void): void {
  for (let at = bytes.indexOf(SYSCALL); at >= 0; at = bytes.indexOf(SYSCALL, at + 1))
    for (let mov = at - 5; mov >= 0 && mov >= at - WINDOW; mov--)
      if (bytes[mov] === 0xb8 && bytes.readUInt32LE(mov + 1) < 1024) {
        visit(bytes.readUInt32LE(mov + 1));
        break;
      }
}

const SYSCALL = Buffer.from([0x0f, 0x05]);
