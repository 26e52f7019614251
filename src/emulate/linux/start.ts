/**
 * What a program finds when it starts (x86-64 psABI, 3.4 "Process Initialization"): its segments, and a stack with
 * argc, argv, envp and the auxiliary vector; rsp is a multiple of 16, all other registers are zero.
 *
 * Everything is the same in every run: no address is random, AT_RANDOM points to fixed bytes, and there is no vDSO, so
 * that each look at the clock is a system call.
 */
import { alignUp, PAGE_SIZE, type RuntimeAddress, runtimeAddress } from "../../address.js";
import * as elf from "../../elf/constants.js";
import type { ElfImage } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import type { Cpu } from "../cpu.js";
import { FEATURES } from "../families/system.js";
import { alignmentOf, type Loaded, load, programHeadersAt } from "../load.js";
import { Perm } from "../memory.js";
import type { Regions } from "../regions.js";
import { Gpr } from "../state.js";

/** The end of user space without its last page, which Linux leaves out. */
const STACK_TOP = runtimeAddress(0x7fff_ffff_f000);
const STACK_SIZE = 8 << 20;
/** Where mmap gives out addresses from, downwards. */
export const MMAP_TOP = runtimeAddress(0x7fff_f7ff_f000);
/** Where Linux puts position-independent programs without randomization. */
const PIE_BASE = 0x5555_5555_4000;

/** Types of the auxiliary vector (psABI; AT_SECURE and later: Linux). */
const Aux = {
  NULL: 0,
  PHDR: 3,
  PHENT: 4,
  PHNUM: 5,
  PAGESZ: 6,
  BASE: 7,
  FLAGS: 8,
  ENTRY: 9,
  UID: 11,
  EUID: 12,
  GID: 13,
  EGID: 14,
  PLATFORM: 15,
  HWCAP: 16,
  CLKTCK: 17,
  SECURE: 23,
  RANDOM: 25,
  HWCAP2: 26,
  EXECFN: 31,
} as const;

export const USER_ID = 1000;

/** Sixteen bytes that are not random: glibc takes its stack protector's and pointer guard's values from them. */
const notRandom = Uint8Array.from({ length: 16 }, (_, i) => 0x11 * i + 7);

interface StartOptions {
  /** argv, the program's name first. */
  readonly arguments: readonly string[];
  /** "NAME=value" each. */
  readonly environment: readonly string[];
  /** AT_EXECFN and what /proc/self/exe points to. */
  readonly path: string;
}

/**
 * Loads a static program and sets up its stack and registers.
 * @throws InputError for a program that needs a dynamic linker, or cannot be loaded
 */
export function start(cpu: Cpu, regions: Regions, image: ElfImage, options: StartOptions): Loaded {
  const { header, programHeaders } = image;
  if (programHeaders.some((p) => p.p_type === elf.PT_INTERP))
    throw new InputError("needs a dynamic linker: only static programs can be run");
  const bias = header.e_type === elf.ET_EXEC ? 0 : alignUp(PIE_BASE, alignmentOf(image));
  const loaded = load(regions, image, bias);
  const executable = programHeaders.some((p) => p.p_type === elf.PT_GNU_STACK && (p.p_flags & elf.PF_X) !== 0);
  const permissions = executable ? Perm.RWX : Perm.RW;
  regions.map(runtimeAddress(STACK_TOP - STACK_SIZE), STACK_SIZE, permissions);
  cpu.setGpr(Gpr.RSP, BigInt(writeStack(cpu, loaded, options)));
  cpu.ip = loaded.toRuntime(header.e_entry);
  return loaded;
}

/** Writes the strings from the top downwards, then the tables; the runtime address of argc. */
function writeStack(cpu: Cpu, loaded: Loaded, options: StartOptions): RuntimeAddress {
  let top = STACK_TOP - 8;
  const put = (bytes: Uint8Array): number => {
    top -= bytes.length;
    cpu.memory.poke(runtimeAddress(top), bytes);
    return top;
  };
  const putText = (text: string): number => put(Buffer.from(`${text}\0`));
  const name = putText(options.path);
  const environment = options.environment.toReversed().map(putText).reverse();
  const argv = options.arguments.toReversed().map(putText).reverse();
  const platform = putText("x86_64");
  top -= top % 16;
  const random = put(notRandom);

  const { header } = loaded.image;
  const auxiliary: readonly (readonly [number, number])[] = [
    [Aux.HWCAP, FEATURES],
    [Aux.PAGESZ, PAGE_SIZE],
    [Aux.CLKTCK, 100],
    [Aux.PHDR, programHeadersAt(loaded) ?? 0],
    [Aux.PHENT, elf.PHDR_SIZE],
    [Aux.PHNUM, header.e_phnum],
    [Aux.BASE, 0],
    [Aux.FLAGS, 0],
    [Aux.ENTRY, loaded.toRuntime(header.e_entry)],
    [Aux.UID, USER_ID],
    [Aux.EUID, USER_ID],
    [Aux.GID, USER_ID],
    [Aux.EGID, USER_ID],
    [Aux.SECURE, 0],
    [Aux.RANDOM, random],
    [Aux.HWCAP2, 0],
    [Aux.EXECFN, name],
    [Aux.PLATFORM, platform],
    [Aux.NULL, 0],
  ];
  const words = [argv.length, ...argv, 0, ...environment, 0, ...auxiliary.flat()];
  const table = Buffer.alloc(8 * words.length);
  for (const [i, word] of words.entries()) table.writeBigUInt64LE(BigInt(word), 8 * i);
  top -= table.length;
  top -= top % 16;
  cpu.memory.poke(runtimeAddress(top), table);
  return runtimeAddress(top);
}
