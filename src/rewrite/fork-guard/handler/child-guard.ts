/**
 * The fork guard's code: what a forked child runs before any of the program's own code, so that nop5 sites which its
 * parent had hit while traced do not kill it.
 *
 * What a child inherits (Linux 6.18 to 7.1; all of it seen on 6.18.44)
 *
 *     0f 1f 44 00 00    nobody traces the site
 *     cc 1f 44 00 00    a breakpoint that no one has hit yet: works in the child as well
 *     e8 xx xx xx xx    a call to a trampoline that the parent has and the child has not: the kernel maps it VM_DONTCOPY, and
 *                       copies the patched page all the same. Running it is SIGSEGV
 *     cc xx xx xx xx    the same after another tracer came: in the child the call leads to no trampoline, so that for the
 *                       kernel the site is not optimized, and it writes int3 over the first byte alone
 *     0f xx xx xx xx    and when that one has gone: the first byte of the nop in front of a distance. `0f fb 5f 00` was
 *                       seen, which is psubq (%rdi),%mm3: no signal, another instruction
 *
 * So the last four bytes tell as well as the first one: a site is sound if they are `1f 44 00 00` and the first is not
 * e8.
 *
 * What the guard must not do
 * - write int3. The tracer may have gone by then (SIGTRAP). And taking a breakpoint away restores one byte: int3 in front of
 *   a distance becomes the torn instruction above. Tracers that want one process only (perf -p, bpftrace -p) have the kernel
 *   do that at the child's first hit.
 * - change a protection. Under MDWE (PR_SET_MDWE, since 6.3) a mapping that was made writable cannot become executable again.
 * - let the kernel see a mapping again while one of its sites still shows e8: see below.
 *
 * What it does
 * 0. Where all of these sites are second places of universal probes: a look at the selector. Where that is 0 none of them
 *    runs, and only step 4 is left.
 * 1. A look at all sites. Untraced, that is all but step 4: no system call, nothing written but the stack.
 * 2. Each page with a site that is not sound gets the file's bytes back. MADV_DONTNEED drops the private copy, so that the
 *    next access maps the file's page again; with it go the breakpoints of that page, which step 3 brings back. Where the page
 *    carries more than that (PAGE_PRIVATE), or is locked or sealed, or is anonymous because the program has moved its code
 *    to huge pages (then MADV_DONTNEED would leave zeros: MADV_WIPEONFORK tells, it is refused for mappings of files and
 *    changes nothing there), five bytes a site are written through /proc/self/mem. Either way the page's entry in the page
 *    tables is replaced, and the TLB is flushed for it: no stale instruction is run.
 * 3. Only when all pages are sound: split and rejoin. Whatever splits a mapping or joins two has the kernel look for uprobes
 *    in all of what results (uprobe_mmap: mm/mmap.c up to 6.6, mm/vma.c since) and write int3 for those that are registered
 *    and want this process. madvise(MADV_DONTDUMP) on one page makes a mapping of its own out of it, since a flag is one of
 *    the mapping; MADV_DODUMP takes the flag away, and equal neighbours are joined. A core dump in between would lack that page
 *    and be none the worse, since the file has it.
 *    The kernel looks at the whole of a mapping: one split is enough for it, and one before step 2 is done for all of its pages
 *    would turn an e8 into a cc in front of a distance. So the guard splits at the first page that it has mended in each
 *    PT_LOAD, and further where a site that was patched shows no int3 after that: another mapping by now (the program has
 *    called mprotect or madvise on a part), or not traced any more.
 * If any page cannot be mended there is no step 3: what is mended is safe and not counted, what is not stays as it was.
 * 4. Traced or not: a look at the table of held signals. All slots are emptied, since other threads are not there any more; if
 *    one is that of this thread, what it had blocked before the fork is blocked again, last of all. Nobody had to: nothing
 *    is written, and there is no system call. (A tracer may have gone between the parent's look and the child's.)
 *
 * Why it does not race with tracers: the child has one thread, so that nothing but the kernel writes there. Attaching
 * and detaching change one byte under mmap_lock; on a sound site that leaves a sound site; one that is not sound
 * becomes none by it. The kernel optimizes a site only when it is hit. A child handler is not run by a child that
 * shares memory (vfork). Signals are blocked from step 2 on, but for those that an instruction raises: a handler may
 * run a site. Before that, from the child's first instruction to the guard, only its parent can keep them out: it
 * blocks them before the fork, in programs that are traced, and leaves in a table what was blocked (held-signals.ts).
 *
 * Where it does less
 * - A mapping of one page cannot be split: its sites stay nop5, safe and not counted.
 * - A mapping with VM_DONTDUMP already (MADV_DONTDUMP on code): MADV_DONTDUMP changes nothing, MADV_DODUMP splits. The hits are
 *   counted; one page stays in core dumps that it was kept out of.
 * - At vm.max_map_count no mapping can be split: as with one page.
 * - PAGE_PRIVATE, locked, sealed and anonymous pages need /proc/self/mem: mounted, free to be opened (not after setuid: such
 *   a process is not dumpable), not restricted (proc_mem.force_override, since 6.12). Memory locks are not inherited by a
 *   child, so a locked page takes a child that locks before the guard runs; MADV_DONTNEED_LOCKED (5.18) is for that. mseal
 *   (6.10) keeps read-only private pages from being dropped since 6.17.
 * - A debugger's own breakpoints, and what the program itself has written to code that PAGE_PRIVATE does not name, are
 *   dropped together with the page.
 * - A seccomp filter that refuses madvise leaves /proc/self/mem, and the sites uncounted. One that kills for it kills a child
 *   that was traced, which without the guard had died at its first site.
 * - Huge pages: there are no uprobes on hugetlbfs; transparent ones are split by the kernel before it writes.
 * - A semaphore that the kernel raised for an optimized site is inherited raised, and raised again by step 3: in a child
 *   that outlives the tracer it stays one too high for each site (as in a PIE that is started while it is traced: there the
 *   kernel counts twice and takes back once; seen). The program then prepares arguments that nobody reads. Lowering it by hand
 *   would be worse: which sites have raised it cannot be known, and one that is too low loses hits.
 *
 * The code keeps all registers and the flags, and uses about 200 bytes of stack and a bit a site. It calls nothing; its
 * entry is an endbr64, its only return a ret.
 */
