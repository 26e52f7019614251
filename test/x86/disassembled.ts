/** Disassembly by objdump, an instruction a line. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../run.js";

export async function disassembled(bytes: Uint8Array, start: number): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), "usdt-assembler-"));
  try {
    const file = join(folder, "code");
    writeFileSync(file, bytes);
    const raw = ["-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn"];
    const text = await must("objdump", [...raw, `--adjust-vma=${start}`, file]);
    return [...text.matchAll(/^ *[0-9a-f]+:\t(.*?) *(?:#.*)?$/gm)].map(([, line]) => line!.replace(/ +/g, " "));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
