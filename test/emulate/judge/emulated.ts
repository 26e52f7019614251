/** The emulator's side of a case: the same code and data at the same addresses, one step, and the same record. */
import { hex, PAGE_SIZE, runtimeAddress } from "../../../src/address.js";
import { Cpu } from "../../../src/emulate/cpu.js";
import type { FaultKind, Outcome } from "../../../src/emulate/fault.js";
import { Perm } from "../../../src/emulate/memory.js";
import * as state from "../../../src/emulate/state.js";
import * as at from "./layout.js";
import { Exception, FAULTED, type Layout, Record } from "./layout.js";
import { EXIT, LANDED } from "./native.js";

const exceptions: Readonly<{ [kind in FaultKind]: number }> = {
  page: Exception.PAGE,
  "general-protection": Exception.PROTECTION,
  divide: Exception.DIVIDE,
  undefined: Exception.UNDEFINED,
};

export class EmulatedSide {
  private readonly cpu = new Cpu();

  constructor(
    private readonly layout: Layout,
    code: Uint8Array,
  ) {
    const { memory } = this.cpu;
    memory.map(runtimeAddress(layout.code), code.length, Perm.RX);
    memory.poke(runtimeAddress(layout.code), code);
    memory.map(runtimeAddress(layout.scratch), at.SCRATCH_SIZE, Perm.RW);
    memory.map(runtimeAddress(LANDED - (LANDED % PAGE_SIZE)), PAGE_SIZE, Perm.RW);
    memory.map(runtimeAddress(EXIT - (EXIT % PAGE_SIZE)), PAGE_SIZE, Perm.RX);
    memory.map(runtimeAddress(layout.readOnly), at.READ_ONLY_SIZE, Perm.R);
    memory.poke(runtimeAddress(layout.readOnly), at.readOnlyContent());
  }

  /**
   * Runs one case.
   * @param before its record
   * @param after receives the record afterwards
   * @param count how many instructions it is
   * @returns why nothing can be said of it, where the instruction is not implemented
   */
  run(before: Uint8Array, after: Uint8Array, count: number): string | undefined {
    const { cpu } = this;
    this.load(before);
    // Several are run as the block that they are.
    const outcome = count === 1 ? cpu.step() : this.runToLanding(count);
    if (outcome.kind === "unimplemented") return outcome.instruction;
    this.store(after, outcome);
    return undefined;
  }

  /** The landing's two instructions belong to the block: with them it is run as a whole. */
  private runToLanding(count: number): Outcome {
    const { cpu } = this;
    const outcome = cpu.run(count + 2);
    if (outcome.kind !== "limit") return outcome;
    if (cpu.ip !== EXIT) throw new Error(`the emulator is at ${hex(cpu.ip)} and not at the exit`);
    const landed = cpu.memory.peek(runtimeAddress(LANDED), 4);
    cpu.ip = new DataView(landed.buffer, landed.byteOffset, 4).getUint32(0, true);
    return outcome;
  }

  private load(before: Uint8Array): void {
    const { cpu } = this;
    const view = new DataView(before.buffer, before.byteOffset, before.byteLength);
    cpu.memory.poke(runtimeAddress(this.layout.area), before.subarray(Record.AREA, Record.AREA + at.AREA_SIZE));
    cpu.memory.poke(runtimeAddress(this.layout.edge), before.subarray(Record.EDGE, Record.EDGE + at.EDGE_SIZE));
    for (let i = 0; i < 32; i++) cpu.w[i] = view.getInt32(Record.GPR + 4 * i, true);
    for (let i = 0; i < 64; i++) cpu.w[state.XMM + i] = view.getInt32(Record.XMM + 4 * i, true);
    cpu.rflags = view.getUint32(Record.FLAGS, true);
    cpu.w[state.MXCSR] = view.getInt32(Record.FX_MXCSR, true);
    cpu.w[state.MXCSR_STALE] = 0;
    cpu.w[state.FPU_CONTROL] = view.getUint16(Record.FX, true);
    for (const [word, base] of [
      [state.FS_BASE, at.FS_BASE],
      [state.GS_BASE, at.GS_BASE],
    ] as const) {
      cpu.w[word] = state.lowWord(base);
      cpu.w[word + 1] = state.highWord(base);
    }
    cpu.ip = view.getUint32(Record.IP, true);
  }

  private store(after: Uint8Array, outcome: Outcome): void {
    const { cpu } = this;
    const view = new DataView(after.buffer, after.byteOffset, after.byteLength);
    after.set(cpu.memory.peek(runtimeAddress(this.layout.area), at.AREA_SIZE), Record.AREA);
    after.set(cpu.memory.peek(runtimeAddress(this.layout.edge), at.EDGE_SIZE), Record.EDGE);
    for (let i = 0; i < 32; i++) view.setInt32(Record.GPR + 4 * i, cpu.w[i]!, true);
    for (let i = 0; i < 64; i++) view.setInt32(Record.XMM + 4 * i, cpu.w[state.XMM + i]!, true);
    view.setBigUint64(Record.FLAGS, BigInt(cpu.rflags), true);
    view.setInt32(Record.IP, cpu.w[state.IP]!, true);
    view.setInt32(Record.IP + 4, cpu.w[state.IP + 1]!, true);
    view.setInt32(Record.FX_MXCSR, cpu.w[state.MXCSR]!, true);
    view.setBigUint64(Record.TRAP, BigInt(trapOf(outcome)), true);
  }
}

function trapOf(outcome: Outcome): number {
  if (outcome.kind === "fault") return FAULTED | exceptions[outcome.fault];
  return outcome.kind === "breakpoint" ? FAULTED | Exception.BREAKPOINT : 0;
}
