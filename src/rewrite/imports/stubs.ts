/**
 * The new code that is called when the file is initialised and unloaded.
 *
 *     init:  __register_atfork(prepare, parent, child, init); go on with what was called before
 *            or register = dlsym(RTLD_DEFAULT, "__register_atfork"), which is then called where there is one
 *     fini:  __cxa_finalize(init);                       go on likewise
 *
 * prepare and parent keep signals out of a child until the handler has run there (guard/held-signals.ts). Registered before
 * all others, ours is the last to be called before the fork and the first behind it.
 *
 * The handle by which the C library knows whose handlers these are is the address of `init`: nothing else of the process
 * uses that one. __cxa_finalize takes out what was registered with a handle (it is what glibc's crtbegin calls with the
 * file's __dso_handle). The file's own handle would do as well, but a stripped file does not tell where it is.
 *
 * The arguments of an initialiser (argc, argv, envp) are handed on. Both begin with endbr64, for they are called by
 * address; they leave by a direct jump or ret, which IBT and shadow stacks allow.
 */

import { alignUp, type Vaddr, vaddr } from "../../address.js";
import { type CfaRows, DWARF_RSP } from "../../elf/cfa-rows.js";
import { beforeFork, behindFork } from "../../guard/held-signals.js";
import type { SignalSlots, SiteTable } from "../../guard/signal-slots.js";
import { INT3, jump } from "../../x86/bytes.js";
import type { NamedCode } from "../new-code.js";
import type { ForkHandlers, Wrapper } from "./fork-handlers.js";

const ENDBR64 = [0xf3, 0x0f, 0x1e, 0xfa];

interface StubTargets {
  /** The word that holds the address of __register_atfork. */
  readonly register: Vaddr;
  /** Where that word holds the address of dlsym instead: the name to look up. */
  readonly lookUp: string | undefined;
  /** What to go on with behind init, if anything. */
  readonly afterInit: Vaddr | undefined;
  /** For a file that can be unloaded: the word that holds the address of __cxa_finalize, and what to go on with. */
  readonly end: { readonly finalize: Vaddr; readonly after: Vaddr | undefined } | undefined;
  /** Whether a word with the address of init is wanted: for fixed addresses, where no relocation is needed to fill it. */
  readonly constantWord: boolean;
  /** Words for signals that are held, where there is room for them. */
  readonly slots: SignalSlots | undefined;
}

/** What runs in a child: a function without arguments that keeps all registers. */
interface ChildCode {
  readonly bytes: Uint8Array;
  /** Where its table of sites stands. Undefined: nothing can be said before a fork, and no signals are held. */
  readonly sites?: SiteTable;
}

/** Makes that code for its link-time address. */
export type MakeChild = (at: Vaddr, slots: SignalSlots | undefined) => ChildCode;

export interface Stubs {
  readonly bytes: Uint8Array;
  readonly init: Vaddr;
  readonly fini: Vaddr | undefined;
  readonly word: Vaddr | undefined;
  readonly handlers: ForkHandlers;
  /** Where imports that are wrapped lead. */
  readonly wrappers: readonly Wrapper[];
  /** The stubs themselves, without the child handler. */
  readonly named: readonly NamedCode[];
}

/**
 * The stubs from link-time address `start` on, a multiple of 16, behind them more code, and behind that the child handler.
 * @param more makes the code in between for its own address and the handlers'; its length depends on none of them
 */
export function encodeStubs(
  start: Vaddr,
  targets: StubTargets,
  child: MakeChild,
  more: (at: Vaddr, handlers: ForkHandlers) => Uint8Array = () => new Uint8Array(0),
): Stubs {
  const init = start;
  const first = child(start, targets.slots);
  const { slots } = first.sites === undefined ? { slots: undefined } : targets;
  const nowhere = { prepare: slots && init, parent: slots && init, child: init };
  const initSize = initCode(init, nowhere, init, targets).length;
  const fini = behind(start, initSize);
  const finiBytes = targets.end === undefined ? [] : finiCode(fini, init, targets.end);
  const wordAt = behind(fini, finiBytes.length);
  const nameAt = vaddr(targets.constantWord ? wordAt + 8 : wordAt);
  const name = targets.lookUp === undefined ? Buffer.alloc(0) : Buffer.from(`${targets.lookUp}\0`, "latin1");
  const prepareAt = behind(nameAt, name.length);
  const parentAt = slots ? behind(prepareAt, beforeFork(prepareAt, first.sites!, slots).bytes.length) : prepareAt;
  const parent = slots && behindFork(parentAt, slots);
  const moreAt = behind(parentAt, parent?.bytes.length ?? 0);
  const childAt = behind(moreAt, more(moreAt, nowhere).length);
  const handler = child(childAt, slots);
  const prepare = slots && beforeFork(prepareAt, handler.sites!, slots);
  const handlers = { prepare: slots && prepareAt, parent: slots && parentAt, child: childAt };
  const bytes = new Uint8Array(childAt - start + handler.bytes.length).fill(INT3);
  bytes.set(initCode(init, handlers, nameAt, targets));
  bytes.set(finiBytes, fini - start);
  if (targets.constantWord) new DataView(bytes.buffer).setBigUint64(wordAt - start, BigInt(init), true);
  bytes.set(name, nameAt - start);
  const named: NamedCode[] = [
    {
      name: "usdt_nop5.init",
      start: init,
      end: vaddr(init + initSize),
      unwind: initRows(init, initSize, targets),
    },
  ];
  if (targets.end !== undefined)
    named.push({
      name: "usdt_nop5.fini",
      start: fini,
      end: vaddr(fini + finiBytes.length),
      unwind: finiRows(fini, finiBytes.length, targets.end.after),
    });
  for (const [what, at, code] of [
    ["prepare", prepareAt, prepare],
    ["parent", parentAt, parent],
  ] as const) {
    if (code === undefined) continue;
    bytes.set(code.bytes, at - start);
    named.push({ name: `usdt_nop5.${what}`, start: at, end: vaddr(at + code.bytes.length), unwind: code.unwind });
  }
  bytes.set(more(moreAt, handlers), moreAt - start);
  bytes.set(handler.bytes, childAt - start);
  return {
    bytes,
    init,
    fini: targets.end === undefined ? undefined : fini,
    word: targets.constantWord ? wordAt : undefined,
    handlers,
    wrappers: [],
    named,
  };
}

