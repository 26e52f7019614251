/**
 * What `readelf -n` says of a file's USDT notes, with the prelink rule applied by hand: this is what list and rewrite are
 * compared with, so it shares no code with them.
 */
import { must } from "../run.js";
import { readSections, type Section } from "./headers.js";

export interface Note {
  readonly provider: string;
  readonly name: string;
  /** After the .stapsdt.base rule. */
  readonly location: bigint;
  readonly semaphore: bigint;
  readonly arguments: readonly string[];
}

const entry =
  /stapsdt\s+0x[0-9a-f]+\s+NT_STAPSDT[\s\S]*?Provider: (.*)\n\s+Name: (.*)\n\s+Location: (0x[0-9a-f]+), Base: (0x[0-9a-f]+), Semaphore: (0x[0-9a-f]+)\n\s+Arguments: ?(.*)\n/g;

export async function readNotes(file: string, sections?: readonly Section[]): Promise<readonly Note[]> {
  const base = (sections ?? (await readSections(file))).find((section) => section.name === ".stapsdt.base");
  const text = await must("readelf", ["-nW", file]);
  return [...text.matchAll(entry)].map((found) => {
    const moved = !base?.address || BigInt(found[4]!) === 0n ? 0n : base.address - BigInt(found[4]!);
    const semaphore = BigInt(found[5]!);
    return {
      provider: found[1]!,
      name: found[2]!,
      location: BigInt(found[3]!) + moved,
      semaphore: semaphore === 0n ? 0n : semaphore + moved,
      arguments: found[6]!.split(" ").filter((argument) => argument !== ""),
    };
  });
}
