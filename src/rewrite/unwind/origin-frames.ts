/**
 * The input's unwind information, as new code needs it: the rows of a function, its handlers, and whether these can be
 * had elsewhere. Each is read when it is first asked for, and kept for all who ask again.
 */
import type { EhFrame, Fde } from "../../elf/eh-frame.js";
import type { Cie } from "../../elf/eh-records.js";
import { type FrameTable, readFrameTable } from "../../elf/frame-states.js";
import type { ElfImage } from "../../elf/image.js";
import { type CallSite, readCallSites } from "../../elf/lsda.js";
import { hasKnownTables, personalityName } from "../../elf/personalities.js";

export class OriginFrames {
  readonly #tables = new Map<number, FrameTable>();
  readonly #callSites = new Map<Fde, readonly CallSite[]>();
  readonly #personalities = new Map<Cie, string | null | undefined>();

  constructor(
    readonly image: ElfImage,
    readonly records: EhFrame,
  ) {}

  /** All rows of the FDE with that index. @throws InputError where they are damaged */
  table(index: number): FrameTable {
    return getOrMake(this.#tables, index, () => readFrameTable(this.records.program(index)));
  }

  /** The call-site records of a function part. @throws InputError where they are damaged */
  callSites(fde: Fde): readonly CallSite[] {
    return getOrMake(this.#callSites, fde, () => readCallSites(this.image, fde));
  }

  /** Why exception tables for this CIE's functions cannot be written, or undefined where they can. */
  personalityObstacle(cie: Cie): string | undefined {
    const name = getOrMake(this.#personalities, cie, () => personalityName(this.image, cie));
    if (name === null) return undefined;
    if (name === undefined) return "its exceptions are handled by a personality routine that nothing names";
    return hasKnownTables(name) ? undefined : `its exceptions are handled by ${name}, whose tables are not known`;
  }
}

function getOrMake<K, V>(known: Map<K, V>, key: K, make: () => V): V {
  if (!known.has(key)) known.set(key, make());
  return known.get(key)!;
}
