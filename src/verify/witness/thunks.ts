/**
 * Jumps that do not look like one. Code that goes on where a register says and does nothing else, `jmp *%rax`, a
 * retpoline, push and ret: whoever branches to such a thunk jumps through that register. And a return to what was put
 * on the stack right in front of it.
 */
import { Decoder, type Instruction, iced } from "./decode.js";
import { type Part, type Parts, Use } from "./parts.js";
import type { Program } from "./program.js";
import { RSP } from "./state.js";
import { generals } from "./writes.js";

const { FlowControl, Mnemonic, OpKind, Register } = iced;

const MOST_INSTRUCTIONS = 16;
const MOST_BYTES = 64;
const IDLE = new Set<number>([Mnemonic.Nop, Mnemonic.Pause, Mnemonic.Lfence, Mnemonic.Endbr64]);

export class Thunks {
  private readonly decoder: Decoder;
  private readonly known = new Map<number, number>();
  /** By the index of the part: its branches to thunks, and their registers. */
  private readonly branches = new Map<number, { readonly at: number; readonly register: number }[]>();
  /** Parts that return to what they push. */
  private readonly returning = new Set<Part>();

  /** Parts that use a thunk, or return to what they push, count as interesting from then on. */
  constructor(
    program: Program,
    private readonly parts: Parts,
  ) {
    this.decoder = new Decoder(program.sources);
    this.findBranches();
    this.findReturns(program);
  }

  free(): void {
    this.decoder.free();
  }

  /** The register by which a branch to an address goes on, or -1. */
  registerOf(target: number): number {
    let found = this.known.get(target);
    if (found === undefined) {
      found = this.parts.at(target) === undefined ? -1 : leavesBy(this.decoder, target);
      this.known.set(target, found);
    }
    return found;
  }

  branchesOf(part: Part): readonly { readonly at: number; readonly register: number }[] {
    return this.branches.get(part.index) ?? [];
  }

  returnsElsewhere(part: Part): boolean {
    return this.returning.has(part);
  }

  private findBranches(): void {
    const { from, to, use, count } = this.parts.references;
    let [part] = this.parts.list;
    for (let n = 0; n < count; n++) {
      if (use[n]! > Use.Call) continue;
      part = this.parts.next(part!, from[n]!);
      const target = to[n]!;
      if (target >= part.start && target < part.end) continue;
      const register = this.registerOf(target);
      if (register < 0) continue;
      part.interesting = true;
      const known = this.branches.get(part.index);
      if (known === undefined) this.branches.set(part.index, [{ at: from[n]!, register }]);
      else known.push({ at: from[n]!, register });
    }
  }

  private findReturns({ code }: Program): void {
    const { parts, decoder } = this;
    for (const { start, bytes } of code)
      for (let p = bytes.indexOf(RET); p >= 0; p = bytes.indexOf(RET, p + 1)) {
        const at = parts.startOf(start + p);
        const part = parts.at(at);
        if (part === undefined || at === part.start || decoder.at(at)?.flowControl !== FlowControl.Return) continue;
        const before = decoder.at(parts.startOf(at - 1));
        if (before === undefined || !fillsTop(before)) continue;
        part.interesting = true;
        this.returning.add(part);
      }
  }
}

const RET = 0xc3;

/** The register by which code at an address leaves, or -1. */
function leavesBy(decoder: Decoder, start: number): number {
  let stored = -1;
  const popped = new Set<number>();
  let at = start;
  for (let left = MOST_INSTRUCTIONS; left > 0 && at >= start && at < start + MOST_BYTES; left--) {
    const i = decoder.at(at);
    if (i === undefined) return -1;
    at += i.length;
    switch (i.flowControl) {
      case FlowControl.Return:
        return stored;
      case FlowControl.IndirectBranch:
        return jumpRegister(i, popped);
      case FlowControl.UnconditionalBranch:
      case FlowControl.Call:
        // A call of its own inside leaves a return address, which is stored over or thrown away.
        if (i.mnemonic !== Mnemonic.Call && i.mnemonic !== Mnemonic.Jmp) return -1;
        at = Number(i.nearBranchTarget);
        continue;
      case FlowControl.Next:
        break;
      default:
        return -1;
    }
    const target = ontoStack(i);
    if (target >= 0) stored = target;
    else if (i.mnemonic === Mnemonic.Pop) popped.add(generals[i.opRegister(0)]?.index ?? -1);
    else if (!IDLE.has(i.mnemonic) && !movesStack(i)) return -1;
  }
  return -1;
}

/** To what it popped, code returns. */
function jumpRegister(i: Instruction, popped: ReadonlySet<number>): number {
  const register = i.opKind(0) === OpKind.Register ? (generals[i.opRegister(0)]?.index ?? -1) : -1;
  return popped.has(register) ? -1 : register;
}

/** Whether an instruction puts something where rsp points by then. */
function fillsTop(i: Instruction): boolean {
  const isStore = i.opCount > 0 && i.opKind(0) === OpKind.Memory && i.memoryBase === Register.RSP;
  return i.mnemonic === Mnemonic.Push || i.mnemonic === Mnemonic.Xchg || (isStore && i.mnemonic !== Mnemonic.Cmp);
}

/** The register that an instruction puts on the top of the stack, or -1. */
function ontoStack(i: Instruction): number {
  if (i.mnemonic === Mnemonic.Push) return generals[i.opRegister(0)]?.index ?? -1;
  const isStore = i.mnemonic === Mnemonic.Mov && i.opKind(0) === OpKind.Memory && i.opKind(1) === OpKind.Register;
  return isStore && i.memoryBase === Register.RSP ? (generals[i.opRegister(1)]?.index ?? -1) : -1;
}

const movesStack = (i: Instruction): boolean =>
  (i.mnemonic === Mnemonic.Lea || i.mnemonic === Mnemonic.Add) && generals[i.opRegister(0)]?.index === RSP;
