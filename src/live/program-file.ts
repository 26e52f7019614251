/**
 * A program that this tool has written, as a file that can be run: in a folder of its own, which goes away with the
 * tool unless that is killed outright.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Vaddr, vaddr } from "../address.js";
import { PF_R, PF_W, PF_X } from "../elf/constants.js";
import { writeProgram } from "../elf/write-program.js";
import { describe, FileError, isSystemError } from "../files/file-error.js";

/** Where the code of such programs begins, and where their zeroed data does: link-time addresses that are fixed. */
export const CODE = vaddr(0x400000);
export const DATA = vaddr(0x10000000);

export interface ProgramFile {
  readonly path: string;
  remove(): void;
}

/** The file's bytes: code that begins with its first instruction, and zeroed memory at `DATA`. */
export const programBytes = (code: Uint8Array, dataSize: number, entry: Vaddr = CODE): Buffer =>
  writeProgram(entry, [
    { address: CODE, bytes: code, flags: PF_R | PF_X, name: ".text" },
    { address: DATA, bytes: new Uint8Array(0), size: dataSize, flags: PF_R | PF_W, name: ".bss" },
  ]);

/** Writes an executable file. @throws FileError where that is not possible */
export function writeProgramFile(name: string, bytes: Uint8Array): ProgramFile {
  const parent = tmpdir();
  try {
    const folder = mkdtempSync(join(parent, "usdt-nop5-"));
    const remove = (): void => {
      process.off("exit", remove);
      rmSync(folder, { recursive: true, force: true });
    };
    process.on("exit", remove);
    const path = join(folder, name);
    writeFileSync(path, bytes, { mode: 0o755 });
    return { path, remove };
  } catch (error) {
    if (isSystemError(error)) throw new FileError(parent, `no program can be written there: ${describe(error)}`);
    throw error;
  }
}
