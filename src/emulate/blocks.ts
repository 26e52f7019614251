/**
 * Decoded code: straight runs of instructions, compiled once, found again by their address, and forgotten when a byte
 * of their pages is written.
 */

import { PAGE_SIZE, type RuntimeAddress } from "../address.js";
import { addTo } from "../grouped.js";
import { compilerOf } from "./families/index.js";
import { Fault, Unimplemented } from "./fault.js";
import { decodeInstructions, type Instruction } from "./instruction.js";
import type { Memory } from "./memory.js";
import { type Step, UnsupportedOperand } from "./operands.js";
import { IP, joinAddress } from "./state.js";

const MOST_INSTRUCTIONS = 64;
const FEW_BYTES = 64;
const MOST_BYTES = MOST_INSTRUCTIONS * 6;

export interface Block {
  readonly lo: number;
  readonly hi: number;
  /** One a instruction; where the last instruction does not set rip itself, one more that does. */
  readonly steps: readonly Step[];
  readonly instructions: readonly Instruction[];
  /** How many of `steps` are to run: all, or 0 once the block's bytes have been written. */
  count: number;
}

/** Turns one instruction into a step. One that nobody implements becomes a step that says so when it runs. */
export function compile(instruction: Instruction): Step {
  try {
    const step = compilerOf(instruction.mnemonic)?.(instruction);
    if (step !== undefined) return step;
  } catch (error) {
    if (!(error instanceof UnsupportedOperand)) throw error;
  }
  return () => {
    throw new Unimplemented(instruction.text);
  };
}

/** Compiles the block that begins at a runtime address. @throws Fault where its first instruction cannot be fetched */
function buildBlock(memory: Memory, lo: number, hi: number): Block {
  const address = joinAddress(lo, hi) as RuntimeAddress;
  let instructions: readonly Instruction[] = [];
  // A block seldom needs as much as it may have, and what reaches into the next page must not fault before it runs.
  for (const size of [FEW_BYTES, MOST_BYTES]) {
    const bytes = memory.fetch(address, size);
    instructions = decodeInstructions(bytes, address, MOST_INSTRUCTIONS);
    if (instructions.at(-1)?.endsBlock || bytes.length < size) break;
  }
  const last = instructions.at(-1);
  // The end of the first instruction cannot be fetched: the fault is at the page after it.
  if (last === undefined) throw new Fault("page", (Math.floor(address / PAGE_SIZE) + 1) * PAGE_SIZE, "execute");
  const steps = instructions.map(compile);
  if (!last.endsBlock) steps.push(goOnAt(last.next.lo, last.next.hi));
  return { lo, hi, steps, instructions, count: steps.length };
}

const goOnAt =
  (lo: number, hi: number): Step =>
  (cpu) => {
    cpu.w[IP] = lo;
    cpu.w[IP + 1] = hi;
  };

const LOOKUP_SIZE = 1 << 12;

/** The blocks of one address space. */
export class BlockCache {
  private readonly lookup: (Block | undefined)[] = new Array<Block | undefined>(LOOKUP_SIZE).fill(undefined);
  /** All blocks by their runtime address. */
  private readonly blocks = new Map<number, Block>();
  private readonly byPage = new Map<number, Block[]>();

  constructor(private readonly memory: Memory) {}

  /** The block that begins there. @throws Fault where nothing can be executed */
  at(lo: number, hi: number): Block {
    const slot = (lo ^ (lo >>> 12)) & (LOOKUP_SIZE - 1);
    const known = this.lookup[slot];
    if (known !== undefined && known.lo === lo && known.hi === hi && known.count !== 0) return known;
    const block = this.find(lo, hi);
    this.lookup[slot] = block;
    return block;
  }

  private find(lo: number, hi: number): Block {
    const address = joinAddress(lo, hi);
    const known = this.blocks.get(address);
    if (known !== undefined) return known;
    const block = buildBlock(this.memory, lo, hi);
    const end = address + block.instructions.reduce((sum, i) => sum + i.length, 0);
    this.blocks.set(address, block);
    const lastPage = Math.floor(Math.max(address, end - 1) / PAGE_SIZE);
    for (let page = Math.floor(address / PAGE_SIZE); page <= lastPage; page++) {
      addTo(this.byPage, page, block);
    }
    return block;
  }

  /** Forgets what was decoded from a page. A block that is running ends after its current instruction. */
  forget(page: RuntimeAddress): void {
    const number = page / PAGE_SIZE;
    for (const block of this.byPage.get(number) ?? []) {
      block.count = 0;
      this.blocks.delete(joinAddress(block.lo, block.hi));
    }
    this.byPage.delete(number);
    // Blocks across two pages stand in both lists.
    for (const neighbour of [number - 1, number + 1]) {
      const list = this.byPage.get(neighbour);
      if (list?.some((block) => block.count === 0))
        this.byPage.set(
          neighbour,
          list.filter((block) => block.count !== 0),
        );
    }
  }
}
