/**
 * One call of a handler after the other, as the C library calls them; new code of the guard calls them as well, and
 * counts on more: all registers and the flags are what they were.
 *
 * What it reads is the sites, the table of slots and its own tables; what it writes is its own stack, and slots.
 */
import { hex, PAGE_SIZE } from "../../address.js";
import { stateOf } from "../../emulate/machine-states.js";
import { FS_BASE, highWord, lowWord, Rflags, STATE_WORDS } from "../../emulate/state.js";
import { NOP5 } from "../../x86/bytes.js";
import type { Guarded } from "./kernel.js";
import { type Machine, THREAD } from "./machine.js";
import type { Slots } from "./slots.js";

/** Instructions that a site may cost, and that everything else may. */
const EACH = 400;
const REST = 4000;
const MOST_CALLS = 64;
/** Marks of bytes: of a site; looked at. */
const [SITE, READ] = [1, 2];

export class HandlerRuns {
  /** By page what a run may read there: the bytes of sites, and which of them have been read. */
  private readonly siteBytes = new Map<number, Uint8Array>();
  private lastPage = -1;
  private lastBytes: Uint8Array | undefined;

  constructor(
    private readonly machine: Machine,
    private readonly guarded: Guarded,
    private readonly slots: Slots | undefined,
  ) {
    for (const { address } of guarded.pages) this.siteBytes.set(address, new Uint8Array(PAGE_SIZE));
    for (const { address, page } of guarded.sites) {
      const { address: start } = guarded.pages[page]!;
      this.siteBytes.get(start)!.fill(SITE, address - start, address - start + NOP5.length);
    }
  }

  private readonly mayRead = (address: number, size: number): boolean => {
    if (this.slots?.mayRead(address, size) || (address === this.machine.selector && size === 1)) return true;
    const offset = address % PAGE_SIZE;
    if (address - offset !== this.lastPage) {
      this.lastPage = address - offset;
      this.lastBytes = this.siteBytes.get(this.lastPage);
    }
    const bytes = this.lastBytes;
    if (bytes === undefined || offset + size > PAGE_SIZE) return false;
    for (let i = offset; i < offset + size; i++) if (bytes[i] === 0) return false;
    for (let i = offset; i < offset + size; i++) bytes[i] = READ;
    return true;
  };

  /**
   * Calls the handler at a link-time address, from a state that follows from `turn`.
   * @param systemCall does what the kernel does for one
   * @returns what is wrong, or undefined
   */
  run(start: number, turn: number, systemCall: () => void): string | undefined {
    const { machine, slots } = this;
    const { cpu } = machine;
    cpu.w.set(stateOf(9001 + turn, []).words);
    if (turn % 5 === 1) cpu.rflags |= Rflags.DF;
    cpu.w[FS_BASE] = lowWord(THREAD);
    cpu.w[FS_BASE + 1] = highWord(THREAD);
    const before = cpu.w.slice(0, STATE_WORDS);
    const flags = cpu.rflags;
    machine.call(start, before, 8 * (turn % 4), this.mayRead, slots?.mayWrite);
    const { length } = this.guarded.sites;
    for (let calls = 0; ; calls++) {
      const end = machine.run(REST + EACH * length);
      if (machine.problems.length > 0) return machine.problems[0];
      if (end.kind === "left") break;
      if (end.kind !== "syscall") return `it ends with "${end.kind}${end.detail && `: ${end.detail}`}"`;
      if (calls === MOST_CALLS + 8 * length) return "it makes system calls without end";
      systemCall();
    }
    if (!machine.hasReturned) return `it goes on at ${hex(machine.ip)}, not back to its caller`;
    if (!machine.callersStackIsWhole) return "it changes the stack of its caller";
    if (cpu.rflags !== flags) return "the flags are not what they were";
    // All but rsp, rip and flags.
    for (let i = 0; i < STATE_WORDS; i++)
      if ((i < 8 || i > 9) && (i < 32 || i > 41) && cpu.w[i] !== before[i]) return "a register is not what it was";
    return undefined;
  }

  /** A byte of a site that none of the runs has looked at. */
  unread(): string | undefined {
    for (const { address } of this.guarded.sites) {
      const offset = address % PAGE_SIZE;
      const bytes = this.siteBytes.get(address - offset)!;
      if (bytes.subarray(offset, offset + NOP5.length).some((byte) => byte !== READ))
        return `it does not look at the site at ${hex(address)}`;
    }
    return undefined;
  }
}
