/**
 * Whether the status flags that stand at an address of the original may be needed after it: the rewritten side comes
 * back there with others, where it asked the selector by a comparison.
 *
 * It is a question of who reaches whom: from the address on along every edge that code may take, until each flag is
 * written. A callee is searched first, and what follows the call is reached with the flags that the callee may return
 * with. A return of the function itself leads after every direct call of it. What leaves by a pointer or for another file
 * takes no flags along and brings none back (System V ABI, AMD64 supplement, section 3.2.1); where computed jumps lead is
 * what the facts say of their function, as for arrivals (windows.ts).
 *
 * By code of its own: the rewriter's answer is src/facts/flags.ts.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import type { CodeRange } from "../facts/functions.js";
import type { ProgramFacts } from "../facts/program.js";
import { Flow } from "../x86/decode.js";
import { type FlagEffects, flagEffects, flagNames, STATUS_FLAGS } from "../x86/flags.js";
import { iced } from "../x86/iced.js";
import { decodeOne } from "../x86/relocate.js";
import { CodeEntrances } from "./code-entrances.js";
import type { CodeReader, Instruction } from "./code-reader.js";
import { Labels } from "./labels.js";

const { OpKind, Register } = iced;

/** So many instructions are looked at for one question. */
const MOST_STEPS = 50_000;

/** Calls within calls are followed so far. */
const DEEPEST_CALL = 10;

/** A place, and the flags that are as they were. */
interface Reached {
  readonly at: Vaddr;
  readonly flags: number;
}

export class FlagReaders {
  private readonly entrances: CodeEntrances;
  private readonly labels: Labels;
  private readonly effects = new Map<Vaddr, FlagEffects>();
  /** What callees return with, by where they begin and the flags that they are given. */
  private readonly returned = new Map<string, number>();
  private steps = 0;

  /**
   * @param code the original's
   * @param facts about the original
   */
  constructor(
    private readonly code: CodeReader,
    private readonly facts: ProgramFacts,
  ) {
    this.entrances = new CodeEntrances(code, facts.functions);
    this.labels = new Labels(facts.image, facts.functions);
  }

  /**
   * Why a status flag that stands right in front of an instruction may be needed, for people; undefined where it is
   * shown that none is.
   * @param address link-time address
   * @param flags those that are asked about, as bits of STATUS_FLAGS
   * @throws InputError where a table of the original is damaged
   */
  readerAfter(address: Vaddr, flags = STATUS_FLAGS): string | undefined {
    this.steps = 0;
    const search = new Search(0);
    search.reach(address, flags);
    return this.run(search);
  }

