/**
 * Calls that never return: of functions that are known not to by their names, and of functions of the file that have no
 * way back. What stands after such a call is not run after it.
 */
import { type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type ElfImage, read64 } from "../../elf/image.js";
import { dynsym, symbolName } from "../../elf/symbols.js";
import { addressOf, type DecodedCode, Flow, indexOf } from "../../x86/decode.js";
import type { FunctionIndex } from "../functions.js";
import { stepAt } from "./steps.js";

/** Functions of C, C++ and POSIX that are declared not to return, and those that C libraries and compilers call so. */
const NEVER_RETURN = new Set(
  `abort exit _exit _Exit quick_exit __stack_chk_fail __assert_fail __assert_perror_fail __fortify_fail __chk_fail longjmp
  _longjmp siglongjmp __longjmp_chk __cxa_throw __cxa_rethrow __cxa_bad_cast __cxa_bad_typeid __cxa_pure_virtual
  __cxa_throw_bad_array_new_length __cxa_deleted_virtual _Unwind_Resume _ZSt9terminatev _ZSt10unexpectedv pthread_exit err errx verr
  verrx __libc_fatal __libc_start_call_main`.split(/\s+/),
);
/** std::__throw_bad_alloc() and the like. */
const THROWS = /^_ZSt\d+__throw_/;

/** Parts of a function that lead on to other functions are followed so far. */
const DEEPEST = 12;

export class EndlessCalls {
  private readonly known = new Map<number, boolean>();
  /** Words that the loader fills with a function that never returns. */
  private readonly slots: ReadonlySet<number>;

  constructor(
    image: ElfImage,
    private readonly functions: FunctionIndex,
  ) {
    this.slots = endlessSlots(image);
  }

  /** Whether the call at an index never returns. */
  isEndless(code: DecodedCode, index: number): boolean {
    const target = code.targets[index]!;
    if (!Number.isNaN(target)) return this.neverReturns(target as Vaddr, DEEPEST);
    const [operand] = stepAt(code, index).operands;
    return operand?.kind === "memory" && operand.isRipRelative && this.slots.has(operand.displacement);
  }

  /** Whether nothing that is called at an address comes back. */
  private neverReturns(target: Vaddr, depth: number): boolean {
    const known = this.known.get(target);
    if (known !== undefined) return known;
    if (depth === 0) return false;
    // Where it calls itself, it may return.
    this.known.set(target, false);
    const answer = this.explore(target, depth);
    this.known.set(target, answer);
    return answer;
  }

  private explore(target: Vaddr, depth: number): boolean {
    const { functions } = this;
    const seen = new Set<number>();
    const work: number[] = [target];
    for (let at = work.pop(); at !== undefined; at = work.pop()) {
      if (seen.has(at)) continue;
      seen.add(at);
      if (seen.size > 4000) return false;
      const range = functions.containing(at);
      const code = range === undefined ? functions.gapCode(at) : functions.code(range);
      if (code === undefined || code.unclean !== undefined) return false;
      const first = indexOf(code, at);
      if (first < 0) return false;
      for (let i = first; ; i++) {
        if (i === code.count) {
          work.push(code.end);
          break;
        }
        const here = addressOf(code, i);
        if (i > first && seen.has(here)) break;
        const flow = code.flow[i]!;
        const to = code.targets[i]!;
        if (flow & Flow.Return) return false;
        if (flow & Flow.IndirectJump) {
          const [operand] = stepAt(code, i).operands;
          const isKnown = operand?.kind === "memory" && operand.isRipRelative && this.slots.has(operand.displacement);
          if (!isKnown) return false;
          break;
        }
        if (flow & (Flow.Jump | Flow.Conditional | Flow.Transaction)) {
          if (Number.isNaN(to)) return false;
          work.push(to);
          if (flow & Flow.Jump) break;
        }
        if (flow & Flow.Call) {
          const isOwn = to > code.start && to < code.end;
          if (isOwn) return false;
          if (Number.isNaN(to) ? this.isEndless(code, i) : this.neverReturns(vaddr(to), depth - 1)) break;
        }
        if (flow & Flow.Trap && isEnd(code, i)) break;
      }
    }
    return true;
  }
}

/** ud0, ud1, ud2 and hlt: nothing follows. */
export function isEnd({ flow, bytes, offsets }: DecodedCode, i: number): boolean {
  if ((flow[i]! & Flow.Trap) === 0) return false;
  const [a, b] = [bytes[offsets[i]!], bytes[offsets[i]! + 1]];
  return a === 0xf4 || (a === 0x0f && (b === 0x0b || b === 0xb9 || b === 0xff));
}

function endlessSlots(image: ElfImage): ReadonlySet<number> {
  const slots = new Set<number>();
  const table = dynsym(image);
  if (table === null) return slots;
  for (const section of image.sections) {
    if (section.sh_type !== elf.SHT_RELA || (section.sh_flags & elf.SHF_ALLOC) === 0) continue;
    for (
      let at: number = section.sh_offset;
      at + elf.RELA_SIZE <= section.sh_offset + section.sh_size;
      at += elf.RELA_SIZE
    ) {
      const type = image.view.getUint32(at + 8, true);
      if (type !== elf.R_X86_64_JUMP_SLOT && type !== elf.R_X86_64_GLOB_DAT) continue;
      const symbol = image.view.getUint32(at + 12, true);
      if (symbol === 0) continue;
      const name = symbolName(table, symbol);
      if (NEVER_RETURN.has(name) || THROWS.test(name)) slots.add(read64(image.view, at));
    }
  }
  return slots;
}
