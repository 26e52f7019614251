/**
 * The real code around a probe of a rewritten file, as a program for the model: where execution arrives at the changed
 * code, a state that leads from there over the probe, and the instructions that it runs. What verify finds out about
 * the file serves here too: its windows, and the states that it has run them from.
 *
 * A thread runs from the arrival until it leaves the changed code, and then comes again in the same state. What it
 * would read below rsp is looked for in the code after it, too.
 */
import { type Interval, PAGE_SIZE, type RuntimeAddress, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage } from "../elf/image.js";
import { biasOf, load } from "../emulate/load.js";
import { type MachineState, pageContent, stateOf } from "../emulate/machine-states.js";
import { type Memory, Perm } from "../emulate/memory.js";
import { Regions } from "../emulate/regions.js";
import { Gpr, joinAddress } from "../emulate/state.js";
import { InputError } from "../errors.js";
import { FileFacts } from "../facts/file-facts.js";
import { attachedTo, type KernelName, kernelNamed } from "../kernel/kernels.js";
import { treatmentAt } from "../kernel/treatment.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { findTwins, type TwinPair } from "../usdt/twins.js";
import type { Evidence } from "../verify/evidence.js";
import { gatherEvidence } from "../verify/sites.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { addressOf, decode } from "../x86/decode.js";
import type { Program, Site } from "./programs.js";

export interface RealSite {
  readonly provider: string;
  readonly name: string;
  /** Link-time address that the rewritten file's note gives. */
  readonly location: Vaddr;
  /** The other place of a universal probe, or null. */
  readonly twin: Vaddr | null;
  /** Which of its two places runs; null where there is one. */
  readonly selector: 0 | 1 | null;
  /** Null where the model has nothing to run; `because` says why. */
  readonly program: Program | null;
  readonly because: string | null;
}

/** Below this, and from the end of user mode on, nothing is mapped. */
const LOWEST = 0x10000;
const HIGHEST = 2 ** 47 - PAGE_SIZE;
/** Around rsp, in bytes. */
const STACK_ROOM = 0x8000;
const sizes = { nop: 1, nop5: NOP5.length, nop10: NOP10.length } as const;

/**
 * The probes of a rewritten file, each with the program around it.
 * @param wanted which probes
 * @throws InputError where a table of the original that has to be trusted is damaged
 */
export function realSites(
  rewritten: ElfImage,
  original: ElfImage,
  kernel: KernelName,
  wanted: (probe: { readonly provider: string; readonly name: string }) => boolean,
): readonly RealSite[] {
  const evidence = gatherEvidence(rewritten, new FileFacts(original));
  const notes = readUsdtNotes(rewritten);
  const twins = new Map(findTwins(rewritten, notes).map((pair) => [notes[pair.first]!.offset, pair]));
  return evidence.pairs.flatMap(({ rewritten: note }, index): RealSite[] => {
    if (note === undefined || !wanted(note)) return [];
    const { provider, name, location } = note;
    const pair = twins.get(note.offset);
    const second = pair === undefined ? null : notes[pair.twin]!.location;
    const places: readonly Places[] =
      pair === undefined || second === null
        ? [{ location, pair: null, selector: null }]
        : ([0, 1] as const).map((selector) => ({ location, pair: { ...pair, second }, selector }));
    return places.map((place): RealSite => {
      const known = { provider, name, location, twin: second, selector: place.selector };
      try {
        return { ...known, program: programAt(rewritten, kernel, evidence, index, place), because: null };
      } catch (error) {
        if (error instanceof InputError) return { ...known, program: null, because: error.message };
        throw error;
      }
    });
  });
}

/** Where a probe is, and of two places which one runs. */
interface Places {
  readonly location: Vaddr;
  readonly pair: (Pick<TwinPair, "code" | "selector"> & { readonly second: Vaddr }) | null;
  readonly selector: 0 | 1 | null;
}

interface Way {
  readonly start: Vaddr;
  readonly state: MachineState;
  /** Link-time addresses of the instructions. */
  readonly inside: readonly number[];
}

