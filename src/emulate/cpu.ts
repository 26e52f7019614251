/**
 * A user-mode x86-64 CPU: state, memory, and the loop that runs decoded blocks. What instructions do is in families/;
 * what system calls do is for whoever runs the CPU.
 */
import { BlockCache } from "./blocks.js";
import { Core, Event } from "./core.js";
import { BREAKPOINT, Fault, LIMIT, type Outcome, SYSCALL, Unimplemented } from "./fault.js";
import { Memory } from "./memory.js";
import { IP } from "./state.js";

export class Cpu extends Core {
  private readonly blocks: BlockCache;

  constructor(memory = new Memory()) {
    super(memory);
    this.blocks = new BlockCache(memory);
    const before = memory.onCodeWrite;
    memory.onCodeWrite = (page) => {
      before?.(page);
      this.blocks.forget(page);
    };
  }

  /** Runs at most `limit` instructions. */
  run(limit: number): Outcome {
    const end = this.instructions + limit;
    while (this.instructions < end) {
      const outcome = this.runBlocks(end);
      if (outcome !== undefined) return outcome;
      // The next block is longer than what is left.
      while (this.instructions < end) {
        const single = this.step();
        if (single !== LIMIT) return single;
      }
    }
    return LIMIT;
  }

  /** Runs whole blocks while they fit; undefined where the next one does not. */
  private runBlocks(end: number): Outcome | undefined {
    const { blocks, w } = this;
    while (this.instructions < end) {
      let done = 0;
      let block: ReturnType<BlockCache["at"]> | undefined;
      try {
        block = blocks.at(w[IP]!, w[IP + 1]!);
        const length = block.instructions.length;
        if (this.instructions + length > end) return undefined;
        const steps = block.steps;
        for (; done < block.count; done++) steps[done]!(this);
        this.instructions += length;
        if (block.count === 0 && done < steps.length) {
          // Its own bytes were written: go on after the instruction that did it.
          this.instructions += done - length;
          this.goTo(block.instructions[done - 1]!.next);
        }
      } catch (error) {
        if (block !== undefined && block.instructions.length > 0) {
          this.instructions += done;
          this.goTo(block.instructions[done]!.at);
        }
        return outcomeOf(error);
      }
      if (this.event !== Event.None) return this.takeEvent();
    }
    return undefined;
  }

  /** Runs one instruction. */
  step(): Outcome {
    try {
      const block = this.blocks.at(this.w[IP]!, this.w[IP + 1]!);
      block.steps[0]!(this);
      // Unless it is the last of its block, and then has set rip itself, rip is after it.
      if (block.steps.length > 1) this.goTo(block.instructions[0]!.next);
    } catch (error) {
      return outcomeOf(error);
    }
    this.instructions++;
    return this.event === Event.None ? LIMIT : this.takeEvent();
  }

  private goTo({ lo, hi }: { readonly lo: number; readonly hi: number }): void {
    this.w[IP] = lo;
    this.w[IP + 1] = hi;
  }

  private takeEvent(): Outcome {
    const { event } = this;
    this.event = Event.None;
    return event === Event.Syscall ? SYSCALL : BREAKPOINT;
  }
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof Fault) return { kind: "fault", fault: error.kind, address: error.address, access: error.access };
  if (error instanceof Unimplemented) return { kind: "unimplemented", instruction: error.instruction };
  throw error;
}
