/**
 * Text for people: columns, colours, and all that comes from files made harmless.
 *
 * Names in a binary may be anything. On a terminal an escape sequence in one could rewrite the screen, a line end begin
 * a line that looks like ours, and characters that nobody sees make two names look the same or turn a line around. So
 * whoever makes text is `forPeople`, and gets what it is to tell with these written out, whatever it is and wherever it
 * came from. What is printed is looked over once more on its way out (`onTerminal`). JSON documents keep them: JSON has
 * its own escapes, which are used for all of them.
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

/** Controls, formats, what ends lines, what is no character, and what nobody sees. */
const UNSEEN = "\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}\\p{Default_Ignorable_Code_Point}";
const unseen = new RegExp(`[${UNSEEN}]`, "gu");
/** The same, but for line ends, tabs and colours of ours. */
const unseenOnTerminal = new RegExp(`([\\n\\t]|\\x1b\\[[\\d;]*m)|[${UNSEEN}]`, "gu");

function escaped(character: string): string {
  const code = character.codePointAt(0)!;
  const digits = code.toString(16);
  if (code < 0x100) return `\\x${digits.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${digits.padStart(4, "0")}` : `\\u{${digits}}`;
}

/** The text with such characters written out, so that it stays on its line and in its terminal. */
export const printable = (text: string): string => text.replace(unseen, escaped);

/** Text with line ends, tabs and colours of ours, and nothing else that a terminal would act on. */
export const onTerminal = (text: string): string =>
  text.replace(unseenOnTerminal, (found, ours?: string) => ours ?? escaped(found));

/** A function that makes text, of whatever is to be told: it gets it with all strings printable. */
export const forPeople =
  <T, R extends unknown[]>(make: (told: T, ...rest: R) => string) =>
  (told: T, ...rest: R): string =>
    make(harmless(told), ...rest);

/** A copy of plain data in which all strings are printable. */
function harmless<T>(told: T): T {
  if (typeof told === "string") return printable(told) as T;
  if (Array.isArray(told)) return told.map(harmless) as T;
  if (told === null || typeof told !== "object" || Object.getPrototypeOf(told) !== Object.prototype) return told;
  return Object.fromEntries(Object.entries(told).map(([name, value]) => [name, harmless(value)])) as T;
}

/** Lines with aligned columns, two blanks between them, no blanks at the end. */
export function columns(rows: readonly (readonly string[])[], indent = ""): string[] {
  const widths: number[] = [];
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return rows.map((row) => (indent + row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")).trimEnd());
}

/** "1 probe", "2 probes". */
export const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`;

/** One JSON document as it is printed: indented, for people read it too, with a line end. */
export const document = (value: object): string =>
  `${JSON.stringify(value, null, 2).replace(unseenOnTerminal, (found) => (found === "\n" ? found : inJson(found)))}\n`;

const inJson = (text: string): string =>
  Array.from({ length: text.length }, (_, i) => `\\u${text.charCodeAt(i).toString(16).padStart(4, "0")}`).join("");
