/**
 * `node sample/show.js BEFORE AFTER PROVIDER:NAME`: the instructions around one probe before and after rewriting.
 */
import { readFileSync } from "node:fs";
import { parseElf } from "../dist/elf/image.js";
import { functionAt } from "../dist/elf/symbols.js";
import { readUsdtNotes } from "../dist/usdt/notes.js";
import { codeFrom } from "../dist/usdt/sites.js";
import { iced } from "../dist/x86/iced.js";

const [before, after, probe] = process.argv.slice(2);

/** `count` instructions from a link-time address on, as lines of text. */
function disassembly(image, address, count, mark) {
  const decoder = new iced.Decoder(64, codeFrom(image, address), iced.DecoderOptions.None);
  decoder.ip = BigInt(address);
  const formatter = new iced.Formatter(iced.FormatterSyntax.Gas);
  const lines = [];
  for (let i = 0, at = address; i < count; i++) {
    const instruction = decoder.decode();
    const bytes = codeFrom(image, address).subarray(at - address, at - address + instruction.length);
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = formatter.format(instruction);
    lines.push(`  ${at.toString(16).padStart(8)}:  ${hex.padEnd(24)}${text}${at === mark ? "   <- probe" : ""}`);
    const ends = instruction.flowControl !== iced.FlowControl.Next;
    at += instruction.length;
    instruction.free();
    if (ends) break;
  }
  return lines.join("\n");
}

const load = (path) => {
  const image = parseElf(readFileSync(path));
  const note = readUsdtNotes(image).find((n) => `${n.provider}:${n.name}` === probe);
  if (note === undefined) throw new Error(`${path} has no probe ${probe}`);
  return { image, location: note.location };
};

const old = load(before);
const now = load(after);
const name = (image, address) => functionAt(image, address) ?? "?";
console.log(`\nBefore: ${probe} in ${name(old.image, old.location)}, ${before}`);
console.log(disassembly(old.image, old.location, 3, old.location));
console.log(`\nAfter: the same place in ${after}`);
console.log(disassembly(now.image, old.location, 1, now.location));
if (now.location !== old.location) {
  console.log(`\nAfter: the probe, in new code, ${name(now.image, now.location)}`);
  console.log(disassembly(now.image, now.location, 4, now.location));
}
