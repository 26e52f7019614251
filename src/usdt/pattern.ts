/** Patterns that select probes on the command line: PROVIDER:NAME, with * for any run of characters. */
import { InputError } from "../errors.js";

/** A pattern, ready to be asked. */
export interface ProbePattern {
  readonly text: string;
  matches(probe: { readonly provider: string; readonly name: string }): boolean;
}

/**
 * Reads a pattern such as `hotspot:gc__*` or `*:begin`.
 * @throws InputError where it is not PROVIDER:NAME
 */
export function parsePattern(text: string): ProbePattern {
  const parts = text.split(":");
  const [provider, name] = parts;
  if (parts.length !== 2 || !provider || !name || /\s/.test(text))
    throw new InputError(`"${text}" is not PROVIDER:NAME (with * as wildcard)`);
  const matchesProvider = wildcard(provider);
  const matchesName = wildcard(name);
  return { text, matches: (probe) => matchesProvider(probe.provider) && matchesName(probe.name) };
}

/** Pieces between the stars must occur in order: no regular expression, which many stars could make slow. */
function wildcard(glob: string): (text: string) => boolean {
  const pieces = glob.split("*");
  if (pieces.length === 1) return (text) => text === glob;
  const first = pieces[0]!;
  const last = pieces[pieces.length - 1]!;
  return (text) => {
    if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
    const end = text.length - last.length;
    let at = first.length;
    for (const piece of pieces.slice(1, -1)) {
      const found = text.indexOf(piece, at);
      if (found < 0 || found + piece.length > end) return false;
      at = found + piece.length;
    }
    return true;
  };
}