  private run(search: Search): string | undefined {
    for (let next = search.next(); next !== undefined; next = search.next()) {
      if (++this.steps > MOST_STEPS)
        return `more than ${MOST_STEPS} instructions may run before the status flags are written`;
      const problem = this.step(next, search);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  /** One instruction: whether it reads, and where it leads. */
  private step({ at, flags }: Reached, search: Search): string | undefined {
    const instruction = this.code.at(at);
    if (instruction === null) return `there is no instruction at ${hex(at)}`;
    const { reads, writes } = this.effectsOf(instruction);
    if (reads & flags) return `the instruction at ${hex(at)} reads ${flagNames(reads & flags)}`;
    const left = flags & ~writes;
    if (left === 0 || endsProgram(instruction)) return undefined;
    return this.leave(instruction, left, search);
  }

  private leave({ start, end, flow, target }: Instruction, flags: number, search: Search): string | undefined {
    if (flow & Flow.Return) return this.return(start, flags, search);
    if (flow & Flow.IndirectJump) return this.computed(start, flags, search);
    if (flow & Flow.Call) return this.call(target, end, flags, search);
    if (flow & (Flow.Jump | Flow.Conditional | Flow.Transaction)) {
      if (Number.isNaN(target)) return `where the branch at ${hex(start)} leads is not known`;
      search.reach(target, flags);
    }
    if ((flow & Flow.Jump) === 0) search.reach(end, flags);
    return undefined;
  }

  /** What follows a call, if it comes back with any of the flags. */
  private call(target: number, end: Vaddr, flags: number, search: Search): string | undefined {
    if (Number.isNaN(target) || this.isLinkage(target)) return undefined;
    const key = `${target}/${flags}`;
    let returned = this.returned.get(key);
    if (returned === undefined) {
      if (search.depth === DEEPEST_CALL) return `what is called at ${hex(target)} is not followed`;
      // Until more is known, the callee may return with all of them: it may call itself.
      this.returned.set(key, flags);
      const callee = new Search(search.depth + 1);
      callee.reach(vaddr(target), flags);
      const problem = this.run(callee);
      if (problem !== undefined) {
        this.returned.delete(key);
        return problem;
      }
      returned = callee.returned;
      this.returned.set(key, returned);
    }
    search.reach(end, returned);
    return undefined;
  }

  private effectsOf({ start, bytes }: Instruction): FlagEffects {
    let found = this.effects.get(start);
    if (found === undefined) {
      found = flagEffects(bytes, start);
      this.effects.set(start, found);
    }
    return found;
  }

  /** Whether an address is in the linkage table: its stubs are jumps by words that the loader fills. */
  private isLinkage(address: number): boolean {
    return this.facts.functions.sectionAt(address)?.name.startsWith(".plt") ?? false;
  }

  /** A jump by a table, or by a pointer: to a function, which returns for this one, or to a label that something keeps. */
  private computed(at: Vaddr, flags: number, search: Search): string | undefined {
    if (this.isLinkage(at)) return undefined;
    const { functions, computed } = this.facts;
    const range = functions.containing(at);
    const group = range && computed.groupOf(range);
    const way = group?.ways.find((w) => w.at === at);
    if (range === undefined || group === undefined || way === undefined)
      return `where the jump at ${hex(at)} leads is not known`;
    const targets = new Set<number>(way.addresses);
    if (way.tables.length > 0) for (const entry of computed.entriesOf(group).keys()) targets.add(entry);
    if (way.isPointer) for (const label of group.parts.flatMap((part) => this.labels.inside(part))) targets.add(label);
    for (const target of targets) search.reach(vaddr(target), flags);
    return way.isPointer ? this.returnsFrom(range, flags, search) : undefined;
  }

  private return(at: Vaddr, flags: number, search: Search): string | undefined {
    const range = this.facts.functions.containing(at);
    // A return to what was put on the stack is a jump.
    if (range !== undefined && this.goesElsewhere(range, at)) return this.computed(at, flags, search);
    return this.returnsFrom(range, flags, search);
  }

  /**
   * It leads after each direct call of its function. Who jumps into the range of a return, or runs on into it, has it
   * return for him.
   */
  private returnsFrom(range: CodeRange | undefined, flags: number, search: Search): string | undefined {
    search.returned |= flags;
    if (search.depth > 0) return undefined;
    if (range === undefined) return "it returns from code in no known function";
    const open = [range];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (!search.isReturnNews(next.index, flags)) continue;
      for (const from of this.entrances.into(next)) {
        const entrance = this.code.at(from)!;
        if (entrance.flow & Flow.Call) {
          search.reach(entrance.end, flags);
          continue;
        }
        const other = this.facts.functions.containing(from);
        if (other === undefined) return `code in no known function leads to ${hex(next.start)}, at ${hex(from)}`;
        open.push(other);
      }
    }
    return undefined;
  }

  /** Whether what stands in front of a return, nops aside, puts on the stack what it returns to. */
  private goesElsewhere({ start }: CodeRange, at: Vaddr): boolean {
    let last: Instruction | undefined;
    for (let here = start; here < at; ) {
      const instruction = this.code.at(here);
      if (instruction === null) return true;
      if ((instruction.flow & (Flow.Nop | Flow.Landing)) === 0) last = instruction;
      here = instruction.end;
    }
    return last !== undefined && putsOnStack(last);
  }
}

/** What was reached from one address on. */
class Search {
  private readonly seen = new Map<Vaddr, number>();
  private readonly ranges = new Map<number, number>();
  private readonly open: Reached[] = [];
  /** Flags that a return was reached with. */
  returned = 0;

  /** @param depth of calls; 0 for the function that is asked about and those that it returns to */
  constructor(readonly depth: number) {}

  /** Adds what was not reached yet. */
  reach(at: Vaddr, flags: number): void {
    const known = this.seen.get(at) ?? 0;
    if ((flags & ~known) === 0) return;
    this.seen.set(at, known | flags);
    this.open.push({ at, flags });
  }

  next(): Reached | undefined {
    return this.open.pop();
  }

  /** Whether a range returns with flags with which it did not yet. */
  isReturnNews(range: number, flags: number): boolean {
    const known = this.ranges.get(range) ?? 0;
    this.ranges.set(range, known | flags);
    return (flags & ~known) !== 0;
  }
}

/** ud2, ud1, ud0 and hlt: nothing comes after them. */
const endsProgram = ({ flow, bytes: [first, second] }: Instruction): boolean =>
  (flow & Flow.Trap) !== 0 &&
  (first === 0xf4 || (first === 0x0f && (second === 0x0b || second === 0xb9 || second === 0xff)));

/** Whether an instruction is a push, or writes to where rsp points. */
function putsOnStack({ bytes, start, flow }: Instruction): boolean {
  if (flow !== Flow.Next) return false;
  return decodeOne(bytes, start, (instruction) => {
    const isPush = instruction.isStackInstruction && instruction.stackPointerIncrement < 0;
    const { op0Kind, memoryBase, memoryDisplacement } = instruction;
    return isPush || (op0Kind === OpKind.Memory && memoryBase === Register.RSP && memoryDisplacement === 0n);
  });
}
