/**
 * The new code that is called when the file is initialised and unloaded.
 *
 *     init:  __register_atfork(prepare, parent, child, init); go on with what was called before
 *            or register = dlsym(RTLD_DEFAULT, "__register_atfork"), which is then called where there is one
 *     fini:  __cxa_finalize(init);                       go on likewise
 *
 * prepare and parent keep signals out of a child until the handler has run there (handler/held-signals.ts). Registered
 * before all others, ours is the last to be called before the fork and the first after it.
 *
 * The handle by which the C library knows whose handlers these are is the address of `init`: nothing else of the
 * process uses that one. __cxa_finalize takes out what was registered with a handle (it is what glibc's crtbegin calls
 * with the file's __dso_handle). The file's own handle would do as well, but a stripped file does not tell where it is.
 *
 * The arguments of an initialiser (argc, argv, envp) are handed on. Both begin with endbr64, for they are called by
 * address; they leave by a direct jump or ret, which IBT and shadow stacks allow.
 */

import type { Vaddr } from "../../../address.js";
import { Assembler, byte, type RegisterName } from "../../../x86/assembler.js";
import { beforeFork, behindFork } from "../handler/held-signals.js";
import type { SignalSlots } from "../handler/signal-slots.js";
import { type ChildCode, FORK_GUARD, type ForkHandlers } from "./fork-handlers.js";

export const INIT = "usdt_nop5.init";
export const FINI = "usdt_nop5.fini";
/** A word that holds the address of init. */
export const INIT_WORD = "word with the address of init";
const NAME = "name to look up";

interface StubTargets {
  /** The word that holds the address of __register_atfork. */
  readonly register: Vaddr;
  /** Where that word holds the address of dlsym instead: the name to look up. */
  readonly lookUp: string | undefined;
  /** What to go on with after init, if anything. */
  readonly afterInit: Vaddr | undefined;
  /** For a file that can be unloaded: the word that holds the address of __cxa_finalize, and what to go on with. */
  readonly end: { readonly finalize: Vaddr; readonly after: Vaddr | undefined } | undefined;
  /**
   * Whether a word with the address of init is wanted: for fixed addresses, where no relocation is needed to fill it.
   */
  readonly constantWord: boolean;
  /** Words for signals that are held, where there is room for them. */
  readonly slots: SignalSlots | undefined;
}

export interface Stubs {
  /** Functions first of all, then constants. */
  readonly functions: readonly Assembler[];
  readonly constants: Assembler;
  /** What is called around a fork; functions as well. */
  readonly around: readonly Assembler[];
  readonly handlers: ForkHandlers;
}

/** The stubs for a child handler, which is to be linked beside them. */
export function stubsFor(targets: StubTargets, child: ChildCode): Stubs {
  const { slots, end } = targets;
  const { sites } = child;
  const around =
    sites === undefined || slots === undefined
      ? []
      : [beforeFork("usdt_nop5.prepare", sites, slots), behindFork("usdt_nop5.parent", slots)];
  const [prepare, parent] = around.map(({ options }) => options.name);
  const handlers = { prepare, parent };
  const init = initCode(targets, handlers);
  return {
    functions: end === undefined ? [init] : [init, finiCode(end)],
    constants: constantsFor(targets),
    around,
    handlers,
  };
}

function constantsFor({ constantWord, lookUp }: StubTargets): Assembler {
  const code = new Assembler({ align: 16 });
  if (constantWord) code.symbol(INIT_WORD).address64(INIT);
  if (lookUp !== undefined) code.symbol(NAME).raw(Buffer.from(`${lookUp}\0`, "latin1"));
  return code;
}

/** The arguments of an initialiser, which are handed on. */
const ARGUMENTS: readonly RegisterName[] = ["rdi", "rsi", "rdx"];
const CALL_RAX = [0xff, 0xd0];

function initCode({ register, lookUp, afterInit }: StubTargets, handlers: ForkHandlers): Assembler {
  const code = new Assembler({ name: INIT, align: 16 }).entry().op("endbr64");
  for (const argument of ARGUMENTS) code.push(argument);
  if (lookUp === undefined) registration(code, handlers).callThrough(register);
  else {
    code.op("xor", "edi", "edi").address("rsi", NAME).callThrough(register);
    code.op("test", "rax", "rax").jumpIfShort("e", "not there");
    registration(code, handlers).raw(CALL_RAX).label("not there");
  }
  for (const argument of ARGUMENTS.toReversed()) code.pop(argument);
  return goOn(code, afterInit);
}

/** Loads the arguments of __register_atfork. */
function registration(code: Assembler, { prepare, parent }: ForkHandlers): Assembler {
  code.address("rcx", INIT).address("rdx", FORK_GUARD);
  if (parent === undefined) code.op("xor", "esi", "esi");
  else code.address("rsi", parent);
  return prepare === undefined ? code.op("xor", "edi", "edi") : code.address("rdi", prepare);
}

function finiCode({ finalize, after }: NonNullable<StubTargets["end"]>): Assembler {
  const code = new Assembler({ name: FINI, align: 16 }).entry().op("endbr64");
  code.lower(byte(8)).address("rdi", INIT).callThrough(finalize).raise(byte(8));
  return goOn(code, after);
}

const goOn = (code: Assembler, next: Vaddr | undefined): Assembler =>
  next === undefined ? code.op("ret") : code.jump(next);
