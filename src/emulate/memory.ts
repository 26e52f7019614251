/**
 * The memory of one address space: pages with permissions, in one growing arena, behind a software TLB.
 *
 * Addresses are two words (state.ts). A page that may be read, or written, without any side effect stands in the TLB
 * for that access, and an access costs one comparison of tags. Everything else takes the slow path: pages that are not
 * mapped, accesses across two pages, the first write to a page whose bytes have been decoded as code, and each write
 * while somebody watches writes.
 */
import { PAGE_SIZE, type RuntimeAddress } from "../address.js";
import { type Access, Fault } from "./fault.js";
import { highWord, joinAddress, lowWord } from "./state.js";
import { OFFSET, TLB_SIZE, Tlb } from "./tlb.js";

/** Permissions of a page, as PF_* of a program header: bits. */
export const Perm = { X: 1, W: 2, R: 4, RW: 6, RX: 5, RWX: 7 } as const;

/** Runtime addresses of user mode end here. */
const USER_END = 2 ** 47;

interface Page {
  /** Runtime address / PAGE_SIZE. */
  readonly number: number;
  /** Where its bytes are in the arena. */
  frame: number;
  permissions: number;
  /** Some of its bytes have been decoded as code. */
  code: boolean;
}

export class Memory {
  /** High word of what read64 has read. */
  hi = 0;
  /** What read128 has read. */
  readonly q = new Int32Array(4);
  /**
   * Called where an access meets no page; may map one and return true, then the access is tried again. Without it, or
   * where it returns false, the access is a page fault.
   */
  onMiss: ((page: RuntimeAddress, access: Access) => boolean) | null = null;
  /** Called with the page's address when bytes that have been decoded as code are about to change. */
  onCodeWrite: ((page: RuntimeAddress) => void) | null = null;
  private watcher: ((address: RuntimeAddress, size: number) => void) | null = null;
  private arena = new Uint8Array(64 * PAGE_SIZE);
  private view = new DataView(this.arena.buffer);
  private used = 0;
  private readonly free: number[] = [];
  private readonly pages = new Map<number, Page>();
  private readonly readable = new Tlb();
  private readonly writable = new Tlb();

  /**
   * Called after each write of a program, with its runtime address and size in bytes; null to stop. Slows writes down.
   */
  set onWrite(watcher: ((address: RuntimeAddress, size: number) => void) | null) {
    this.watcher = watcher;
    this.writable.clear();
  }

  /**
   * Maps zeroed pages; pages that are mapped there already are replaced, as mmap with MAP_FIXED does.
   * @param address runtime address, a multiple of PAGE_SIZE
   * @param size in bytes, rounded up to pages
   */
  map(address: RuntimeAddress, size: number, permissions: number): void {
    if (address % PAGE_SIZE !== 0 || address < 0 || address + size > USER_END)
      throw new RangeError(`cannot map ${size} bytes at ${address}`);
    this.unmap(address, size);
    const end = Math.ceil((address + size) / PAGE_SIZE);
    for (let number = address / PAGE_SIZE; number < end; number++) {
      const frame = this.takeFrame();
      this.pages.set(number, { number, frame, permissions, code: false });
    }
  }

  unmap(address: RuntimeAddress, size: number): void {
    const gone = this.pagesIn(address, size);
    for (const page of gone) {
      this.forgetCode(page);
      this.pages.delete(page.number);
      this.free.push(page.frame);
    }
    if (gone.length > 0) this.flush();
  }

  /** Changes the permissions of the pages that are mapped there. */
  protect(address: RuntimeAddress, size: number, permissions: number): void {
    for (const page of this.pagesIn(address, size)) {
      this.forgetCode(page);
      page.permissions = permissions;
    }
    this.flush();
  }

  /** The permissions of the page that holds `address`, or undefined where none is mapped. */
  permissionsAt(address: RuntimeAddress): number | undefined {
    return this.pages.get(Math.floor(address / PAGE_SIZE))?.permissions;
  }

  /** Runtime addresses of all mapped pages, in no order. */
  mappedPages(): RuntimeAddress[] {
    return [...this.pages.keys()].map((number) => (number * PAGE_SIZE) as RuntimeAddress);
  }

