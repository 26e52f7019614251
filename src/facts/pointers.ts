/**
 * Addresses that the program hands out: relocations, symbols, entry points, landing pads, and the tables of things that
 * patch code or restart it (patchable function entries, XRay, mcount, restartable sequences).
 */
import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { forEachRelocation, readDynamicTags } from "../elf/dynamic.js";
import { type ElfImage, offsetOf, read64, type Section, sectionBytes } from "../elf/image.js";
import { readCallSites } from "../elf/lsda.js";
import { dynsym, forEachSymbol, symtab } from "../elf/symbols.js";
import { decode, Flow } from "../x86/decode.js";
import type { Entries } from "./entries.js";
import type { FunctionIndex } from "./functions.js";
import { knows } from "./knowledge.js";
import type { Neighbourhoods } from "./neighbourhoods.js";

const XRAY_SLED_SIZE = 12;
const MCOUNT_CALL_SIZE = 5;

/** Sections whose words name code that something patches or restarts while the program runs. */
type PatchKind = "patchable" | "xray" | "mcount" | "rseq";
const patchTables: Readonly<Record<string, PatchKind>> = {
  __patchable_function_entries: "patchable",
  xray_instr_map: "xray",
  __mcount_loc: "mcount",
  __rseq_cs: "rseq",
  __rseq_table: "rseq",
};

/** @throws InputError where a table that has to be read is damaged */
export function addPointers(image: ElfImage, functions: FunctionIndex, near: Neighbourhoods, entries: Entries): void {
  const tables = image.sections
    .map((section) => ({ section, kind: patchTables[section.name] }))
    .filter((t): t is { section: Section; kind: PatchKind } => t.kind !== undefined && t.section.sh_size > 0);
  const relocatedSlots = addRelocations(
    image,
    near,
    entries,
    tables.map((t) => t.section),
  );
  if (knows("symbols")) addSymbols(image, near, entries);
  if (knows("entry points")) addEntryPoints(image, near, entries);
  if (knows("landing pads")) addLandingPads(image, functions, near, entries);
  if (knows("patch tables"))
    for (const { section, kind } of tables) addPatchTable(image, section, kind, relocatedSlots, near, entries);
}

/** @returns what relocations put into the slots of the given sections, by the slot's address */
function addRelocations(
  image: ElfImage,
  near: Neighbourhoods,
  entries: Entries,
  keep: readonly Section[],
): ReadonlyMap<number, number> {
  const slots = new Map<number, number>();
  forEachRelocation(image, (place, value, type) => {
    if (near.contains(value) && knows("relocations")) entries.add(vaddr(value), "a pointer that is relocated at start");
    if (near.contains(place) || near.contains(place + 7))
      entries.freeze({
        start: place,
        end: vaddr(place + 8),
        reason: `a relocation (type ${type}) patches them at start`,
      });
    if (keep.length > 0 && keep.some((s) => place >= s.sh_addr && place < s.sh_addr + s.sh_size))
      slots.set(place, value);
  });
  return slots;
}

function addSymbols(image: ElfImage, near: Neighbourhoods, entries: Entries): void {
  for (const table of [symtab(image), dynsym(image)]) {
    if (table === null) continue;
    forEachSymbol(table, (value, _size, info, shndx) => {
      if (!near.contains(value) || shndx === elf.SHN_UNDEF) return;
      const type = info & 0xf;
      if (type === elf.STT_TLS || type === elf.STT_FILE || type === elf.STT_SECTION) return;
      entries.add(vaddr(value), "a symbol", undefined, undefined, false);
    });
  }
}

function addEntryPoints(image: ElfImage, near: Neighbourhoods, entries: Entries): void {
  if (near.contains(image.header.e_entry)) entries.add(image.header.e_entry, "the program's entry point");
  for (const { d_tag, d_val } of readDynamicTags(image))
    if ((d_tag === elf.DT_INIT || d_tag === elf.DT_FINI) && near.contains(d_val))
      entries.add(vaddr(d_val), "the dynamic section (DT_INIT, DT_FINI)");
}

function addLandingPads(image: ElfImage, functions: FunctionIndex, near: Neighbourhoods, entries: Entries): void {
  const { ehFrame } = functions;
  if (!ehFrame.hasLsda) return;
  for (let i = 0; i < ehFrame.count; i++) {
    const fde = ehFrame.fde(i);
    if (fde.lsda === undefined) continue;
    for (const { landingPad } of readCallSites(image, fde))
      if (landingPad !== undefined && near.contains(landingPad)) entries.add(landingPad, "an exception's landing pad");
  }
}

function addPatchTable(
  image: ElfImage,
  section: Section,
  kind: PatchKind,
  relocated: ReadonlyMap<number, number>,
  near: Neighbourhoods,
  entries: Entries,
): void {
  const bytes = sectionBytes(image, section);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** What an 8-byte slot names: by its relocation, as it stands, or relative to itself (newer XRay tables). */
  const readings = (at: number): number[] => {
    const place = section.sh_addr + at;
    const stored = read64(view, at);
    const signed = view.getUint32(at, true) + view.getInt32(at + 4, true) * 2 ** 32;
    return [relocated.get(place) ?? stored, place + signed];
  };
  if (kind === "rseq") {
    // struct rseq_cs: u32 version, flags; u64 start_ip, post_commit_offset, abort_ip (include/uapi/linux/rseq.h).
    for (let at = 0; at + 32 <= bytes.length; at += 32) {
      const start = readings(at + 8)[0]!;
      const end = start + read64(view, at + 16);
      const abort = readings(at + 24)[0]!;
      const reason = "they are part of a restartable sequence (rseq)";
      entries.freeze({ start: vaddr(start), end: vaddr(end), reason });
      entries.freeze({ start: vaddr(abort - 4), end: vaddr(abort), reason });
      if (near.contains(abort)) entries.add(vaddr(abort), "the abort handler of a restartable sequence (rseq)");
    }
    return;
  }
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    for (const target of readings(at)) {
      if (!near.contains(target)) continue;
      const size =
        kind === "xray" ? XRAY_SLED_SIZE : kind === "mcount" ? MCOUNT_CALL_SIZE : nopRun(image, vaddr(target));
      entries.add(vaddr(target), `the table ${section.name}`);
      entries.freeze({
        start: vaddr(target),
        end: vaddr(target + size),
        reason: `they may be patched at run time (${section.name})`,
      });
    }
  }
}

/** How many bytes of nops stand at an address: a patchable function entry does not say how many of them are its own. */
function nopRun(image: ElfImage, address: Vaddr): number {
  const offset = offsetOf(image, address);
  if (offset === undefined) return 0;
  const code = decode(image.bytes.subarray(offset, offset + 64), address);
  let i = 0;
  while (i < code.count && (code.flow[i]! & (Flow.Nop | Flow.Landing)) !== 0) i++;
  return code.offsets[i]!;
}
