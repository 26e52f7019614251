/**
 * Forward from an instruction, along all ways, with the status flags that nothing has written since: who reads one of
 * them needs what it held. Calls and jumps into code of the file are followed there, since assembly may hand flags over;
 * what leaves the file, or goes to a function by a pointer, has to take the flags as lost (flags.ts).
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { addressOf, type DecodedCode, Flow, indexOf, instructionBytes } from "../x86/decode.js";
import { type FlagEffects, flagEffects, flagNames } from "../x86/flags.js";
import { mayLeave } from "./byte-hints.js";
import type { CodeRange } from "./functions.js";
import type { ProgramFacts } from "./program.js";
import { isEnd } from "./values/endless.js";
import { Thunks } from "./values/thunks.js";

/** Calls within calls are followed so far. */
const DEEPEST_CALL = 8;
/** So many instructions are looked at for one question. */
const MOST_STEPS = 20_000;

/** What becomes of flags that nobody wrote. */
export interface Outcome {
  /** Those that some way comes back to its caller with. */
  readonly returned: number;
  /** Why one of them may be needed; undefined where none is. */
  readonly needed: string | undefined;
}

const isNeeded = (needed: string): Outcome => ({ returned: 0, needed });
const NONE: Outcome = { returned: 0, needed: undefined };

/** What may run next, and with which flags still as they were. */
interface Way {
  readonly at: Vaddr;
  readonly flags: number;
}

/** The ways that are followed from one place on, without those into callees. */
class Ways {
  private readonly seen = new Map<Vaddr, number>();
  private readonly open: Way[] = [];
  returned = 0;

  add(at: Vaddr, flags: number): void {
    if (flags !== 0) this.open.push({ at, flags });
  }

  /** The next one to follow. */
  next(): Way | undefined {
    return this.open.pop();
  }

  /** Whether an instruction is reached with flags with which it was not reached before. */
  isNews(at: Vaddr, flags: number): boolean {
    const known = this.seen.get(at) ?? 0;
    if ((flags & ~known) === 0) return false;
    this.seen.set(at, known | flags);
    return true;
  }
}

export class FlagWalk {
  private readonly effects = new Map<Vaddr, FlagEffects>();
  private readonly callees = new Map<string, Outcome>();
  private readonly thunks: Thunks;
  private steps = 0;

  constructor(private readonly facts: ProgramFacts) {
    this.thunks = new Thunks(facts.functions);
  }

  /** For each question anew: only what one question takes is bounded. */
  start(): void {
    this.steps = 0;
  }

  /** What becomes of flags at a link-time address where an instruction begins. */
  from(at: Vaddr, flags: number, depth = 0): Outcome {
    const ways = new Ways();
    ways.add(at, flags);
    for (let way = ways.next(); way !== undefined; way = ways.next()) {
      const needed = this.follow(way, ways, depth);
      if (needed !== undefined) return isNeeded(needed);
    }
    return { returned: ways.returned, needed: undefined };
  }

  /** Straight on to where the way ends or divides. @returns why a flag may be needed */
  private follow(way: Way, ways: Ways, depth: number): string | undefined {
    let { flags } = way;
    const code = this.codeAt(way.at);
    const first = code === undefined ? -1 : indexOf(code, way.at);
    if (code === undefined || first < 0) return `nothing is known of the code at ${hex(way.at)}`;
    for (let i = first; i < code.count; i++) {
      const at = addressOf(code, i);
      if (!ways.isNews(at, flags)) return undefined;
      if (++this.steps > MOST_STEPS)
        return `more than ${MOST_STEPS} instructions may run before all of them are written`;
      if (isEnd(code, i)) return undefined;
      const { reads, writes } = this.effectsAt(code, i);
      if (reads & flags) return `the instruction at ${hex(at)} reads ${flagNames(reads & flags)}`;
      flags &= ~writes;
      if (flags === 0) return undefined;
      const flow = code.flow[i]!;
      if (flow & Flow.Return) return this.return(code, i, flags, ways);
      if (flow & Flow.IndirectJump) return this.indirect(at, flags, ways);
      if (flow & Flow.Call) {
        const after = this.call(code.targets[i]!, flags, depth);
        if (after.needed !== undefined) return after.needed;
        flags = after.returned;
        if (flags === 0) return undefined;
      } else if (flow & (Flow.Jump | Flow.Conditional | Flow.Transaction)) {
        const problem = this.jump(at, code.targets[i]!, flags, ways);
        if (problem !== undefined || flow & Flow.Jump) return problem;
      }
    }
    ways.add(code.end, flags);
    return undefined;
  }

