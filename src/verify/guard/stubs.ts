/**
 * The code that the loader calls when it has loaded the file, and before it unloads it: run in the emulator, as the
 * loader calls it.
 *
 *     at the start   __register_atfork(prepare, parent, child, handle), once, or what dlsym finds under that name, where it
 *                    finds it; the first two may be NULL
 *     at the end     __cxa_finalize(handle), once
 *
 * Then it goes on to what the loader would have called, or returns, with everything as a called function leaves it, and
 * the initialiser's arguments as they were. The handle is an address that nothing else of the process can have for one.
 */
import { isDeepStrictEqual } from "node:util";
import { hex } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { offsetOf } from "../../elf/image.js";
import { isImport } from "../../elf/symbols.js";
import { stateOf } from "../../emulate/machine-states.js";
import { Gpr, Rflags, STATE_WORDS } from "../../emulate/state.js";
import { countOf, isBoundEarly, type LoaderView, nameOf, relocationAt } from "../loader-view.js";
import { guardImports, wrappable } from "./imports.js";
import type { Word } from "./loader-rules.js";
import type { Machine } from "./machine.js";

/** A function that the loader calls, and what it called in its place before; undefined where that was nothing. */
export interface Hook {
  readonly start: number;
  readonly next: number | undefined;
}

/** Link-time addresses of handlers; before a fork and after it in the parent there may be none. */
export interface Handlers {
  readonly prepare: number | undefined;
  readonly parent: number | undefined;
  readonly child: number;
}

export interface Registered extends Handlers {
  readonly handle: number;
}

const ENDBR64 = Buffer.of(0xf3, 0x0f, 0x1e, 0xfa);
const STATES = 6;
const LIMIT = 200;
const KEPT = [Gpr.RBX, Gpr.RBP, Gpr.R12, Gpr.R13, Gpr.R14, Gpr.R15];
const ARGUMENTS = [Gpr.RDI, Gpr.RSI, Gpr.RDX];
const names = new Map(Object.entries(Gpr).map(([name, number]) => [number as number, name.toLowerCase()]));

/** Whether a function can be called by its address where the processor looks for that. */
export function beginsAsTarget({ image }: Machine, start: number): boolean {
  const offset = offsetOf(image, start as never);
  return offset !== undefined && image.bytes.subarray(offset, offset + 4).equals(ENDBR64);
}

/**
 * The words that the loader fills with the functions that stubs call: the guard's own, and the original's for functions
 * that it imports as well. A word of the PLT counts only where it is filled before any code runs.
 */
export function fillWords(machine: Machine, view: LoaderView, words: readonly Word[]): ReadonlySet<number> {
  const filled = new Set<number>();
  const fill = (at: number, value: number): void => {
    machine.fill(at, value);
    filled.add(at);
  };
  for (const name of ["relocations", "pltRelocations"] as const) {
    const table = view.tables.get(name);
    for (let i = 0; i < countOf(table, elf.RELA_SIZE); i++) {
      const type = table!.bytes.readUInt32LE(i * elf.RELA_SIZE + 8);
      if (type !== elf.R_X86_64_GLOB_DAT && !(type === elf.R_X86_64_JUMP_SLOT && isBoundEarly(view))) continue;
      const { place, symbol, addend } = relocationAt(table!, i);
      const function_ = nameOf(view, symbol);
      if (addend === 0n && function_ !== undefined && isCalled(function_) && isElsewhere(view, symbol))
        fill(place, machine.functionElsewhere(function_));
    }
  }
  for (const { at, holds } of words) if (typeof holds === "number") fill(at, holds + machine.bias);
  return filled;
}

const isCalled = (name: string): boolean => guardImports.has(name) || wrappable.has(name);

const isElsewhere = ({ tables }: LoaderView, symbol: number): boolean =>
  isImport(tables.get("symbols")!.bytes, symbol * elf.SYM_SIZE);

interface Call {
  readonly name: string;
  readonly args: readonly number[];
}

/**
 * One run of a stub: what it called, or what is wrong.
 * @param found what dlsym answers: whether there is the function
 * @param isInit whether it is given the arguments of an initialiser, to be handed on
 */
