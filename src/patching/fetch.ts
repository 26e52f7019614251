/**
 * Which bytes a CPU may execute while another one writes them.
 *
 * What the manuals promise:
 * - Intel SDM vol. 3, "Handling Self- and Cross-Modifying Code": code that one processor has changed may be executed by
 *   another only after that one has executed a serializing instruction; until then what it does is not said.
 * - Intel SDM vol. 3, "Serializing Instructions": iret, cpuid, serialize and others; not on the list are the delivery of
 *   an interrupt or exception, syscall and sysret. An IPI serializes since its handler ends in iret.
 * - Intel SDM vol. 3, "Guaranteed Atomic Operations" and AMD APM vol. 2, "Cross-Modifying Code": a change within one
 *   naturally aligned unit is seen whole; of a change of several bytes at any address, which is what a patcher has, that
 *   is true for each single byte only. Linux patches its own code by the same rule (int3 in byte 0 while the rest changes).
 *
 * So this is the model: a CPU's view of a byte of code is the set of all values that the byte has had since the CPU
 * serialized last. A fetch may see any of them, byte by byte, in any mixture, and the next fetch may see another
 * mixture. A one-byte write needs no rule of its own: there is nothing to mix.
 *
 * What the model leaves to the patcher's disadvantage: nothing ever becomes visible by itself, and a TLB flush that a
 * kernel happens to do when it writes does not count as serializing, since some CPUs flush others' TLBs without any
 * IPI. What it assumes: a thread stays on its CPU. One that moves meets a CPU that has serialized in its scheduler.
 */

/** For each patched byte the values that a fetch may see, ascending. */
export type View = readonly (readonly number[])[];

/** The view of a CPU that has serialized just now. */
export const freshView = (code: Uint8Array): View => [...code].map((byte) => [byte]);

/** The view after a write of `bytes` at index `at`, by whomever. */
export function viewAfterWrite(view: View, at: number, bytes: Uint8Array): View {
  return view.map((values, i) => {
    const byte = bytes[i - at];
    if (byte === undefined || values.includes(byte)) return values;
    return [...values, byte].sort((a, b) => a - b);
  });
}

export const viewKey = (view: View): string => view.map((values) => values.join(".")).join(" ");

/** What can be fetched at a place: each of the versions that are whole, or a mixture that is none of them. */
export interface Fetch {
  readonly whole: readonly Uint8Array[];
  /** Bytes of a mixture that can be seen and is no version, if there is one. */
  readonly torn: Uint8Array | null;
}

const INT3 = 0xcc;

/**
 * What a fetch of one instruction at index `at` of a view can see.
 * @param versions the instructions that may be met there, each complete; int3 always is one, whatever follows it
 */
export function fetchFrom(view: View, at: number, versions: readonly Uint8Array[]): Fetch {
  const whole: Uint8Array[] = [];
  let torn: Uint8Array | null = null;
  for (const first of view[at]!) {
    if (first === INT3) {
      whole.push(Uint8Array.of(INT3));
      continue;
    }
    const candidates = versions.filter((version) => version[0] === first);
    whole.push(...candidates.filter((version) => canSee(view, at, version)));
    torn ??= mixture(view, at, first, candidates);
  }
  return { whole, torn };
}

const canSee = (view: View, at: number, version: Uint8Array): boolean =>
  version.every((byte, i) => view[at + i]?.includes(byte) ?? false);

/** Bytes that begin with `first`, can be seen, and are none of the versions. */
function mixture(view: View, at: number, first: number, versions: readonly Uint8Array[]): Uint8Array | null {
  const length = Math.min(Math.max(1, ...versions.map((v) => v.length)), view.length - at);
  // Depth first: a prefix that no version has is torn whatever follows it.
  const bytes = [first];
  const search = (fitting: readonly Uint8Array[]): Uint8Array | null => {
    if (fitting.some((version) => version.length === bytes.length)) return null;
    if (fitting.length === 0 || bytes.length === length) return Uint8Array.from(padded(bytes, view, at));
    for (const byte of view[at + bytes.length]!) {
      bytes.push(byte);
      const found = search(fitting.filter((version) => version[bytes.length - 1] === byte));
      bytes.pop();
      if (found !== null) return found;
    }
    return null;
  };
  return search(versions);
}

/** Some bytes after a torn beginning, as they may be seen, so that people can read what would run. */
function padded(bytes: readonly number[], view: View, at: number): number[] {
  const rest = view.slice(at + bytes.length).map((values) => values[values.length - 1]!);
  return [...bytes, ...rest];
}
