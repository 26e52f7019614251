/**
 * The questions that every tactic asks before it proposes: may these bytes get new content, and may this instruction
 * run elsewhere? Each answer is undefined for yes, or the reason for no.
 */
import { hex, PAGE_SIZE, type Vaddr, vaddr } from "../../address.js";
import { DWARF_RBP, rowAt } from "../../elf/cfa-rows.js";
import type { CallSite } from "../../elf/lsda.js";
import { describeEntry } from "../../facts/entries.js";
import { knows } from "../../facts/knowledge.js";
import type { ProgramFacts } from "../../facts/program.js";
import { looksAtReturnAddress } from "../../facts/return-address.js";
import type { ProbeForm } from "../../usdt/forms.js";
import { addressOf, type DecodedCode, decode, Flow, indexOf, instructionBytes, lengthOf } from "../../x86/decode.js";
import type { InstructionTraits } from "../../x86/relocate.js";
import type { SiteContext } from "../proposal.js";
import { type Refusal, refuse } from "../refusal.js";
import { encodeExceptionTable } from "../unwind/exceptions.js";

/** Nothing enters [start, end) but at its start, and nothing patches it. */
export function windowObstacle(context: SiteContext, start: Vaddr, end: Vaddr): Refusal | undefined {
  const { facts } = context;
  const reach = reachObstacle(facts, start, end);
  if (reach !== undefined) return reach;
  const unknown = facts.unknown(start, end);
  if (unknown !== undefined) return refuse("unknown-entries", unknown, start);
  const entry = facts.entries.within(start + 1, end)[0];
  if (entry !== undefined)
    return refuse("entered", `${describeEntry(entry)}, inside the bytes that are needed`, entry.address);
  return askewObstacle(context, start) ?? frozenObstacle(facts, start, end);
}

/** Instructions have so many bytes at most. */
const LONGEST = 15;

/** Who enters an instruction in front of the bytes in its middle runs another one, which may take some of them. */
export function askewObstacle({ facts, code }: SiteContext, start: Vaddr): Refusal | undefined {
  if (start > code.end) return undefined;
  for (const entry of facts.entries.within(vaddr(Math.max(code.start, start - LONGEST + 1)), start)) {
    if (!entry.isCertain || indexOf(code, entry.address) >= 0) continue;
    const from = entry.address - code.start;
    const askew = decode(code.bytes.subarray(from, from + 2 * LONGEST), entry.address);
    const next = Array.from({ length: askew.count }, (_, i) => entry.address + askew.offsets[i]!).find(
      (at) => at >= start,
    );
    if (next !== start)
      return refuse(
        "entered",
        `${describeEntry(entry)}, and what runs from there takes bytes that are needed`,
        entry.address,
      );
  }
  return undefined;
}

/** No entry says something only where entries have been looked for. */
export function reachObstacle(facts: ProgramFacts, start: Vaddr, end: Vaddr): Refusal | undefined {
  return facts.covers(start, end)
    ? undefined
    : refuse("out-of-sight", "bytes that are needed are too far from the probe", start);
}

/** Nothing patches the bytes in [start, end), and nothing counts on where they are. */
export function frozenObstacle(facts: ProgramFacts, start: Vaddr, end: Vaddr): Refusal | undefined {
  const frozen = facts.entries.frozenWithin(start, end);
  return frozen && refuse("patched", `the bytes at ${hex(frozen.start)} cannot change: ${frozen.reason}`, frozen.start);
}

/** Nobody leaves so many bytes free around a nop as both forms and the question between them take. */
export const UNIVERSAL_IN_PLACE = refuse("no-room", "a universal probe has no room where it stands");

const LINE_SIZE = 16;

/** What the kernel patches would lie in two pages: it does not optimize such a probe. */
export const crossesPage = (location: Vaddr, form: ProbeForm): boolean => crosses(location, form, PAGE_SIZE);

/** What the kernel patches would lie in two 16-byte lines: allowed, but slower to fetch. */
export const crossesLine = (location: Vaddr, form: ProbeForm): boolean => crosses(location, form, LINE_SIZE);

function crosses(location: Vaddr, { patched }: ProbeForm, unit: number): boolean {
  return ((location + patched.offset) % unit) + patched.size > unit;
}

/**
 * Why a guard cannot stand where the probe is: between its two `lea` the unwind rule of the place must still hold, and
 * it does only where it goes by rbp.
 */
export function guardObstacle({ facts, range, site }: SiteContext): Refusal | undefined {
  const rows = facts.functions.cfaRows(range);
  if (rows === undefined) return undefined;
  const row = rowAt(rows, site);
  if (row >= 0 && rows.registers[row] === DWARF_RBP) return undefined;
  return refuse(
    "unwind-rule",
    "a red-zone guard changes rsp, by which the unwind information finds the caller here",
    site,
  );
}

/**
 * Why an instruction cannot run at another address, or its traits where it can.
 * @param calls whether calls may move, as far as the context allows it
 */
