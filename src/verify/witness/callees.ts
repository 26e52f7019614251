/**
 * What direct calls do that the ABI does not say: some never return, and what stands after them is no part of the way;
 * and most write fewer registers than they may, which gcc goes by (-fipa-ra): a table's base stays where the callee
 * leaves it alone.
 */
import * as elf from "../../elf/constants.js";
import { type ElfImage, read64 } from "../../elf/image.js";
import { dynsym, forEachSymbol, type SymbolTable, symbolName, symtab } from "../../elf/symbols.js";
import { InputError } from "../../errors.js";
import { Decoder, type Instruction, iced, ripAddress } from "./decode.js";
import type { Parts } from "./parts.js";
import type { Program } from "./program.js";
import { WritesTable } from "./writes.js";

const { FlowControl, Mnemonic, OpKind, Register } = iced;

/** Declared not to return: C and POSIX, glibc's own, the C++ runtime. */
const ENDLESS =
  /^(abort|_?_exit|_Exit|exit|quick_exit|thrd_exit|pthread_exit|(_|sig)?longjmp|__(libc_)?(sig)?longjmp(_chk)?|errx?|verrx?|_Unwind_Resume|__(stack_chk|fortify|chk|assert|assert_perror)_fail|__assert|__libc_fatal|__cxa_(re)?throw|__cxa_bad_(cast|typeid)|__cxa_throw_bad_array_(new_)?length|__cxa_(pure|deleted)_virtual|_ZSt9terminatev|_ZSt10unexpectedv|_ZSt\d+__throw_\w+)$/;

/** The nine registers that a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11. */
export const CHANGED_BY_CALLS = 0b1111_1100_0111;

const DEEPEST = 10;
const MOST_INSTRUCTIONS = 2000;
const MOST_WRITING = 600;
/** Bytes of a function that are looked at for whether it tells its caller where it was called. */
const MOST_YIELDING = 64;

export class Callees {
  private readonly decoder: Decoder;
  private readonly writes = new WritesTable();
  /** Functions, and words that the loader fills with the address of one, that never return by their names. */
  private readonly named: ReadonlySet<number>;
  private readonly endless = new Map<number, boolean>();
  private readonly changed = new Map<number, number>();
  private readonly yielded = new Map<number, number>();

  constructor(
    program: Program,
    private readonly parts: Parts,
  ) {
    this.decoder = new Decoder(program.sources);
    this.named = endlessNames(program.image);
  }

  free(): void {
    this.decoder.free();
    this.writes.free();
  }

  /** Whether a call through a word of memory that the loader fills never returns. */
  isEndlessSlot(address: number): boolean {
    return this.named.has(address);
  }

  /** Whether no way from here leads back to the caller. */
  neverReturns(target: number, depth = DEEPEST): boolean {
    if (this.named.has(target)) return true;
    const known = this.endless.get(target);
    if (known !== undefined) return known;
    if (depth === 0) return false;
    // Where it calls itself it may return.
    this.endless.set(target, false);
    let left = MOST_INSTRUCTIONS;
    const isEndless = this.walk(target, (i) => {
      if (left-- === 0 || i.flowControl === FlowControl.Return) return false;
      if (i.flowControl === FlowControl.IndirectBranch)
        return i.isIpRelMemoryOperand && this.named.has(ripAddress(i)) ? "end" : false;
      if (i.flowControl === FlowControl.XbeginXabortXend) return false;
      return this.endsAtCall(i, depth) ? "end" : true;
    });
    this.endless.set(target, isEndless);
    return isEndless;
  }

  /** The registers, a bit each, that a call of this may change. */
  changedBy(target: number, depth = DEEPEST): number {
    const known = this.changed.get(target);
    if (known !== undefined) return known;
    if (depth === 0) return CHANGED_BY_CALLS;
    this.changed.set(target, CHANGED_BY_CALLS);
    let left = MOST_WRITING;
    let mask = 0;
    const isWhole = this.walk(target, (i) => {
      if (left-- === 0 || mask === CHANGED_BY_CALLS) return false;
      switch (i.flowControl) {
        case FlowControl.Return:
          return "end";
        case FlowControl.IndirectBranch:
        case FlowControl.IndirectCall:
        case FlowControl.XbeginXabortXend:
          return false;
        case FlowControl.Call:
          if (this.endsAtCall(i, depth)) return "end";
          mask |=
            i.mnemonic === Mnemonic.Call ? this.changedBy(Number(i.nearBranchTarget), depth - 1) : 0b1000_0000_0011;
          return true;
        default: {
          for (const register of this.writes.of(i).written) mask |= 1 << register;
          if (i.mnemonic === Mnemonic.Syscall) mask |= 0b1000_0000_0011;
          return true;
        }
      }
    });
    const found = isWhole ? mask & CHANGED_BY_CALLS : CHANGED_BY_CALLS;
    this.changed.set(target, found);
    return found;
  }

