/**
 * Where each function is entered by direct branches of others and by calls, found by decoding all code once; code that
 * cannot be decoded counts with every branch that could begin at any of its bytes.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { CodeRange, FunctionIndex } from "../facts/functions.js";
import { addTo } from "../grouped.js";
import { addressOf, type DecodedCode, decode, Flow } from "../x86/decode.js";
import type { CodeReader } from "./code-reader.js";

const BRANCHES = Flow.Call | Flow.Jump | Flow.Conditional | Flow.Transaction;
/** What the next instruction in the file does not follow. */
const ENDS = Flow.Jump | Flow.IndirectJump | Flow.Return | Flow.Call | Flow.Trap | Flow.Nop;

export class CodeEntrances {
  private found: ReadonlyMap<number, readonly Vaddr[]> | undefined;

  constructor(
    private readonly code: CodeReader,
    private readonly functions: FunctionIndex,
  ) {}

  /** The addresses of all instructions that lead into a range: calls, branches from outside, and what runs on into it. */
  into(range: CodeRange): readonly Vaddr[] {
    this.found ??= this.find();
    return this.found.get(range.index) ?? [];
  }

  private find(): ReadonlyMap<number, readonly Vaddr[]> {
    const found = new Map<number, Vaddr[]>();
    const { functions } = this;
    for (const section of functions.codeSections) {
      const end = section.sh_addr + section.sh_size;
      for (let at: number = section.sh_addr; at < end; ) {
        const range = functions.containing(at);
        const stretch = range ?? functions.gapAt(at);
        if (stretch === undefined) break;
        at = Math.max(stretch.end, at + 1);
        if (range === undefined && functions.isPadding(stretch)) continue;
        const code =
          range === undefined ? functions.gapCode(stretch.start) : decode(functions.bytes(range), range.start);
        if (code === undefined || code.unclean !== undefined) this.addAny(stretch.start, stretch.end, found);
        else this.addFrom(code, found);
      }
    }
    return found;
  }

  private addFrom(code: DecodedCode, found: Map<number, Vaddr[]>): void {
    for (let i = 0; i < code.count; i++) {
      const flow = code.flow[i]!;
      if ((flow & BRANCHES) === 0) continue;
      const to = code.targets[i]!;
      if ((flow & Flow.Call) === 0 && to >= code.start && to < code.end) continue;
      const range = this.functions.containing(to);
      if (range !== undefined) addTo(found, range.index, addressOf(code, i));
    }
    const last = code.count - 1;
    if (last < 0 || code.flow[last]! & ENDS) return;
    const next = this.functions.containing(this.afterNops(code.end));
    if (next !== undefined) addTo(found, next.index, addressOf(code, last));
  }

  /** Where code goes on that runs over padding between functions. */
  private afterNops(start: Vaddr): Vaddr {
    for (let at = start; ; ) {
      const instruction = this.functions.containing(at) === undefined ? this.code.at(at) : null;
      if (instruction === null || (instruction.flow & Flow.Nop) === 0) return at;
      at = instruction.end;
    }
  }

  private addAny(start: number, end: number, found: Map<number, Vaddr[]>): void {
    for (let at = start; at < end; at++) {
      const instruction = this.code.at(vaddr(at));
      if (instruction === null || (instruction.flow & BRANCHES) === 0) continue;
      const range = this.functions.containing(instruction.target);
      if (range !== undefined) addTo(found, range.index, instruction.start);
    }
  }
}
