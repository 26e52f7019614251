/**
 * What really happens below rsp behind a probe, by watch.c: it runs a program under ptrace, and either fills those bytes
 * with garbage at every pass, or single-steps from there on and writes a log. The log is read here: every memory access
 * of every instruction, with the addresses that the registers had, so that nothing of the stack facts is used to judge them.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { clear, fullMask, overlaps } from "../../src/facts/byte-mask.js";
import { iced } from "../../src/x86/iced.js";
import { build } from "../fixtures/build.js";
import { type Outcome, run } from "../run.js";

const source = fileURLToPath(new URL("./watch.c", import.meta.url));

async function watch(mode: string, places: readonly number[], program: string, more: readonly string[]) {
  const built = await build({
    output: "watch",
    compiler: "gcc",
    sources: [source],
    flags: ["-O1", "-Wall", "-Werror"],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  const folder = mkdtempSync(join(tmpdir(), "usdt-watch-"));
  try {
    const offsets = join(folder, "offsets");
    const log = join(folder, "log");
    writeFileSync(offsets, places.map((p) => `${p.toString(16)}\n`).join(""));
    const args = [mode, offsets, program, ...(more.length > 0 ? [log, ...more] : [])];
    const outcome = await run(built.path, args, {
      timeout: 100_000,
      cwd: folder, // profiled programs leave a file
      environment: { LD_BIND_NOW: "1" },
    });
    if (outcome.status === 126 || outcome.status === null) throw new Error(`watch: ${outcome.stderr}`);
    return { outcome, log: more.length > 0 ? readFileSync(log) : Buffer.alloc(0) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a program with the 128 bytes below rsp overwritten at each pass of the places (link-time addresses of nops). */
export async function withGarbage(program: string, places: readonly number[]): Promise<Outcome> {
  return (await watch("garbage", places, program, [])).outcome;
}

/** What was seen behind one place. */
export interface Sighting {
  /** How often it was passed and followed. */
  passes: number;
  /** A read of bytes that held what they held at the probe: who, and where. */
  read: string | undefined;
}

const { OpAccess, Register, MemorySizeExt } = iced;

interface Access {
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly displacement: number;
  readonly size: number;
  readonly reads: boolean;
  readonly writes: boolean;
}

const decoded = new Map<string, { readonly text: string; readonly accesses: readonly Access[] }>();
const formatter = new iced.Formatter(iced.FormatterSyntax.Gas);
const factory = new iced.InstructionInfoFactory();

/** The memory accesses of the instruction that some bytes begin with. */
function accessesOf(bytes: Buffer): { readonly text: string; readonly accesses: readonly Access[] } {
  const key = bytes.toString("hex");
  const known = decoded.get(key);
  if (known !== undefined) return known;
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  const instruction = decoder.decode();
  const info = factory.info(instruction);
  const accesses: Access[] = [];
  for (const m of info.usedMemory()) {
    // Thread-local storage, and addresses relative to the instruction, are not on the stack.
    const elsewhere = [Register.FS, Register.GS].includes(m.segment) || [Register.None, Register.RIP].includes(m.base);
    const { access } = m;
    if (!elsewhere && access !== OpAccess.NoMemAccess) {
      const reads = access !== OpAccess.Write && access !== OpAccess.CondWrite;
      const writes = access === OpAccess.Write || access === OpAccess.ReadWrite;
      const displacement = Number(BigInt.asIntN(64, m.displacement));
      // A step is one element of a repeated string instruction; its size is that of the widest.
      const size = MemorySizeExt.size(m.memorySize) || elementSize(bytes);
      accesses.push({ base: m.base, index: m.index, scale: m.scale, displacement, size, reads, writes });
    }
    m.free();
  }
  const answer = { text: formatter.format(instruction), accesses };
  info.free();
  instruction.free();
  decoder.free();
  decoded.set(key, answer);
  return answer;
}

/** Of movs, stos, lods, scas, cmps with rep: a byte, or as wide as the prefixes say. */
function elementSize(bytes: Buffer): number {
  let at = 0;
  while ([0xf2, 0xf3, 0x66].includes(bytes[at]!)) at++;
  const wide = (bytes[at]! & 0xf8) === 0x48;
  if ((bytes[at]! & 0xf0) === 0x40) at++;
  return (bytes[at]! & 1) === 0 ? 1 : wide ? 8 : 4;
}

const RECORD = 8 * 19 + 16;

/** Steps through the first `most` passes of each place. @returns what was seen, by link-time address */
export async function stepped(
  program: string,
  places: readonly number[],
  most: number,
): Promise<ReadonlyMap<number, Sighting>> {
  const { log } = await watch("step", places, program, [`${most}`]);
  const seen = new Map<number, Sighting>();
  const word = (at: number): number => log.readUInt32LE(at) + log.readUInt32LE(at + 4) * 2 ** 32;
  let mask = fullMask();
  let rsp = 0;
  for (let at = 0; at + RECORD <= log.length; at += RECORD) {
    const place = word(at);
    const register = (r: number): number => (r === Register.None ? 0 : word(at + 24 + 8 * (r - Register.RAX)));
    let sighting = seen.get(place);
    if (sighting === undefined) {
      sighting = { passes: 0, read: undefined };
      seen.set(place, sighting);
    }
    if (word(at + 8) === 0) {
      sighting.passes++;
      mask = fullMask();
      rsp = register(Register.RSP);
      continue;
    }
    const { text, accesses } = accessesOf(log.subarray(at + RECORD - 16, at + RECORD));
    for (const phase of ["reads", "writes"] as const) {
      for (const a of accesses) {
        if (!a[phase]) continue;
        if (a.base < Register.RAX || (a.index !== Register.None && a.index < Register.RAX) || a.index > Register.R15)
          throw new Error(`an address of another kind: ${text}`);
        const from = register(a.base) + register(a.index) * a.scale + a.displacement - rsp;
        // Registers are unsigned here: an index may be negative.
        const wrapped = a.index === Register.None ? from : Number(BigInt.asIntN(64, exactly(log, at, a) - BigInt(rsp)));
        if (phase === "writes") clear(mask, wrapped, wrapped + a.size);
        else if (sighting.read === undefined && overlaps(mask, wrapped, wrapped + a.size))
          sighting.read = `${text} at 0x${word(at + 16).toString(16)}, ${wrapped} from rsp`;
      }
    }
  }
  return seen;
}

/** The address of an access, in 64 bits. */
function exactly(log: Buffer, at: number, { base, index, scale, displacement }: Access): bigint {
  const register = (r: number): bigint => log.readBigUInt64LE(at + 24 + 8 * (r - Register.RAX));
  return register(base) + register(index) * BigInt(scale) + BigInt(displacement);
}
