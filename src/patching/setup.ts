/** A program on a kernel: what stays the same throughout a run. */
import { type Interval, PAGE_SIZE, pageStart, vaddr } from "../address.js";
import { Perm } from "../emulate/memory.js";
import { kernelNamed } from "../kernel/kernels.js";
import { isOptimizable, treatmentAt } from "../kernel/treatment.js";
import { nopLength } from "../x86/nops.js";
import { disassemble } from "../x86/relocate.js";
import { displacement } from "./assemble.js";
import { Machine, type Snapshot } from "./machine.js";
import { FIRST_SP, type Program } from "./programs.js";
import { CALL_OPCODE, CALL_SIZE, type Protocol } from "./protocol.js";
import { RedZoneUse } from "./red-zone-use.js";
import type { Space, Trampoline } from "./state.js";

/** What the tracer does at a probe. */
export interface Consumer {
  /** A return probe has its consumer called at the return too; a session's entry says whether it wants that. */
  readonly kind: "entry" | "return" | "session";
  /** General-purpose registers, by number, that it changes at the entry. */
  readonly changes: ReadonlyMap<number, number>;
  /** Where it sends the program instead of on. */
  readonly goTo: number | null;
}

export const PLAIN_CONSUMER: Consumer = { kind: "entry", changes: new Map(), goTo: null };

export interface PatchedSite {
  readonly index: number;
  /** Runtime address. */
  readonly address: number;
  readonly original: Uint8Array;
  readonly end: number;
  /** Where its bytes begin in the code of a Space. */
  readonly at: number;
  readonly size: number;
  /** The kernel would patch a call over it. */
  readonly canPatch: boolean;
  /** The kernel takes no uprobe on it: attaching leaves it as it is. */
  readonly isRefused: boolean;
  /** The length of the instruction that int3 stands for. */
  readonly instruction: number;
}

/** The uretprobe trampoline's place: the area for single-stepping, at the end of the address space. */
const RETURN_TRAMPOLINE = 0x7fff_ffff_e000;
const REACH = 2 ** 31;

export class Setup {
  readonly machine = new Machine();
  readonly redZone = new RedZoneUse(this.machine);
  readonly sites: readonly PatchedSite[];
  readonly returnTrampoline = RETURN_TRAMPOLINE;
  /** After the system call of a trampoline. */
  readonly callEnd: number;
  /** Runtime addresses of whole pages that are mapped: [start, end). */
  private readonly occupied: Interval[] = [];

  constructor(
    readonly program: Program,
    readonly protocol: Protocol,
    readonly consumer: Consumer = PLAIN_CONSUMER,
  ) {
    let at = 0;
    this.sites = program.sites.map(({ address, original }, index) => {
      const size = Math.max(original.length, 1);
      const canPatch = this.canPatch(address, original);
      const site = {
        index,
        address,
        original,
        end: address + original.length,
        at,
        size,
        canPatch,
        isRefused: !canPatch && treatmentAt(kernelNamed(protocol.kernel), original, address) === "refused",
        instruction: instructionLength(original),
      };
      at += size;
      return site;
    });
    if (program.mapsMore !== null) this.machine.mapMore(program.mapsMore);
    for (const { start, end } of program.occupied) this.occupy(start, end);
    for (const { address, bytes } of program.listing) {
      this.machine.load({ address, bytes }, Perm.RX);
      this.occupy(address, address + bytes.length);
    }
    if (program.semaphore !== null) this.machine.room(program.semaphore - (program.semaphore % PAGE_SIZE), PAGE_SIZE);
    if (program.first === null) this.machine.room(program.stack.start, program.stack.end - program.stack.start);
    this.machine.load({ address: RETURN_TRAMPOLINE, bytes: protocol.returnTrampoline }, Perm.RX);
    this.callEnd = indexBehindSyscall(protocol.trampoline);
  }

  private occupy(start: number, end: number): void {
    this.occupied.push({ start: pageStart(start), end: pageStart(end + PAGE_SIZE - 1) });
  }

  private canPatch(address: number, original: Uint8Array): boolean {
    const { patched, patchesAcrossPages, checksInstruction, kernel } = this.protocol;
    if (patched === 0 || original.length !== patched) return false;
    if (checksInstruction && !isOptimizable(kernelNamed(kernel), original)) return false;
    return patchesAcrossPages || PAGE_SIZE - (address % PAGE_SIZE) >= patched;
  }

  /** Registers and stack of a thread that enters the program. */
  firstSnapshot(): Snapshot {
    const { first, entry } = this.program;
    if (first !== null) {
      const words = this.machine.blankWords();
      words.set(first.words.subarray(0, words.length));
      const begun = this.machine.at({ words, memory: new Map() }, entry);
      return first.bytes.reduce((snapshot, bytes) => this.machine.write(snapshot, bytes), begun);
    }
    const words = this.machine.blankWords();
    for (let i = 0; i < 16; i++) {
      words[2 * i] = 0x0101_0101 * (i + 1);
      words[2 * i + 1] = 0x1000 + i;
    }
    words[2 * 4] = FIRST_SP | 0;
    words[2 * 4 + 1] = Math.floor(FIRST_SP / 2 ** 32);
    return this.machine.at({ words, memory: new Map() }, entry);
  }

  firstSpace(): Space {
    const code = new Uint8Array(this.sites.reduce((sum, s) => sum + s.size, 0));
    for (const site of this.sites) code.set(site.original, site.at);
    const rest = { lock: -1, trampolines: [], semaphore: 0, isCrowded: false, isOverwritten: false };
    return { isAlive: true, code, ...rest };
  }

