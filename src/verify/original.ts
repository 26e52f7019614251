/**
 * The original that a rewritten file is held against: the one it carries, or the one that the user has.
 *
 * The revert section says how to make the original from the rewritten file. It has a digest of its own, so damage to it
 * is told from damage elsewhere; and it says where it stands and how long the file is, so that a file that another tool
 * laid out anew is told from one in which bytes changed. In the latter the recipe may still lead to the original, where
 * the bytes that changed are those that rewriting had replaced. Where it does not, a byte changed that rewriting had
 * left alone: that is an answer, not an error.
 */
import { type ElfImage, parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { type Carry, readCarry, restore } from "../rewritten/carry.js";
import { digestOf } from "../rewritten/content-digest.js";
import { type FileBytes, isContent, wholeFile } from "../sparse-content.js";
import type { FileFinding } from "./contract.js";

export interface Original {
  /** Undefined where what the recipe leads to is no program at all. */
  readonly image: ElfImage | undefined;
  readonly findings: readonly FileFinding[];
  /** Whether the rewritten file has the layout that rewrite gave it. */
  readonly asLaidOut: boolean;
}

/**
 * The original that a rewritten file carries.
 * @throws InputError where the file was not rewritten, what it carries is damaged, or another tool laid it out anew
 */
export function carriedOriginal(rewritten: ElfImage): Original {
  const carry = carryOf(rewritten);
  if (!carry.inPlace)
    throw new InputError("changed since it was rewritten (by strip, for example): give the original with --original");
  const restored = restore(rewritten, carry);
  if (restored.isOriginal) return { image: parseElf(restored.bytes, restored), findings: [], asLaidOut: true };
  const findings = [
    {
      where: "somewhere outside of what rewriting changed",
      what: "bytes differ: the file no longer leads to its original; --original shows where",
    },
  ];
  return { image: parsedOrUndefined(restored), findings, asLaidOut: true };
}

/**
 * The original as the user has it.
 * @throws InputError where the file was not rewritten, what it carries is damaged, or this is not its original
 */
export function givenOriginal(rewritten: ElfImage, original: FileBytes): Original {
  if (isContent(wholeFile(original), rewritten))
    throw new InputError("not a rewritten file: it is the same as the original, byte for byte");
  const carry = carryOf(rewritten);
  if (!digestOf(original.bytes, original.holes, original.zeroTail).equals(carry.originalHash))
    throw new InputError("the original does not belong to this file: it was made from another one");
  return { image: parseElf(original.bytes, original), findings: [], asLaidOut: carry.inPlace };
}

function carryOf(rewritten: ElfImage): Carry {
  const carry = readCarry(rewritten);
  if (carry === undefined)
    throw new InputError("not a rewritten file, or stripped of its section .usdt_nop5: it carries no original");
  return carry;
}

function parsedOrUndefined(file: FileBytes): ElfImage | undefined {
  try {
    return parseElf(file.bytes, file);
  } catch (error) {
    if (error instanceof InputError) return undefined;
    throw error;
  }
}
