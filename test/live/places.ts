/** The places of a file's probes for uprobes and for reading memory, by what readelf says. */
import { fileOffset, readSections, readSegments, type Segment } from "../judges/headers.js";
import { type Note, readNotes } from "../judges/notes.js";
import type { ProbePoint } from "../packages/uprobes.js";

export interface Place {
  readonly note: Note;
  /** Where the tracer puts the uprobe. */
  readonly address: bigint;
  readonly point: ProbePoint;
}

/**
 * @param step how far behind the note's location a tracer attaches: libbpf 1.7 goes 1 on, from the nop of `nop,nop5` to the
 * nop5, on kernels that optimize it
 */
export async function places(file: string, step = 0n): Promise<readonly Place[]> {
  const segments = await readSegments(file);
  return (await readNotes(file, await readSections(file))).map((note) => placeOf(file, segments, note, step));
}

function placeOf(file: string, segments: readonly Segment[], note: Note, step: bigint): Place {
  const address = note.location + step;
  const offset = fileOffset(segments, address, "E");
  if (offset === null) throw new Error(`${file}: ${note.name} is in no executable segment`);
  const counter = note.semaphore === 0n ? null : fileOffset(segments, note.semaphore, "W");
  return {
    note,
    address,
    point: { path: file, offset: Number(offset), refCtrOffset: counter === null ? undefined : Number(counter) },
  };
}

/** Notes may share a place, which gets one uprobe. */
export const distinct = (all: readonly Place[]): readonly Place[] => [
  ...new Map(all.map((place) => [place.address, place])).values(),
];