  /** The site whose bytes hold this address. */
  siteAt(address: number): PatchedSite | undefined {
    return this.sites.find((site) => address >= site.address && address < site.address + site.size);
  }

  /** The bytes at a site, as the memory has them. */
  codeAt(space: Space, site: PatchedSite): Uint8Array {
    return space.code.subarray(site.at, site.at + site.size);
  }

  /** What the site looks like when a call to this trampoline is patched in. */
  callTo(site: PatchedSite, trampoline: number): Uint8Array {
    const { lead, displacementError } = this.protocol;
    const next = site.address + lead.length + CALL_SIZE;
    const relative = (trampoline - next + displacementError) | 0;
    return Uint8Array.of(...lead, CALL_OPCODE, ...displacement(relative));
  }

  /** Whether the memory has the call at this site, to a trampoline that is mapped there. */
  isOptimized(space: Space, site: PatchedSite): boolean {
    const code = this.codeAt(space, site);
    if (!site.canPatch) return false;
    return space.trampolines.some(({ address, isMapped }) => isMapped && equal(code, this.callTo(site, address)));
  }

  /** Whether the site's bytes end in a call to a trampoline. */
  private leadsTo(space: Space, site: PatchedSite, trampoline: number): boolean {
    const { length } = this.protocol.lead;
    return equal(this.codeAt(space, site).subarray(length), this.callTo(site, trampoline).subarray(length));
  }

  /** A trampoline that a call at this site reaches: a known one, or where a new one goes. Null where none can be. */
  trampolineFor(space: Space, site: PatchedSite): (Trampoline & { readonly isNew: boolean }) | null {
    const { checksReach, newestTrampolineFirst } = this.protocol;
    const kept = space.trampolines.filter(({ isKnown }) => isKnown);
    const inOrder = newestTrampolineFirst ? [...kept].reverse() : [...kept].sort((a, b) => a.address - b.address);
    const last = this.protocol.keepsTrampoline
      ? kept.find(({ address }) => this.leadsTo(space, site, address))
      : undefined;
    const known = last ?? inOrder.find(({ address }) => !checksReach || isReachable(site.end, address));
    if (known !== undefined) return { ...known, isNew: false };
    const address = space.isCrowded ? null : this.nearestFreePage(space, site.end);
    return address === null ? null : { address, isMapped: true, isKnown: true, isNew: true };
  }

  /** The free page that is nearest to an address, within reach of a call that ends there. */
  private nearestFreePage(space: Space, from: number): number | null {
    const mapped = space.trampolines.filter((t) => t.isMapped);
    const taken = [...this.occupied, ...mapped.map(({ address }) => ({ start: address, end: address + PAGE_SIZE }))];
    const rangeAt = (page: number) => taken.find(({ start, end }) => page >= start && page < end);
    let up = pageStart(from + PAGE_SIZE - 1);
    for (let range = rangeAt(up); range !== undefined; range = rangeAt(up)) up = range.end;
    let down = pageStart(from) - PAGE_SIZE;
    for (let range = rangeAt(down); range !== undefined; range = rangeAt(down)) down = range.start - PAGE_SIZE;
    const nearest = down > 0 && from - down < up - from ? down : up;
    return isReachable(from, nearest) ? nearest : null;
  }

  /** Puts the trampoline's code where it was mapped. */
  loadTrampoline(address: number): void {
    this.machine.load({ address, bytes: this.protocol.trampoline }, Perm.RX);
    this.trampolines.add(address);
  }

  private readonly trampolines = new Set<number>();

  /** Whether an address is in the page of any trampoline there ever was. */
  trampolineAt(address: number): number | null {
    const page = address - (address % PAGE_SIZE);
    return this.trampolines.has(page) ? page : null;
  }

  isInReturnTrampoline(address: number): boolean {
    return address >= RETURN_TRAMPOLINE && address < RETURN_TRAMPOLINE + PAGE_SIZE;
  }

  /** Whether an address is in the program's own code. */
  isProgram(address: number): boolean {
    return this.occupied.some(({ start, end }) => address >= start && address < end);
  }

  /** The instruction at an address, for people. */
  textAt(address: number): string {
    const known = this.program.listing.find((l) => l.address === address && l.text !== "");
    return known?.text ?? disassemble(this.machine.codeAt(address), vaddr(address));
  }

  /** The instructions that a CPU may meet at an address inside a site: each of them whole. */
  versionsAt(space: Space, site: PatchedSite, address: number): readonly Uint8Array[] {
    const offset = address - site.address;
    const lead = this.protocol.lead.length;
    const calls = site.canPatch ? space.trampolines.map((t) => this.callTo(site, t.address)) : [];
    if (offset === 0) {
      const first = site.original.subarray(0, site.instruction);
      const remains =
        lead > 0 ? calls.map((call) => Uint8Array.of(...site.original.subarray(0, lead), ...call.subarray(lead))) : [];
      return [first, ...calls.map((call) => call.subarray(0, lead === 0 ? CALL_SIZE : lead)), ...remains];
    }
    if (lead > 0 && offset === lead) return calls.map((call) => call.subarray(lead));
    if (offset === site.instruction) return [site.original.subarray(offset)];
    return [];
  }
}

export const equal = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((x, i) => x === b[i]);

const isReachable = (from: number, target: number): boolean => target - from >= -REACH && target - from < REACH;

/** The length of the first nop of a probe: all forms that probes have, by their first bytes. */
function instructionLength(original: Uint8Array): number {
  return nopLength(original, 0) || original.length;
}

function indexBehindSyscall(code: Uint8Array): number {
  for (let i = 0; i + 1 < code.length; i++) if (code[i] === 0x0f && code[i + 1] === 0x05) return i + 2;
  return code.length;
}