  /** Copies bytes in, whatever the permissions are: for loaders and kernels. @throws Fault where no page is */
  poke(address: RuntimeAddress, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const at = (address + done) as RuntimeAddress;
      const page = this.pageFor(at, "write");
      const size = Math.min(bytes.length - done, PAGE_SIZE - (at % PAGE_SIZE));
      this.forgetCode(page);
      this.arena.set(bytes.subarray(done, done + size), page.frame + (at % PAGE_SIZE));
      done += size;
    }
  }

  /** A copy of bytes, whatever the permissions are. @throws Fault where no page is */
  peek(address: RuntimeAddress, size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    for (let done = 0; done < size; ) {
      const at = (address + done) as RuntimeAddress;
      const page = this.pageFor(at, "read");
      const length = Math.min(size - done, PAGE_SIZE - (at % PAGE_SIZE));
      const from = page.frame + (at % PAGE_SIZE);
      bytes.set(this.arena.subarray(from, from + length), done);
      done += length;
    }
    return bytes;
  }

  /**
   * Up to `most` bytes of code from `address` on, fewer where executable pages end; the pages are then known to hold
   * code.
   * @throws Fault where the first byte cannot be executed
   */
  fetch(address: RuntimeAddress, most: number): Uint8Array {
    const bytes = new Uint8Array(most);
    let done = 0;
    while (done < most) {
      const at = (address + done) as RuntimeAddress;
      const page = at < USER_END ? this.find(at, "execute") : undefined;
      if (page === undefined || (page.permissions & Perm.X) === 0) break;
      page.code = true;
      this.writable.drop(lowWord(at));
      const size = Math.min(most - done, PAGE_SIZE - (at % PAGE_SIZE));
      const from = page.frame + (at % PAGE_SIZE);
      bytes.set(this.arena.subarray(from, from + size), done);
      done += size;
    }
    if (done === 0) throw new Fault("page", address, "execute");
    return bytes.subarray(0, done);
  }

  // Reads. Each takes the low and high word of the runtime address and throws Fault.

  read8(lo: number, hi: number): number {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { readable } = this;
    if (readable.lo[i] === (lo & ~OFFSET) && readable.hi[i] === hi)
      return this.arena[readable.frame[i]! + (lo & OFFSET)]!;
    // Bringing a page in may replace the arena: first the place, then the arena.
    const at = this.locate(lo, hi, "read");
    return this.arena[at]!;
  }

  read16(lo: number, hi: number): number {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { readable } = this;
    if (readable.lo[i] === (lo & ~OFFSET) && readable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 2)
      return this.view.getUint16(readable.frame[i]! + (lo & OFFSET), true);
    return this.slowRead(lo, hi, 2).getUint16(0, true);
  }

  /** 32 bits, as a signed integer. */
  read32(lo: number, hi: number): number {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { readable } = this;
    if (readable.lo[i] === (lo & ~OFFSET) && readable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 4)
      return this.view.getInt32(readable.frame[i]! + (lo & OFFSET), true);
    return this.slowRead(lo, hi, 4).getInt32(0, true);
  }

  /** Returns the low word; the high one is in `hi`. */
  read64(lo: number, hi: number): number {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { readable } = this;
    if (readable.lo[i] === (lo & ~OFFSET) && readable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 8) {
      const at = readable.frame[i]! + (lo & OFFSET);
      this.hi = this.view.getInt32(at + 4, true);
      return this.view.getInt32(at, true);
    }
    const bytes = this.slowRead(lo, hi, 8);
    this.hi = bytes.getInt32(4, true);
    return bytes.getInt32(0, true);
  }

  /** Reads 16 bytes into `q`. */
  read128(lo: number, hi: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { readable, q } = this;
    let view: DataView = this.view;
    let at = 0;
    if (readable.lo[i] === (lo & ~OFFSET) && readable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 16)
      at = readable.frame[i]! + (lo & OFFSET);
    else view = this.slowRead(lo, hi, 16);
    q[0] = view.getInt32(at, true);
    q[1] = view.getInt32(at + 4, true);
    q[2] = view.getInt32(at + 8, true);
    q[3] = view.getInt32(at + 12, true);
  }

  // Writes.

  write8(lo: number, hi: number, value: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { writable } = this;
    if (writable.lo[i] === (lo & ~OFFSET) && writable.hi[i] === hi)
      this.arena[writable.frame[i]! + (lo & OFFSET)] = value;
    else {
      this.scratch.setInt8(0, value);
      this.slowWrite(lo, hi, 1);
    }
  }

  write16(lo: number, hi: number, value: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { writable } = this;
    if (writable.lo[i] === (lo & ~OFFSET) && writable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 2)
      this.view.setInt16(writable.frame[i]! + (lo & OFFSET), value, true);
    else {
      this.scratch.setInt16(0, value, true);
      this.slowWrite(lo, hi, 2);
    }
  }

  write32(lo: number, hi: number, value: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { writable } = this;
    if (writable.lo[i] === (lo & ~OFFSET) && writable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 4)
      this.view.setInt32(writable.frame[i]! + (lo & OFFSET), value, true);
    else {
      this.scratch.setInt32(0, value, true);
      this.slowWrite(lo, hi, 4);
    }
  }

  write64(lo: number, hi: number, valueLo: number, valueHi: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { writable } = this;
    if (writable.lo[i] === (lo & ~OFFSET) && writable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 8) {
      const at = writable.frame[i]! + (lo & OFFSET);
      this.view.setInt32(at, valueLo, true);
      this.view.setInt32(at + 4, valueHi, true);
    } else {
      this.scratch.setInt32(0, valueLo, true);
      this.scratch.setInt32(4, valueHi, true);
      this.slowWrite(lo, hi, 8);
    }
  }

  write128(lo: number, hi: number, w0: number, w1: number, w2: number, w3: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    const { writable } = this;
    let view = this.scratch;
    let at = 0;
    const fast = writable.lo[i] === (lo & ~OFFSET) && writable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - 16;
    if (fast) {
      view = this.view;
      at = writable.frame[i]! + (lo & OFFSET);
    }
    view.setInt32(at, w0, true);
    view.setInt32(at + 4, w1, true);
    view.setInt32(at + 8, w2, true);
    view.setInt32(at + 12, w3, true);
    if (!fast) this.slowWrite(lo, hi, 16);
  }

  /**
   * Makes sure that `size` bytes can be written, so that an instruction that reads, computes flags and writes back
   * cannot fault once it has changed anything. @throws Fault
   */
  probeWrite(lo: number, hi: number, size: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    if (this.writable.lo[i] === (lo & ~OFFSET) && this.writable.hi[i] === hi && (lo & OFFSET) <= PAGE_SIZE - size)
      return;
    const address = checked(lo, hi);
    this.require(address, "write");
    if ((address % PAGE_SIZE) + size > PAGE_SIZE) this.require(nextPage(address), "write");
  }

  // Stretches: what repeated string instructions do to many elements at once, where both pages can be accessed without
  // a side effect. They do as much as one page allows and say how many bytes that was: a multiple of the element, or 0
  // where the next element is to be taken alone.

  /** Copies up to `most` bytes upwards, element by element. */
  copyStretch(toLo: number, toHi: number, fromLo: number, fromHi: number, most: number, element: number): number {
    const to = this.writable.frameOf(toLo, toHi);
    const from = this.readable.frameOf(fromLo, fromHi);
    if (to < 0 || from < 0) return 0;
    const target = to + (toLo & OFFSET);
    const source = from + (fromLo & OFFSET);
    let size = Math.min(most, PAGE_SIZE - (toLo & OFFSET), PAGE_SIZE - (fromLo & OFFSET));
    // Elements that are written now are read again later: no further than up to there.
    if (source < target && source + size > target) size = target - source;
    size -= size % element;
    if (size > 0) this.arena.copyWithin(target, source, source + size);
    return size;
  }

  /** Writes the element in front of an address again and again, up to `most` bytes from there on. */
  repeatStretch(lo: number, hi: number, most: number, element: number): number {
    const frame = this.writable.frameOf(lo, hi);
    const offset = lo & OFFSET;
    if (frame < 0 || offset < element) return 0;
    let size = Math.min(most, PAGE_SIZE - offset);
    size -= size % element;
    const at = frame + offset;
    if (element === 1) this.arena.fill(this.arena[at - 1]!, at, at + size);
    else
      for (let done = 0; done < size; ) {
        const length = Math.min(size - done, done + element);
        this.arena.copyWithin(at + done, at - element, at - element + length);
        done += length;
      }
    return size;
  }

  private readonly scratchBytes = new Uint8Array(16);
  private readonly scratch = new DataView(this.scratchBytes.buffer);

  private slowRead(lo: number, hi: number, size: number): DataView {
    const address = checked(lo, hi);
    const first = Math.min(size, PAGE_SIZE - (address % PAGE_SIZE));
    const at = this.locate(lo, hi, "read");
    this.scratchBytes.set(this.arena.subarray(at, at + first));
    if (first < size) {
      const next = nextPage(address);
      const from = this.locate(lowWord(next), highWord(next), "read");
      this.scratchBytes.set(this.arena.subarray(from, from + size - first), first);
    }
    return this.scratch;
  }

  /** Writes the first bytes of `scratch`; nothing is written where any of them cannot be. */
  private slowWrite(lo: number, hi: number, size: number): void {
    const address = checked(lo, hi);
    const first = Math.min(size, PAGE_SIZE - (address % PAGE_SIZE));
    const head = this.require(address, "write");
    const tail = first < size ? this.require(nextPage(address), "write") : undefined;
    this.forgetCode(head);
    this.arena.set(this.scratchBytes.subarray(0, first), head.frame + (address % PAGE_SIZE));
    if (tail !== undefined) {
      this.forgetCode(tail);
      this.arena.set(this.scratchBytes.subarray(first, size), tail.frame);
    }
    if (this.watcher !== null) this.watcher(address, size);
    else this.writable.set(lo, hi, head.frame);
  }

  /** Where a byte is in the arena. */
  private locate(lo: number, hi: number, access: Access): number {
    const address = checked(lo, hi);
    const page = this.require(address, access);
    if (access === "read") this.readable.set(lo, hi, page.frame);
    return page.frame + (address % PAGE_SIZE);
  }

  private require(address: RuntimeAddress, access: "read" | "write" | Access): Page {
    const page = this.find(address, access);
    const needed = access === "read" ? Perm.R : access === "write" ? Perm.W : Perm.X;
    if (page === undefined || (page.permissions & needed) === 0) throw new Fault("page", address, access);
    return page;
  }

  private find(address: RuntimeAddress, access: Access): Page | undefined {
    const number = Math.floor(address / PAGE_SIZE);
    const page = this.pages.get(number);
    if (page !== undefined || this.onMiss === null) return page;
    return this.onMiss((number * PAGE_SIZE) as RuntimeAddress, access) ? this.pages.get(number) : undefined;
  }

  private pageFor(address: RuntimeAddress, access: Access): Page {
    const page = this.find(address, access);
    if (page === undefined) throw new Fault("page", address, access);
    return page;
  }

  private pagesIn(address: RuntimeAddress, size: number): Page[] {
    const first = Math.floor(address / PAGE_SIZE);
    const end = Math.ceil((address + size) / PAGE_SIZE);
    if (end - first > this.pages.size)
      return [...this.pages.values()].filter((p) => p.number >= first && p.number < end);
    const found: Page[] = [];
    for (let number = first; number < end; number++) {
      const page = this.pages.get(number);
      if (page !== undefined) found.push(page);
    }
    return found;
  }

  private forgetCode(page: Page): void {
    if (!page.code) return;
    page.code = false;
    this.onCodeWrite?.((page.number * PAGE_SIZE) as RuntimeAddress);
  }

  private takeFrame(): number {
    const free = this.free.pop();
    if (free !== undefined) {
      this.arena.fill(0, free, free + PAGE_SIZE);
      return free;
    }
    if (this.used === this.arena.length) {
      const larger = new Uint8Array(this.arena.length * 2);
      larger.set(this.arena);
      this.arena = larger;
      this.view = new DataView(larger.buffer);
    }
    this.used += PAGE_SIZE;
    return this.used - PAGE_SIZE;
  }

  private flush(): void {
    this.readable.clear();
    this.writable.clear();
  }
}

/** The address as a number. @throws Fault where user mode cannot have it */
function checked(lo: number, hi: number): RuntimeAddress {
  // Bits 47 to 63 are the same in a canonical address; user mode has the lower half.
  if (hi >>> 15 === 0) return joinAddress(lo, hi) as RuntimeAddress;
  if (hi >> 15 === -1) throw new Fault("page", joinAddress(lo, hi), "read");
  throw new Fault("general-protection");
}

const nextPage = (address: number): RuntimeAddress =>
  ((Math.floor(address / PAGE_SIZE) + 1) * PAGE_SIZE) as RuntimeAddress;