export function movable(context: SiteContext, index: number, calls = false): InstructionTraits | Refusal {
  const { code } = context;
  const at = addressOf(code, index);
  const traits = context.tables.traits(code, index);
  const flow = code.flow[index]!;
  if (flow & Flow.Call) {
    if (!context.unwindable)
      return refuse("call", `the call at ${hex(at)} would have to move: its return address could not be unwound`, at);
    const obstacle = calls ? callObstacle(context, index) : undefined;
    if (obstacle !== undefined) return refuse("call", `the call at ${hex(at)} would have to move: ${obstacle}`, at);
    return calls ? traits : refuse("call", `the call at ${hex(at)} would have to move`, at);
  }
  if (flow & Flow.Trap)
    return refuse(
      "fixed-instruction",
      `${traits.text} at ${hex(at)} would have to move: the kernel sees its address`,
      at,
    );
  if (flow & Flow.Transaction)
    return refuse("fixed-instruction", `${traits.text} at ${hex(at)} would have to move`, at);
  if (flow & Flow.Landing) return refuse("fixed-instruction", `endbr64 at ${hex(at)} has to stay where it is`, at);
  if (traits.mayTrap) {
    const obstacle = trapObstacle(context, at, code.start + code.offsets[index + 1]!);
    if (obstacle !== undefined)
      return refuse("may-fault", `${traits.text} at ${hex(at)} would have to move: ${obstacle}`, at);
  }
  return traits;
}

/**
 * Why a call cannot run at another address: its callee does something with the return address but return to it.
 *
 * Of functions of other files, and of pointers to functions, that cannot be told.
 */
function callObstacle(context: SiteContext, index: number): string | undefined {
  const { code, facts } = context;
  const bytes = instructionBytes(code, index);
  const target = code.targets[index]!;
  const opcode = bytes[bytes[0]! >> 4 === 4 ? 1 : 0]!;
  if (opcode !== 0xe8 && opcode !== 0xff) return "it has a prefix";
  if (target > code.start && target < code.end)
    return "it calls into its own function, which may be after its return address";
  if (Number.isNaN(target)) return "its callee is not known, and may look at its return address";
  const looks = knows("return addresses")
    ? looksAtReturnAddress(facts.functions, facts.computed, vaddr(target))
    : undefined;
  if (looks !== undefined) return looks;
  // __morestack of split stacks goes on after the ret that follows its call.
  if (index + 1 < code.count && code.flow[index + 1]! & Flow.Return) return "a ret follows, to which it may not return";
  return exceptionObstacle(context, index);
}

/** Why an exception that comes out of a call could not be handled as it was if the call stood elsewhere. */
function exceptionObstacle({ code, range, facts, tables }: SiteContext, index: number): string | undefined {
  const { functions, image } = facts;
  const fde = functions.fde(range);
  if (fde === undefined) return "its function has no unwind information";
  if (fde.lsda === undefined) return undefined;
  const obstacle = tables.frames.personalityObstacle(
    functions.ehFrame.record(functions.ehFrame.indexAt(fde.start)).cie,
  );
  if (obstacle !== undefined) return obstacle;
  // As a trial, anywhere: what is asked is whether there can be a table.
  const origin = addressOf(code, index);
  const length = lengthOf(code, index);
  const stretch = { start: code.end, end: vaddr(code.end + length), origin, lower: 0, lastByte: length - 1 };
  const table = encodeExceptionTable(image, fde.start, fde.lsda, [stretch], code.end);
  return typeof table === "string" ? table : undefined;
}

/** The call-site records of the function part around a site. */
export function callSites({ facts, range, tables }: SiteContext): readonly CallSite[] {
  const fde = facts.functions.fde(range);
  return fde === undefined ? [] : tables.frames.callSites(fde);
}

/**
 * An instruction that may trap counts as a call where its exception could be caught: it lies in a range with a landing
 * pad, or the function's table was visibly built for non-call exceptions (a record that covers no call).
 */
function trapObstacle(context: SiteContext, start: number, end: number): string | undefined {
  const { entries } = context.facts;
  if (knows("faulting addresses"))
    for (const entry of [...entries.within(start, start + 1), ...entries.within(end, end + 1)])
      if (entry.isNamed) return `it may fault, and its address may be known to a handler: ${describeEntry(entry)}`;
  const sites = callSites(context);
  if (sites.some((s) => s.landingPad !== undefined && s.start < end && s.end > start))
    return "it may trap, in a range with a landing pad";
  if (sites.some((s) => !hasCall(context.code, s))) return "it may trap, and the function handles non-call exceptions";
  return undefined;
}

function hasCall(code: DecodedCode, { start, end }: CallSite): boolean {
  for (let i = 0; i < code.count; i++) {
    const at = addressOf(code, i);
    if (at >= end) return false;
    if (at >= start && code.flow[i]! & Flow.Call) return true;
  }
  return false;
}

/**
 * How many bytes of padding begin where instruction `index` would (it may be the end of the code): nops and int3 that
 * nothing enters and that are no probe, in whole instructions: just enough for `need`, or fewer where there are not as
 * many.
 */
export function paddingRoom(context: SiteContext, index: number, need: number): number {
  const { code, facts } = context;
  let room = 0;
  for (let i = index; room < need; i++) {
    if (i === code.count) return room + facts.paddingBehind(code.end, need - room);
    const at = addressOf(code, i);
    const isPadding = code.flow[i]! & Flow.Nop || instructionBytes(code, i)[0] === 0xcc;
    if (!isPadding || context.isSite(at) || facts.entries.has(at)) return room;
    room += lengthOf(code, i);
  }
  return room;
}