function programAt(
  image: ElfImage,
  kernel: KernelName,
  evidence: Evidence,
  index: number,
  { location, pair, selector }: Places,
): Program {
  const site = siteAt(image, kernel, location);
  const sites = pair === null ? [site] : [site, siteAt(image, kernel, pair.second)];
  const bias = biasOf(image);
  const { start, state, inside } = wayOver(evidence, index, location, site);
  const rsp = joinAddress(state.words[2 * Gpr.RSP]!, state.words[2 * Gpr.RSP + 1]!);
  const segments = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  return {
    name: "real",
    listing: [],
    mapsMore: (memory) => {
      memory.onMiss = (page, access) => access !== "execute" && makePage(memory, state.seed, page);
      load(new Regions(memory), image, bias);
    },
    occupied: segments.map((p) => ({ start: p.p_vaddr + bias, end: p.p_vaddr + p.p_memsz + bias })),
    first: {
      words: state.words,
      bytes: [
        ...state.patches
          .filter(({ address }) => address >= LOWEST && address < HIGHEST)
          .map(({ address, lo, hi }) => ({ address, bytes: new Uint8Array(Int32Array.of(lo, hi).buffer) })),
        ...(pair === null ? [] : [{ address: pair.selector + bias, bytes: Uint8Array.of(selector ?? 0) }]),
      ],
    },
    tracer: "entry",
    // The run that is known has passed one of two places.
    region: new Set([...inside, ...(pair === null ? [] : instructionsIn(image, pair.code))].map((at) => at + bias)),
    stack: { start: rsp - STACK_ROOM, end: rsp + STACK_ROOM },
    entry: start + bias,
    begins: new Set(),
    acts: { own: [], child: [] },
    shadowStack: false,
    sites: sites.map(({ address, original }) => ({ address: address + bias, original })),
    twins: pair === null ? null : { start: pair.code.start + bias, end: pair.code.end + bias },
    handler: null,
    sharedReads: new Set(),
    semaphore: null,
    forks: null,
    filter: false,
  };
}

/** Link-time addresses of the instructions in an interval, which is nothing but code. */
function instructionsIn(image: ElfImage, { start, end }: Interval<Vaddr>): readonly number[] {
  const code = decode(codeFrom(image, start)!.subarray(0, end - start), start);
  return Array.from({ length: code.count }, (_, i) => addressOf(code, i));
}

/** Memory that no file has, as verify makes it from the same seed. */
function makePage(memory: Memory, seed: number, page: RuntimeAddress): boolean {
  if (page < LOWEST || page >= HIGHEST) return false;
  memory.map(page, PAGE_SIZE, Perm.RW);
  memory.poke(page, pageContent(seed, page));
  return true;
}

/**
 * Where a tracer that knows the kernel attaches, and the nop that is there. Link-time address.
 * @throws InputError where no nop stands there, or one that the kernel takes no uprobe on
 */
function siteAt(image: ElfImage, kernel: KernelName, location: Vaddr): Site {
  const code = codeFrom(image, location);
  const found = code === null ? null : probeInstruction(code);
  if (code === null || found === null) throw new InputError("no nop stands at the probe");
  const facts = kernelNamed(kernel);
  const { offset, nop } = attachedTo(facts, found);
  const address = location + offset;
  const original = Uint8Array.from(code.subarray(offset, offset + sizes[nop]));
  if (treatmentAt(facts, original, address) === "refused")
    throw new InputError(`Linux ${facts.range} refuses a uprobe on the ${nop} at 0x${address.toString(16)}`);
  return { address, original };
}

/**
 * A run that leads over the probe, best one that leaves the changed code and does not fault in it; where nothing around
 * the probe has changed, the probe alone.
 */
function wayOver(evidence: Evidence, index: number, location: Vaddr, site: Site): Way {
  let cut: Way | undefined;
  for (const { runs } of evidence.found)
    for (const { state, both } of runs.flatMap((r) => r.runs)) {
      const { inside, passed, end } = both.rewritten;
      if (!both.says || !passed.includes(index)) continue;
      // The instruction that ended the run otherwise than by leaving is not run here.
      const whole = end.kind === "behind" ? inside : inside.slice(0, -1);
      if (!whole.includes(vaddr(site.address))) continue;
      const way = { start: whole[0]!, state, inside: whole };
      if (end.kind === "behind") return way;
      cut ??= way;
    }
  if (cut !== undefined) return cut;
  const inside = location === site.address ? [location] : [location, site.address];
  return { start: location, state: stateOf(location, []), inside };
}