import { alignUp, type Vaddr } from "../../../address.js";
import { Assembler, at, type RegisterName } from "../../../x86/assembler.js";
import { NOP5 } from "../../../x86/bytes.js";
import {
  type GuardedMapping,
  type GuardedPages,
  guardedPages,
  PAGE_ENTRY,
  PAGE_FIRST,
  PAGE_PRIVATE,
  SITE_ENTRY,
} from "./guarded-pages.js";
import { enter, leave, unlessSelected } from "./handler-code.js";
import * as linux from "./linux.js";
import {
  CLOBBERED,
  type SignalSlots,
  type SiteTable,
  SLOT_KEY,
  SLOT_MASK,
  SLOT_SIZE,
  setMask,
  slotTable,
} from "./signal-slots.js";

export interface ChildGuard {
  /**
   * A function `void (void)`: position-independent code that begins with an endbr64, then constants. It belongs into an
   * executable segment that is not writable. No register that a caller relies on is saved elsewhere than where it was.
   */
  readonly code: Assembler;
  /** Pages with sites that the guard looks at. */
  readonly pageCount: number;
  readonly sites: SiteTable;
}

/** What it uses and saves. rcx and r11 are the kernel's, rax is a result. */
const EARLY: readonly RegisterName[] = ["rax", "rcx", "rdx", "rsi", "rdi"];
const LATE: readonly RegisterName[] = ["r8", "r9", "r10", "r11"];

/** Locals, from rsp on, in bytes. */
const OLD_MASK = 0;
const FD = 8;
const FAILED = 16;
/** No split in this PT_LOAD yet. */
const UNSPLIT = 24;
const PAGE = 32;
/** The page's part of the table of sites. */
const FIRST = 40;
const END = 48;
/** A bit for each site that had a breakpoint or a call when its page was mended. */
const BITS = 56;