/** Rows by rsp: from `at`, the CFA is rsp + `offset`. */
const rowsByStack = (rows: readonly (readonly [at: number, offset: number])[]): CfaRows => ({
  starts: rows.map(([at]) => vaddr(at)),
  registers: rows.map(() => DWARF_RSP),
  offsets: rows.map(([, offset]) => offset),
});

/** endbr64, three pushes of a byte each; at the end three pops, and the way out. */
function initRows(init: Vaddr, size: number, { afterInit }: StubTargets): CfaRows {
  const out = init + size - wayOutSize(afterInit);
  return rowsByStack([
    [init, 8],
    [init + 5, 16],
    [init + 6, 24],
    [init + 7, 32],
    [out - 2, 24],
    [out - 1, 16],
    [out, 8],
  ]);
}

/** endbr64; sub rsp, 8 (4 bytes); add rsp, 8; and the way out. */
function finiRows(fini: Vaddr, size: number, after: Vaddr | undefined): CfaRows {
  return rowsByStack([
    [fini, 8],
    [fini + 8, 16],
    [fini + size - wayOutSize(after), 8],
  ]);
}

/** A jump, or ret. */
const wayOutSize = (next: Vaddr | undefined): number => (next === undefined ? 1 : 5);

/** Where the next piece begins. */
const behind = (start: Vaddr, length: number): Vaddr => vaddr(alignUp(start + length, 16));

function initCode(
  at: Vaddr,
  handlers: ForkHandlers,
  name: Vaddr,
  { register, lookUp, afterInit }: StubTargets,
): number[] {
  const code = [...ENDBR64, 0x57, 0x56, 0x52]; // push rdi; push rsi; push rdx
  if (lookUp !== undefined) {
    code.push(0x31, 0xff); // xor edi, edi
    ripRelative(code, at, [0x48, 0x8d, 0x35], name); // lea rsi, [name]
    ripRelative(code, at, [0xff, 0x15], register); // call [dlsym]
    const size = argumentsCode(at, at, handlers).length;
    code.push(0x48, 0x85, 0xc0, 0x74, size + 2); // test rax, rax; je behind the call
  }
  code.push(...argumentsCode(vaddr(at + code.length), at, handlers));
  if (lookUp === undefined)
    ripRelative(code, at, [0xff, 0x15], register); // call [register]
  else code.push(0xff, 0xd0); // call rax
  code.push(0x5a, 0x5e, 0x5f); // pop rdx; pop rsi; pop rdi
  return goOn(code, at, afterInit);
}

/** Loads the arguments of __register_atfork. */
function argumentsCode(from: Vaddr, init: Vaddr, { prepare, parent, child }: ForkHandlers): number[] {
  const code: number[] = [];
  ripRelative(code, from, [0x48, 0x8d, 0x0d], init); // lea rcx, [init]
  ripRelative(code, from, [0x48, 0x8d, 0x15], child); // lea rdx, [child]
  if (parent === undefined)
    code.push(0x31, 0xf6); // xor esi, esi
  else ripRelative(code, from, [0x48, 0x8d, 0x35], parent); // lea rsi, [parent]
  if (prepare === undefined)
    code.push(0x31, 0xff); // xor edi, edi
  else ripRelative(code, from, [0x48, 0x8d, 0x3d], prepare); // lea rdi, [prepare]
  return code;
}

function finiCode(at: Vaddr, init: Vaddr, { finalize, after }: NonNullable<StubTargets["end"]>): number[] {
  const code = [...ENDBR64, 0x48, 0x83, 0xec, 0x08]; // sub rsp, 8
  ripRelative(code, at, [0x48, 0x8d, 0x3d], init); // lea rdi, [init]
  ripRelative(code, at, [0xff, 0x15], finalize); // call [finalize]
  code.push(0x48, 0x83, 0xc4, 0x08); // add rsp, 8
  return goOn(code, at, after);
}

function goOn(code: number[], at: Vaddr, next: Vaddr | undefined): number[] {
  if (next === undefined) code.push(0xc3);
  else code.push(...jump(at + code.length, next));
  return code;
}

/** An instruction whose last four bytes are the distance to `target`. */
function ripRelative(code: number[], start: Vaddr, opcode: readonly number[], target: Vaddr): void {
  const distance = target - (start + code.length + opcode.length + 4);
  code.push(...opcode, distance & 255, (distance >> 8) & 255, (distance >> 16) & 255, (distance >> 24) & 255);
}
