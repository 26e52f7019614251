/** System calls about memory: mmap, munmap, mprotect, mremap, brk, madvise. Only anonymous memory can be mapped. */
import { alignUp, PAGE_SIZE, type RuntimeAddress, runtimeAddress } from "../../address.js";
import { effective } from "../regions.js";
import { CallError, Errno } from "./errno.js";
import { NotImplemented, type SystemCall, type SystemCalls } from "./process.js";
import { MMAP_TOP } from "./start.js";

const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_FIXED_NOREPLACE = 0x100000;
const MREMAP_MAYMOVE = 1;
const MADV_DONTNEED = 4;
const USER_END = 2 ** 47 - PAGE_SIZE;

/** PROT_* as bits of Perm: read and execute change places. */
function permissionsOf(prot: number): number {
  if ((prot & ~7) !== 0) throw new NotImplemented(`memory protection 0x${prot.toString(16)}`);
  return effective(((prot & 1) << 2) | (prot & 2) | ((prot >> 2) & 1));
}

function range(address: number, size: number): { start: RuntimeAddress; size: number } {
  if (address % PAGE_SIZE !== 0) throw new CallError(Errno.EINVAL);
  if (address + size > USER_END) throw new CallError(Errno.ENOMEM);
  return { start: runtimeAddress(address), size: alignUp(size, PAGE_SIZE) };
}

const mmap: SystemCall = ({ regions }, args) => {
  const [hint, size, prot, flags] = [args.size(0), alignUp(args.size(1), PAGE_SIZE), args.int(2), args.int(3)];
  if ((flags & MAP_ANONYMOUS) === 0) throw new NotImplemented("mmap of a file");
  if (size === 0) throw new CallError(Errno.EINVAL);
  const permissions = permissionsOf(prot);
  const fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
  if (fixed) {
    const { start } = range(hint, size);
    const free = regions.isFree(start, runtimeAddress(start + size));
    if ((flags & MAP_FIXED_NOREPLACE) !== 0 && !free) throw new CallError(Errno.EEXIST);
    regions.map(start, size, permissions);
    return start;
  }
  const wish = runtimeAddress(hint - (hint % PAGE_SIZE));
  const wanted = wish > 0 && wish + size < USER_END && regions.isFree(wish, runtimeAddress(wish + size));
  const start = wanted ? wish : regions.findFree(size, MMAP_TOP);
  if (start === undefined) throw new CallError(Errno.ENOMEM);
  regions.map(start, size, permissions);
  return start;
};

const munmap: SystemCall = ({ regions }, args) => {
  const { start, size } = range(args.size(0), args.size(1));
  if (size === 0) throw new CallError(Errno.EINVAL);
  regions.unmap(start, size);
  return 0;
};

const mprotect: SystemCall = ({ regions }, args) => {
  const { start, size } = range(args.size(0), args.size(1));
  const permissions = permissionsOf(args.int(2));
  if (size > 0 && !regions.protect(start, size, permissions)) throw new CallError(Errno.ENOMEM);
  return 0;
};

/** Grows or shrinks a mapping, where it is or, if it may move, elsewhere. */
const mremap: SystemCall = (process, args) => {
  const { start, size } = range(args.size(0), args.size(1));
  const wanted = alignUp(args.size(2), PAGE_SIZE);
  const flags = args.int(3);
  if ((flags & ~MREMAP_MAYMOVE) !== 0) throw new NotImplemented(`mremap with flags 0x${flags.toString(16)}`);
  const { regions, cpu } = process;
  const region = regions.at(start);
  if (region === undefined || region.end < start + size) throw new CallError(Errno.EFAULT);
  if (wanted === 0 || size === 0) throw new CallError(Errno.EINVAL);
  if (wanted <= size) {
    if (wanted < size) regions.unmap(runtimeAddress(start + wanted), size - wanted);
    return start;
  }
  const behind = runtimeAddress(start + size);
  if (regions.isFree(behind, runtimeAddress(start + wanted)) && start + wanted <= USER_END) {
    regions.map(behind, wanted - size, region.permissions);
    return start;
  }
  if ((flags & MREMAP_MAYMOVE) === 0) throw new CallError(Errno.ENOMEM);
  const moved = regions.findFree(wanted, MMAP_TOP);
  if (moved === undefined) throw new CallError(Errno.ENOMEM);
  const content = region.permissions === 0 ? new Uint8Array(0) : cpu.memory.peek(start, size);
  regions.map(moved, wanted, region.permissions);
  cpu.memory.poke(moved, content);
  regions.unmap(start, size);
  return moved;
};

/** The program break; a break that cannot be had leaves the old one and returns it. */
const brk: SystemCall = (process, args) => {
  const wanted = args.address(0);
  const { regions, firstBreak } = process;
  if (wanted < firstBreak) return process.break;
  const end = runtimeAddress(alignUp(wanted, PAGE_SIZE));
  const mapped = runtimeAddress(alignUp(process.break, PAGE_SIZE));
  if (end > mapped) {
    if (end > USER_END || !regions.isFree(mapped, end)) return process.break;
    regions.map(mapped, end - mapped, permissionsOf(3));
  } else if (end < mapped) regions.unmap(end, mapped - end);
  process.break = wanted;
  return wanted;
};

const madvise: SystemCall = ({ regions, cpu }, args) => {
  const { start, size } = range(args.size(0), args.size(1));
  const advice = args.int(2);
  if (!regions.covers(start, runtimeAddress(start + size))) throw new CallError(Errno.ENOMEM);
  // Pages come back with their first content when they are touched again. Other advice is about speed.
  if (advice === MADV_DONTNEED) cpu.memory.unmap(start, size);
  else if (advice > 3 && advice !== 14 && advice !== 15) throw new NotImplemented(`madvise with advice ${advice}`);
  return 0;
};

export const memoryCalls: SystemCalls = new Map([
  [9, mmap],
  [10, mprotect],
  [11, munmap],
  [12, brk],
  [25, mremap],
  [28, madvise],
]);