const NOT_OPENED = -4096;
/** No mask: the kernel never has SIGKILL blocked. */
const NOTHING_HELD = -1;
const PAGE_MASK = -4096;
const PAGE_BYTES = 4096;
const CALL = 0xe8;
const INT3 = 0xcc;
/** Bytes 1 to 4 of the nop5. */
const TAIL = new DataView(NOP5.buffer, NOP5.byteOffset).getUint32(1, true);

/** More would make the bits on the stack need more than a page. */
const MOST_SITES = 8 * (PAGE_BYTES - 256);

/** Symbols: the two tables. */
const SITES = "guarded sites";
const PAGES = "guarded pages";

/**
 * The guard for these sites, to be linked anywhere in their reach.
 * @param slots where parents leave what they had blocked; without them there is no step 4
 * @param selector where it is 0, no kernel makes calls of these sites: they are not looked at then
 * @throws RangeError where there are no sites, or too many, or see guardedPages
 */
export function childGuard(
  name: string,
  mappings: readonly GuardedMapping[],
  slots: SignalSlots | undefined = undefined,
  selector: Vaddr | undefined = undefined,
): ChildGuard {
  const pages = guardedPages(mappings);
  if (pages.siteCount > MOST_SITES) throw new RangeError(`a guard for ${pages.siteCount} sites is too large`);
  const { firstSite, pageCount } = pages;
  const code = new GuardCode(name, pages, slots, selector).write();
  return { code, pageCount, sites: { table: SITES, end: PAGES, firstSite, selector } };
}

class GuardCode {
  private readonly asm: Assembler;
  readonly #pages: GuardedPages;
  readonly #slots: SignalSlots | undefined;
  #loops = 0;

  constructor(
    name: string,
    pages: GuardedPages,
    slots: SignalSlots | undefined,
    private readonly selector: Vaddr | undefined,
  ) {
    this.asm = new Assembler({ name, align: 16 });
    this.#pages = pages;
    this.#slots = slots;
  }

  write(): Assembler {
    this.#look();
    this.#begin();
    this.#mend();
    this.#split();
    this.#end();
    this.asm.data();
    this.#constants();
    return this.asm;
  }

  /** Step 1, with its way out; the rest stands after it. */
  #look(): void {
    const { asm } = this;
    enter(asm, EARLY);
    if (this.selector !== undefined) unlessSelected(asm, this.selector, "leave");
    asm.address("rdx", SITES).address("rsi", PAGES).address("rcx", this.#pages.firstSite);
    asm.label("look").op("mov", "eax", at("rdx")).op("add", "rax", "rcx");
    this.#ifUnsound("act");
    asm.op("add", "rdx", SITE_ENTRY).op("cmp", "rdx", "rsi").jumpIf("b", "look");
    asm.label("leave");
    if (this.#slots !== undefined) this.#emptySlots(this.#slots);
    asm.label("left");
    leave(asm, EARLY);
    if (this.#slots !== undefined) this.#giveBack();
    asm.label("act");
  }

  /** Empties the table of held signals: rsi is what this thread had blocked. */
  #emptySlots(slots: SignalSlots): void {
    const { asm } = this;
    slotTable(asm, slots).op("mov", "rsi", NOTHING_HELD);
    asm.label("slot").op("mov", "rax", at("rdx", SLOT_KEY)).op("test", "rax", "rax").jumpIf("ne", "taken");
    asm.label("next slot").op("add", "rdx", SLOT_SIZE).op("cmp", "rdx", "rcx").jumpIf("b", "slot");
    asm.op("cmp", "rsi", NOTHING_HELD).jumpIf("ne", "give back");
  }

  /** Only when the whole table is empty: a signal's handler may fork, and other threads of its making may. */
  #giveBack(): void {
    const { asm } = this;
    asm.label("taken").op("mov", at("rdx", SLOT_KEY), 0).op("cmp", "rax", "rdi").jumpIf("ne", "next slot");
    asm.op("mov", "rsi", at("rdx", SLOT_MASK)).jump("next slot");
    asm.label("give back");
    for (const register of CLOBBERED) asm.push(register);
    asm.push("rsi");
    setMask(asm).pop("rsi");
    for (const register of CLOBBERED.toReversed()) asm.pop(register);
    asm.jump("left");
  }

