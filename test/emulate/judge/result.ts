/** What came of the cases of one form. */
import type { Form } from "./forms.js";

export interface FormResult {
  readonly form: Form;
  /** Kinds of operands that occurred, with how often. */
  readonly shapes: Map<string, number>;
  cases: number;
  /** Cases that ended in a fault, on the processor. */
  faults: number;
  /** Cases of which the emulator says that it cannot run them. */
  unimplemented: number;
  /** What it says of one of them. */
  example: string | undefined;
  differences: number;
  /** Cases that differ in nothing but what the instruction leaves undefined. */
  excused: number;
  /** The first few of them, in full. */
  readonly reports: string[];
  /** Cases of which no encoding was found. */
  unencodable: number;
}