  private effectsAt(code: DecodedCode, index: number): FlagEffects {
    const at = addressOf(code, index);
    let found = this.effects.get(at);
    if (found === undefined) {
      found = flagEffects(instructionBytes(code, index), at);
      this.effects.set(at, found);
    }
    return found;
  }

  private codeAt(at: Vaddr): DecodedCode | undefined {
    const { functions } = this.facts;
    const range = functions.containing(at);
    const code = range === undefined ? functions.gapCode(at) : functions.code(range);
    return code?.unclean === undefined ? code : undefined;
  }

  /** Whether an address is in the procedure linkage table, whose stubs jump to functions of other files. */
  private isLinkage(at: number): boolean {
    return this.facts.functions.sectionAt(at)?.name.startsWith(".plt") ?? false;
  }

  private call(target: number, flags: number, depth: number): Outcome {
    const isFollowed = !Number.isNaN(target) && !this.isLinkage(target) && this.thunks.registerOf(vaddr(target)) < 0;
    if (!isFollowed) return NONE;
    const key = `${target},${flags}`;
    const known = this.callees.get(key);
    if (known !== undefined) return known;
    if (depth === DEEPEST_CALL) return isNeeded(`calls at ${hex(target)} and from there on are not followed`);
    // Where it calls itself, that may leave the flags alone.
    this.callees.set(key, { returned: flags, needed: undefined });
    const outcome = this.from(vaddr(target), flags, depth + 1);
    // One that failed by its depth or its length may be followed from elsewhere.
    if (outcome.needed === undefined) this.callees.set(key, outcome);
    else this.callees.delete(key);
    return outcome;
  }

  private jump(at: Vaddr, target: number, flags: number, ways: Ways): string | undefined {
    if (Number.isNaN(target)) return `nothing is known of where the jump at ${hex(at)} leads`;
    if (this.isLinkage(target)) return undefined;
    // A function's own indirect jump, which its others share, looks like a thunk.
    const isOwn = this.facts.functions.containing(at)?.index === this.facts.functions.containing(target)?.index;
    if (!isOwn && this.thunks.registerOf(vaddr(target)) >= 0) return this.indirect(at, flags, ways);
    ways.add(vaddr(target), flags);
    return undefined;
  }

  /** A return, or a jump to what was pushed in front of it. */
  private return(code: DecodedCode, index: number, flags: number, ways: Ways): string | undefined {
    const at = addressOf(code, index);
    const range = this.facts.functions.containing(at);
    // The bytes tell of a push right in front of a return, and not of one before a probe.
    const mayBeOdd = mayLeave(code.bytes) || (index > 0 && (code.flow[index - 1]! & Flow.Nop) !== 0);
    if (mayBeOdd && (range === undefined || this.isOddReturn(range, at))) return this.indirect(at, flags, ways);
    ways.returned |= flags;
    return undefined;
  }

  private isOddReturn(range: CodeRange, at: Vaddr): boolean {
    const { flow, ways, unknown } = this.facts.computed.groupOf(range);
    if (flow === undefined) return unknown !== undefined;
    return ways.some((way) => way.at === at) || flow.transfers.some((transfer) => transfer.at === at);
  }

  /** A jump by a table, to a label that was kept somewhere, or to a function by a pointer. */
  private indirect(at: Vaddr, flags: number, ways: Ways): string | undefined {
    const { functions, computed } = this.facts;
    const range = functions.containing(at);
    const group = range === undefined ? undefined : computed.groupOf(range);
    const way = group?.ways.find((w) => w.at === at);
    if (group === undefined || way === undefined) return `nothing is known of where the jump at ${hex(at)} leads`;
    for (const address of way.addresses) ways.add(vaddr(address), flags);
    if (way.tables.length > 0) for (const entry of computed.entriesOf(group).keys()) ways.add(vaddr(entry), flags);
    if (!way.isPointer) return undefined;
    // To a function it is a call whose callee returns for this one; and the pointer may be a label of this function.
    ways.returned |= flags;
    for (const part of group.parts) {
      const inside = [
        ...computed.names.byPointers(part.start + 1, part.end),
        ...computed.names.byCode(part.start + 1, part.end),
      ];
      const code = functions.code(part);
      for (const { target } of inside) if (indexOf(code, target) >= 0) ways.add(vaddr(target), flags);
    }
    return undefined;
  }
}