  /** Signals out, locals in. */
  #begin(): void {
    const asm = this.asm;
    for (const register of LATE) asm.push(register);
    asm.lower(this.#frame);
    asm.op("mov", at("rsp", FD), NOT_OPENED).op("mov", at("rsp", FAILED), 0).op("mov", at("rsp", UNSPLIT), 0);
    asm.op("lea", "rax", at("rsp", BITS)).op("lea", "rcx", at("rsp", this.#frame));
    asm.label("clear").op("mov", at("rax"), 0).op("add", "rax", 8).op("cmp", "rax", "rcx").jumpIf("b", "clear");
    asm.address("rsi", "signals").op("lea", "rdx", at("rsp", OLD_MASK));
    asm.system(linux.SYS_rt_sigprocmask, linux.SIG_BLOCK, undefined, undefined, linux.SIGSET_SIZE);
  }

  /** Step 2. */
  #mend(): void {
    const asm = this.asm;
    this.#eachPage("mend", () => {
      this.#eachSite(() => this.#ifUnsound("mark"));
      asm.jump("mend next");
      asm.label("mark");
      this.#eachSite((next) => {
        const bit = this.#name("bit");
        this.#ifUnsound(bit);
        asm.op("movzx", "edi", at("rax")).op("cmp", "edi", INT3).jumpIf("ne", next);
        asm.label(bit);
        this.#bit("bts");
      });

      asm.op("mov", "eax", at("r8")).op("and", "eax", PAGE_PRIVATE).jumpIf("ne", "through mem");
      this.#advise(linux.MADV_WIPEONFORK);
      asm.op("test", "eax", "eax").jumpIf("ne", "of a file");
      this.#advise(linux.MADV_KEEPONFORK);
      asm.jump("through mem");
      asm.label("of a file");
      this.#advise(linux.MADV_DONTNEED);
      asm.op("test", "eax", "eax").jumpIf("e", "dropped");
      this.#advise(linux.MADV_DONTNEED_LOCKED);
      asm.label("dropped");
      this.#eachSite(() => this.#ifUnsound("through mem"));
      asm.jump("mend next");

