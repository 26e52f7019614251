/**
 * Text for people: columns, colours, and names from files made harmless.
 *
 * Names in a binary may be anything. On a terminal an escape sequence in one could rewrite the screen, so control
 * characters are shown as \xNN. JSON documents keep them: JSON has its own escapes.
 */
import { styleText } from "node:util";

export interface Style {
  readonly heading: (text: string) => string;
  readonly good: (text: string) => string;
  readonly warning: (text: string) => string;
  readonly quiet: (text: string) => string;
}

/** A style with colours, or one that leaves text alone. */
export function makeStyle(colours: boolean): Style {
  const as =
    (format: Parameters<typeof styleText>[0]) =>
    (text: string): string =>
      colours ? styleText(format, text) : text;
  return { heading: as("bold"), good: as("green"), warning: as("yellow"), quiet: as("dim") };
}

/** The text with control characters written as \xNN, so that it stays on its line and in its terminal. */
export const printable = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  text.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (c) => {
    const code = c.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });

/** Lines with aligned columns, two blanks between them, no blanks at the end. */
export function columns(rows: readonly (readonly string[])[], indent = ""): string[] {
  const widths: number[] = [];
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return rows.map((row) => (indent + row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")).trimEnd());
}

/** "1 probe", "2 probes". */
export const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`;

/** One JSON document as it is printed: indented, for people read it too, with a line end. */
export const document = (value: object): string => `${JSON.stringify(value, null, 2)}\n`;
