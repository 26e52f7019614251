/** Where the records of new code are, found with readelf, for tests that plant faults into them. */
import { readSections } from "../judges/headers.js";
import { must } from "../run.js";

/** File offsets of the FDEs of new code: the first address stands 8 bytes behind, its length 12. */
export async function newRecords(file: string): Promise<readonly number[]> {
  const sections = await readSections(file);
  const [code, frames] = [".text.nop5", ".eh_frame"].map((name) => sections.find((s) => s.name === name));
  if (code === undefined || frames === undefined) throw new Error(`${file}: no new code, or no .eh_frame`);
  const dump = await must("readelf", ["--debug-dump=frames", file]);
  return [...dump.matchAll(/^([0-9a-f]{8}) [0-9a-f]{16} [0-9a-f]{8} FDE cie=\w+ pc=([0-9a-f]+)\.\./gm)]
    .filter(([, , pc]) => BigInt(`0x${pc}`) >= code.address && BigInt(`0x${pc}`) < code.address + code.size)
    .map(([, offset]) => Number(frames.offset) + Number.parseInt(offset!, 16));
}