  /**
   * The registers, a bit each, in which a call of this may find its own return address: what a function that reads it
   * in front of its first branch writes there.
   */
  yields(target: number): number {
    const known = this.yielded.get(target);
    if (known !== undefined) return known;
    const found = this.readsReturn(target);
    this.yielded.set(target, found);
    return found;
  }

  private readsReturn(target: number): number {
    const part = this.parts.at(target);
    let [depth, reads, mask] = [0, false, 0];
    for (let at = target; part !== undefined && at < part.end && at < target + MOST_YIELDING; ) {
      const i = this.decoder.at(at);
      if (i === undefined || i.flowControl !== FlowControl.Next) break;
      at += i.length;
      const top = Number(BigInt.asIntN(64, i.memoryDisplacement));
      const isAtTop =
        i.memoryBase === Register.RSP && i.mnemonic !== Mnemonic.Lea && top < depth + 8 && top > depth - 8;
      for (let n = 0; n < i.opCount; n++)
        reads ||= i.opKind(n) === OpKind.Memory && isAtTop && !(n === 0 && i.mnemonic === Mnemonic.Mov);
      reads ||= i.mnemonic === Mnemonic.Pop && depth === 0;
      depth -= i.stackPointerIncrement;
      const isFrame = i.opCount === 2 && i.op0Register === Register.RSP && i.opKind(1) !== OpKind.Register;
      if (isFrame && i.mnemonic === Mnemonic.Sub) depth += Number(i.immediate(1));
      if (isFrame && i.mnemonic === Mnemonic.Add) depth -= Number(i.immediate(1));
      for (const register of this.writes.of(i).written) mask |= 1 << register;
    }
    return reads ? mask & CHANGED_BY_CALLS : 0;
  }

  private endsAtCall(i: Instruction, depth: number): boolean {
    if (i.flowControl === FlowControl.IndirectCall) return i.isIpRelMemoryOperand && this.named.has(ripAddress(i));
    return (
      i.flowControl === FlowControl.Call &&
      i.mnemonic === Mnemonic.Call &&
      this.neverReturns(Number(i.nearBranchTarget), depth - 1)
    );
  }

  /**
   * Goes all ways from an address, over calls and along jumps, until `visit` says that a way ends, or gives up (false).
   * Whether all ways were gone.
   */
  private walk(start: number, visit: (i: Instruction) => boolean | "end"): boolean {
    const seen = new Set<number>();
    const waiting = [start];
    for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
      while (!seen.has(at)) {
        seen.add(at);
        const part = this.parts.at(at);
        if (part === undefined || !this.parts.isStart(at)) return false;
        let i = this.decoder.at(at);
        if (i === undefined) return false;
        const { flowControl, length } = i;
        const isBranch =
          flowControl === FlowControl.UnconditionalBranch || flowControl === FlowControl.ConditionalBranch;
        const target = isBranch ? Number(i.nearBranchTarget) : 0;
        const isTrap =
          i.mnemonic === Mnemonic.Hlt || (flowControl === FlowControl.Exception && i.mnemonic !== Mnemonic.Int3);
        const said = visit(i);
        i = undefined;
        if (said === false) return false;
        if (said === "end" || isTrap) break;
        if (flowControl === FlowControl.UnconditionalBranch) {
          at = target;
          continue;
        }
        if (isBranch) waiting.push(target);
        at += length;
        // After the last instruction of a function nothing goes on: it was the call of something that does not return.
        if (at >= part.end) {
          if (flowControl === FlowControl.Call || flowControl === FlowControl.IndirectCall) break;
          return false;
        }
      }
    }
    return true;
  }
}

function endlessNames(image: ElfImage): ReadonlySet<number> {
  const found = new Set<number>();
  const table = dynsym(image);
  if (table === null) {
    // A static program's own are seen not to return, but for those that jump.
    const own = symtab(image);
    if (own !== null) addJumps(own, found);
    return found;
  }
  for (const { sh_type, sh_flags, sh_offset, sh_size } of image.sections) {
    if (sh_type !== elf.SHT_RELA || (sh_flags & elf.SHF_ALLOC) === 0) continue;
    for (let at: number = sh_offset; at + elf.RELA_SIZE <= sh_offset + sh_size; at += elf.RELA_SIZE) {
      const type = image.view.getUint32(at + 8, true);
      if (type !== elf.R_X86_64_JUMP_SLOT && type !== elf.R_X86_64_GLOB_DAT) continue;
      const symbol = image.view.getUint32(at + 12, true);
      if (symbol !== 0 && ENDLESS.test(nameOf(table, symbol))) found.add(read64(image.view, at));
    }
  }
  return found;
}

function nameOf(table: SymbolTable, index: number): string {
  try {
    return symbolName(table, index);
  } catch (error) {
    if (error instanceof InputError) return "";
    throw error;
  }
}

function addJumps(table: SymbolTable, found: Set<number>): void {
  forEachSymbol(table, (value, _size, info, shndx, index) => {
    if (shndx === elf.SHN_UNDEF || (info & 0xf) !== elf.STT_FUNC) return;
    if (/longjmp/.test(nameOf(table, index))) found.add(value);
  });
}
