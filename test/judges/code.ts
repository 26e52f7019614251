/** What objdump sees at an address: it decodes, we only compare. */
import { must } from "../run.js";

export interface Instruction {
  readonly address: bigint;
  readonly bytes: string;
  readonly text: string;
}

export const nop5 = "0f1f440000";

/** One instruction for each address, or null where objdump shows none that begins there. */
export async function instructionsAt(
  file: string,
  addresses: readonly bigint[],
): Promise<ReadonlyMap<bigint, Instruction | null>> {
  const wanted = [...new Set(addresses)].sort((a, b) => (a < b ? -1 : 1));
  const found = new Map<bigint, Instruction | null>();
  for (const address of wanted) {
    if (found.has(address)) continue;
    // What follows closely is read in the same go, since this address begins an instruction; what that misses, alone.
    const last = wanted.findLast((other) => other < address + 512n)!;
    const rows = new Map((await disassemble(file, address, last + 15n)).map((row) => [row.address, row]));
    found.set(address, rows.get(address) ?? null);
    for (const other of wanted) {
      const row = rows.get(other);
      if (row !== undefined) found.set(other, row);
    }
  }
  return found;
}

export async function disassemble(file: string, start: bigint, stop: bigint): Promise<readonly Instruction[]> {
  const text = await must("objdump", [
    "-d",
    "--insn-width=15",
    `--start-address=0x${start.toString(16)}`,
    `--stop-address=0x${stop.toString(16)}`,
    file,
  ]);
  return [...text.matchAll(/^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t?(.*)$/gm)].map((row) => ({
    address: BigInt(`0x${row[1]}`),
    bytes: row[2]!.replaceAll(" ", ""),
    text: row[3]!.trim(),
  }));
}

/** A nop5 that crosses a page cannot become a call: two pages are not written in one step. */
export function crossesPage(address: bigint, length = 5n): boolean {
  return address / 4096n !== (address + length - 1n) / 4096n;
}