      asm.label("through mem");
      asm.op("cmp", at("rsp", FD), NOT_OPENED).jumpIf("ne", "opened");
      asm.address("rsi", "path");
      asm.system(linux.SYS_openat, linux.AT_FDCWD, undefined, linux.O_RDWR | linux.O_CLOEXEC);
      asm.op("mov", at("rsp", FD), "rax");
      asm.label("opened");
      this.#eachSite((next) => {
        const write = this.#name("write");
        this.#ifUnsound(write);
        asm.jump(next);
        asm.label(write).address("rsi", "nop5");
        asm.system(linux.SYS_pwrite64, at("rsp", FD), undefined, NOP5.length, "rax");
      });
      this.#eachSite(() => this.#ifUnsound("not mended"));
      asm.jump("mend next");
      asm.label("not mended").op("mov", at("rsp", FAILED), 1);
    });
  }

  /** Step 3. */
  #split(): void {
    const asm = this.asm;
    asm.op("cmp", at("rsp", FAILED), 0).jumpIf("ne", "end");
    this.#eachPage("split", () => {
      asm.op("mov", "eax", at("r8")).op("and", "eax", PAGE_FIRST).jumpIf("e", "same mapping");
      asm.op("mov", at("rsp", UNSPLIT), 1);
      asm.label("same mapping");
      this.#eachSite((next) => {
        this.#bit("bt");
        asm.jumpIf("ae", next);
        asm.op("cmp", at("rsp", UNSPLIT), 0).jumpIf("ne", "apart");
        asm.op("movzx", "edi", at("rax")).op("cmp", "edi", INT3).jumpIf("ne", "apart");
      });
      asm.jump("split next");
      asm.label("apart").op("mov", at("rsp", UNSPLIT), 0);
      this.#advise(linux.MADV_DONTDUMP);
      this.#advise(linux.MADV_DODUMP);
    });
  }

  #end(): void {
    const asm = this.asm;
    asm.label("end").op("cmp", at("rsp", FD), 0).jumpIf("l", "closed");
    asm.system(linux.SYS_close, at("rsp", FD));
    asm.label("closed").op("lea", "rsi", at("rsp", OLD_MASK));
    asm.system(linux.SYS_rt_sigprocmask, linux.SIG_SETMASK, undefined, 0, linux.SIGSET_SIZE);
    asm.raise(this.#frame);
    for (const register of LATE.toReversed()) asm.pop(register);
    asm.jump("leave");
  }

  #constants(): void {
    const { siteTable, pageTable } = this.#pages;
    this.asm.align(8).symbol(SITES).words(siteTable, 4).symbol(PAGES).words(pageTable, 4).label("pages end");
    this.asm.label("signals").words([linux.ASYNCHRONOUS_SIGNALS], linux.SIGSET_SIZE).label("nop5").raw(NOP5);
    this.asm.label("path").raw(Buffer.from("/proc/self/mem\0", "latin1"));
  }

  get #frame(): number {
    return BITS + alignUp(Math.ceil(this.#pages.siteCount / 8), 8);
  }

  /** The code of `body` for each page: r8 at its entry, PAGE, FIRST and END set. It goes on at `${name} next`. */
  #eachPage(name: string, body: () => void): void {
    const asm = this.asm;
    asm.address("rax", SITES).op("mov", at("rsp", END), "rax").address("r8", PAGES);
    asm.label(name);
    asm.op("mov", "rax", at("rsp", END)).op("mov", at("rsp", FIRST), "rax");
    asm.op("mov", "ecx", at("r8", 4)).op("shl", "rcx", 2).op("add", "rax", "rcx").op("mov", at("rsp", END), "rax");
    asm.address("rcx", this.#pages.firstPage);
    asm
      .op("mov", "eax", at("r8"))
      .op("and", "rax", PAGE_MASK)
      .op("add", "rax", "rcx")
      .op("mov", at("rsp", PAGE), "rax");
    body();
    asm.label(`${name} next`).op("add", "r8", PAGE_ENTRY).address("rax", "pages end");
    asm.op("cmp", "r8", "rax").jumpIf("b", name);
  }

  /**
   * The code of `body` for each site of the page: rax is its address, r9 its entry. It may go on at the label it is
   * given.
   */
  #eachSite(body: (next: string) => void): void {
    const asm = this.asm;
    const [again, next] = [this.#name("site"), this.#name("next")];
    asm.op("mov", "r9", at("rsp", FIRST));
    asm.label(again).op("mov", "eax", at("r9"));
    asm.address("rcx", this.#pages.firstSite).op("add", "rax", "rcx");
    body(next);
    asm.label(next).op("add", "r9", SITE_ENTRY).op("cmp", "r9", at("rsp", END)).jumpIf("b", again);
  }

  /** Jumps if the site at rax is not sound. Uses rdi. */
  #ifUnsound(label: string): void {
    const asm = this.asm;
    asm.op("movzx", "edi", at("rax")).op("cmp", "edi", CALL).jumpIf("e", label);
    asm.op("mov", "edi", at("rax", 1)).op("cmp", "edi", TAIL).jumpIf("ne", label);
  }

  /** `bt` or `bts` on the bit of the site whose entry r9 is at. Uses rcx and rdi. */
  #bit(mnemonic: "bt" | "bts"): void {
    this.asm.address("rcx", SITES).op("mov", "rdi", "r9").op("sub", "rdi", "rcx").op("shr", "rdi", 2);
    this.asm.op(mnemonic, at("rsp", BITS), "rdi");
  }

  #advise(advice: number): void {
    this.asm.system(linux.SYS_madvise, at("rsp", PAGE), PAGE_BYTES, advice);
  }

  #name(what: string): string {
    return `${what} ${this.#loops++}`;
  }
}
