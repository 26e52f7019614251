/** Errors in tables of the unwinder name the section that they are in. */
import { expect, it } from "vitest";
import { EhCursor } from "../../src/elf/eh-cursor.js";
import type { Section } from "../../src/elf/image.js";

it.each([".eh_frame", ".gcc_except_table"])("a record that is cut short, in %s", (name) => {
  const section = { name } as Section;
  const cursor = new EhCursor(new DataView(new ArrayBuffer(8)), section, 5, 8);
  expect(() => cursor.u32()).toThrow(`damaged ${name}: a record is cut short`);
});
