/**
 * How far rsp is below the caller's frame at each instruction of a piece of code that moves it by constants alone:
 * pushes, pops, additions and subtractions.
 */
import { hex, type Vaddr, vaddr } from "../../address.js";
import { decode, Flow } from "../../x86/decode.js";
import { iced } from "../../x86/iced.js";
import { decodeOne } from "../../x86/relocate.js";

const { Register, OpAccess, Mnemonic } = iced;
const infoFactory = new iced.InstructionInfoFactory();
const RETURN_ADDRESS = 8;

/** CFA - rsp by address, for every instruction that is reached from the start; or why that cannot be told. */
export function stackDepths(bytes: Uint8Array, start: Vaddr): ReadonlyMap<number, number> | string {
  const code = decode(bytes, start);
  const indexOf = new Map(Array.from({ length: code.count }, (_, i) => [start + code.offsets[i]!, i] as const));
  const depths = new Map<number, number>();
  const open: [number, number][] = [[start, RETURN_ADDRESS]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [at, depth] = next;
    const index = indexOf.get(at);
    if (index === undefined) {
      if (at >= start && at < start + bytes.length) return `no instruction begins at ${hex(at)}`;
      // It goes on elsewhere: as a function that it calls in the end, with the stack as it came.
      if (depth !== RETURN_ADDRESS) return `it leaves for ${hex(at)} with rsp moved`;
      continue;
    }
    const known = depths.get(at);
    if (known === depth) continue;
    if (known !== undefined) return `rsp is not the same on all ways to ${hex(at)}`;
    depths.set(at, depth);
    const flow = code.flow[index]!;
    const own = code.bytes.subarray(code.offsets[index]!, code.offsets[index + 1]!);
    const change = stackChange(own, at);
    if (change === undefined) return `what the instruction at ${hex(at)} does to rsp is not known`;
    if (flow & Flow.Return) {
      if (depth !== RETURN_ADDRESS) return `it returns at ${hex(at)} with rsp moved`;
      continue;
    }
    if (flow & Flow.IndirectJump) {
      if (depth !== RETURN_ADDRESS) return `it leaves at ${hex(at)} with rsp moved`;
      continue;
    }
    const after = flow & Flow.Call ? depth : depth - change;
    const target = code.targets[index]!;
    const branches = (flow & (Flow.Jump | Flow.Conditional)) !== 0 && !Number.isNaN(target);
    if (branches) open.push([target, after]);
    if ((flow & Flow.Jump) === 0) open.push([start + code.offsets[index + 1]!, after]);
  }
  return depths;
}

/** What an instruction adds to rsp; undefined where that is no constant. A call gives back what it takes. */
function stackChange(bytes: Uint8Array, at: number): number | undefined {
  return decodeOne(bytes, vaddr(at), (instruction) => {
    if (instruction.isStackInstruction) return instruction.stackPointerIncrement;
    const info = infoFactory.info(instruction);
    let writes = false;
    for (const used of info.usedRegisters()) {
      const isWrite = used.access !== OpAccess.Read && used.access !== OpAccess.CondRead;
      if (isWrite && iced.RegisterExt.fullRegister(used.register) === Register.RSP) writes = true;
      used.free();
    }
    info.free();
    if (!writes) return 0;
    if (instruction.op0Register !== Register.RSP || instruction.opCount !== 2) return undefined;
    const { mnemonic } = instruction;
    if (
      mnemonic === Mnemonic.Lea &&
      instruction.memoryBase === Register.RSP &&
      instruction.memoryIndex === Register.None
    )
      return Number(BigInt.asIntN(64, instruction.memoryDisplacement));
    if (mnemonic !== Mnemonic.Add && mnemonic !== Mnemonic.Sub) return undefined;
    if (instruction.op1Kind === iced.OpKind.Register || instruction.op1Kind === iced.OpKind.Memory) return undefined;
    const amount = Number(BigInt.asIntN(64, instruction.immediate(1)));
    return mnemonic === Mnemonic.Add ? amount : -amount;
  });
}