function runStub(
  machine: Machine,
  { start, next }: Hook,
  filled: ReadonlySet<number>,
  turn: number,
  found: boolean,
  isInit: boolean,
): readonly Call[] | string {
  const { cpu, bias } = machine;
  const words = stateOf(7001 + turn, []).words;
  // The ABI: rsp is a multiple of 16 before the call.
  machine.call(start, words, 16 * (turn % 3), (at, size) => size === 8 && filled.has(at));
  const before = cpu.w.slice(0, STATE_WORDS);
  const calls: Call[] = [];
  for (;;) {
    const end = machine.run(LIMIT);
    if (machine.problems.length > 0) return machine.problems[0]!;
    if (end.kind !== "left") return `it ends with "${end.kind}${end.detail && `: ${end.detail}`}"`;
    const name = machine.nameElsewhere(cpu.ip);
    if (name === undefined) break;
    const args = [Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.RCX].map((register) => Number(cpu.gpr(register)));
    if (calls.length === 3) return "it makes more than three calls";
    if ((cpu.gpr(Gpr.RSP) + 8n) % 16n !== 0n) return `rsp is no multiple of 16 where it calls ${name}`;
    if (name === "dlsym") {
      const wanted = machine.text(args[1]!);
      calls.push({ name: `dlsym "${wanted}"`, args });
      machine.returnFrom(found ? machine.functionElsewhere(`${wanted}, found`) : 0);
    } else {
      calls.push({ name, args });
      machine.returnFrom(0);
    }
  }
  const isRight = next === undefined ? machine.hasReturned : cpu.ip === next + bias && machine.rspIs(0);
  if (!isRight)
    return `it goes on at ${hex(machine.ip)}, not ${next === undefined ? "back to the loader" : `at ${hex(next)}`}`;
  if (!machine.callersStackIsWhole) return "it changes the stack of its caller";
  if ((cpu.rflags & Rflags.DF) !== 0) return "it leaves the direction flag set";
  for (const register of [...KEPT, ...(isInit && next !== undefined ? ARGUMENTS : [])])
    if (cpu.w[2 * register] !== before[2 * register] || cpu.w[2 * register + 1] !== before[2 * register + 1])
      return `${names.get(register)} is not what it was`;
  return calls;
}

/** What the initialiser registers, or what is wrong with it. */
export function judgeInit(machine: Machine, hook: Hook, filled: ReadonlySet<number>): Registered | string {
  if (!beginsAsTarget(machine, hook.start)) return "it does not begin with endbr64";
  let registered: Registered | undefined;
  for (let turn = 0; turn < STATES; turn++) {
    // dlsym may find nothing: a C library without child handlers.
    const found = turn % 3 !== 2;
    const calls = runStub(machine, hook, filled, turn, found, true);
    if (typeof calls === "string") return calls;
    const [first, second, ...more] = calls;
    const isLookUp = first?.name === 'dlsym "__register_atfork"' && first.args[0] === 0;
    if (isLookUp && !found) {
      if (second !== undefined) return "it calls what dlsym has not found";
      continue;
    }
    const call = isLookUp ? second : first;
    const rest = isLookUp ? more : calls.slice(1);
    const isRegistration = call?.name === (isLookUp ? "__register_atfork, found" : "__register_atfork");
    if (call === undefined || !isRegistration || rest.length > 0)
      return `it does not register a child handler once: it calls ${calls.map((c) => c.name).join(", ") || "nothing"}`;
    const [prepare, parent, child, handle] = call.args as [number, number, number, number];
    const at = (handler: number): number | undefined => (handler === 0 ? undefined : handler - machine.bias);
    if ((prepare === 0) !== (parent === 0)) return "it registers a handler on one side of a fork alone";
    const now: Registered = {
      prepare: at(prepare),
      parent: at(parent),
      child: child - machine.bias,
      handle: handle - machine.bias,
    };
    if (registered !== undefined && !isDeepStrictEqual(registered, now))
      return "it does not register the same in every run";
    registered = now;
  }
  return registered ?? "it registers nothing";
}

/** What is wrong with the finaliser, or undefined. */
export function judgeFini(
  machine: Machine,
  hook: Hook,
  filled: ReadonlySet<number>,
  { handle }: Registered,
): string | undefined {
  if (!beginsAsTarget(machine, hook.start)) return "it does not begin with endbr64";
  for (let turn = 0; turn < STATES; turn++) {
    const calls = runStub(machine, hook, filled, turn, true, false);
    if (typeof calls === "string") return calls;
    if (calls.length !== 1 || calls[0]!.name !== "__cxa_finalize")
      return `it does not take its handlers out once: it calls ${calls.map((c) => c.name).join(", ") || "nothing"}`;
    if (calls[0]!.args[0] !== handle + machine.bias) return "it takes out the handlers of another";
  }
  return undefined;
}
