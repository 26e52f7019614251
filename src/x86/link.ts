/**
 * A small linker for all code that we make: detours, the fork guard, programs of our own.
 *
 * A unit (`Code`) is a list of what stands one after another, written before anything has an address: bytes,
 * instructions that lead or point somewhere, labels, alignment, and marks: how far the caller's frame is away, where an
 * instruction comes from. `link` takes units, as a linker takes object files, and gives them addresses:
 *
 *     layout        one pass in the order of the units: where each begins, and so where each label is
 *     relocation    one pass over all that leads somewhere: its distance, now that both ends are known
 *
 *     const callee = new Code({ name: "callee", align: 16 }).raw([0xc3]);
 *     const caller = new Code().call("callee").raw([0xc3]);
 *     link([caller, callee], 0x400000);
 *
 * Sizes do not depend on what is linked beside a unit. So nobody has to encode twice in order to learn a length, or to
 * hand in functions that make code for an address. The one exception is settled by the layout: an instruction that was
 * moved here and leads to a place of the input takes its short form where that place is near.
 *
 * Names: a label belongs to its unit; a symbol, like the name of a unit, is known to all. Who leads to a number leads
 * to that address, where something stands that is not linked here.
 *
 * Places: a unit follows the one before it, at a multiple of `align`. If it holds instructions that must not be split,
 * it begins where each of them lies in one 16-byte line; where that cannot be, in one page. A unit `over` a stretch
 * stands there, and nowhere else: it is what bytes of the input become. What is left between and in units is int3.
 *
 * What does not reach is no exception, but a reason for the unit that asks for it. Labels that are missing or there
 * twice are mistakes of ours, and are thrown.
 */
import { alignUp, hex, PAGE_SIZE } from "../address.js";
import { INT3 } from "./bytes.js";
import { distanceIn, type Form, leading, littleEndian, type Movable, near, short } from "./distance.js";

/** Where an instruction leads: a label of its unit, a symbol of any, or an address elsewhere. */
export type Target = string | number;

/** From here on the caller's frame (rsp before the call) is so many bytes above rsp. */
export interface FrameRow {
  readonly start: number;
  readonly offset: number;
}

/** [start, end) comes from one place. */
interface Marked<Mark> {
  readonly start: number;
  readonly end: number;
  readonly mark: Mark;
}

interface Leads {
  readonly kind: "leads";
  readonly forms: readonly Form[];
  readonly target: Target;
  /** Where it did before it was moved here. */
  readonly stood: number | undefined;
}

type Item<Mark> =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "unsplit"; readonly bytes: Uint8Array; readonly what: string }
  | Leads
  | { readonly kind: "address"; readonly target: Target }
  | { readonly kind: "align"; readonly to: number; readonly fill: number }
  | { readonly kind: "label"; readonly name: string; readonly isSymbol: boolean }
  | { readonly kind: "frame"; readonly offset: number }
  | { readonly kind: "origin"; readonly mark: Mark }
  | { readonly kind: "data" };

interface UnitOptions {
  /** A symbol: the address of its first byte. */
  readonly name?: string;
  readonly align?: number;
  /** So many bytes stay free between it and the unit before it, at least. */
  readonly gap?: number;
  /** Where it stands, whatever is linked beside it: cut, or filled up, to this size. */
  readonly over?: { readonly start: number; readonly end: number };
}

const RETURN_ADDRESS = 8;
const ADDRESS_SIZE = 8;
const LINE = 16;

/** A unit. Each method appends something, and gives the unit back. */
export class Code<Mark = never> {
  readonly #items: Item<Mark>[] = [];
  #depth = RETURN_ADDRESS;

  constructor(readonly options: UnitOptions = {}) {}

  get items(): readonly Item<Mark>[] {
    return this.#items;
  }

  /** How many bytes the caller's frame is above rsp here. */
  get depth(): number {
    return this.#depth;
  }

  raw(bytes: Iterable<number>): this {
    return this.#add({ kind: "bytes", bytes: Uint8Array.from(bytes) });
  }

  /** An instruction that must not lie in two pages, and should not in two 16-byte lines; `what` it is, for people. */
  unsplit(bytes: Iterable<number>, what: string): this {
    return this.#add({ kind: "unsplit", bytes: Uint8Array.from(bytes), what });
  }

  /** An instruction that leads to the target, or points there. Several forms: only for a target that is an address. */
  leads(forms: readonly Form[], target: Target): this {
    return this.#add({ kind: "leads", forms, target, stood: undefined });
  }

  jump(target: Target): this {
    return this.leads([near([0xe9])], target);
  }

  jumpShort(target: Target): this {
    return this.leads([short([0xeb])], target);
  }

  call(target: Target): this {
    return this.leads([near([0xe8])], target);
  }

  /** An instruction of the input. @param to where it leads now, in `form`; else where it always did */
  moved({ at, bytes, leads }: Movable, to?: { readonly form: Form; readonly target: Target }): this {
    if (to !== undefined) return this.#add({ kind: "leads", forms: [to.form], target: to.target, stood: at });
    return leads === undefined ? this.raw(bytes) : this.#add({ kind: "leads", ...leads, stood: at });
  }

  /** Numbers, of so many bytes each. */
  words(values: readonly (number | bigint)[], width: 4 | 8): this {
    return this.raw(Buffer.concat(values.map((value) => littleEndian(value, width))));
  }

  /** A word of 64 bits that holds the address. */
  address64(target: Target): this {
    return this.#add({ kind: "address", target });
  }

  /** Up to a multiple of `to`: with int3, since nothing may run into that, if nothing else is said. */
  align(to: number, fill: number = INT3): this {
    return this.#add({ kind: "align", to, fill });
  }

  label(name: string): this {
    return this.#add({ kind: "label", name, isSymbol: false });
  }

  symbol(name: string): this {
    return this.#add({ kind: "label", name, isSymbol: true });
  }

  /**
   * The unit is a function, and begins here, with the return address at rsp: from now on there are rows for unwinders.
   */
  entry(): this {
    return this.stack(0);
  }

  /** The instruction before this has lowered rsp by so many bytes. */
  stack(by: number): this {
    this.#depth += by;
    return this.#add({ kind: "frame", offset: this.#depth });
  }

  /** What follows comes from there. */
  origin(mark: Mark): this {
    return this.#add({ kind: "origin", mark });
  }

  /** What follows is no code any more. */
  data(): this {
    return this.#add({ kind: "data" });
  }

  #add(item: Item<Mark>): this {
    this.#items.push(item);
    return this;
  }
}

/** A unit at its place. */
export interface LinkedUnit<Mark = never> {
  readonly start: number;
  readonly end: number;
  /** Where its code ends, and data begins. */
  readonly codeEnd: number;
  readonly bytes: Uint8Array;
  /** Ascending; empty where it is no function. */
  readonly rows: readonly FrameRow[];
  readonly origins: readonly Marked<Mark>[];
  /** @throws RangeError where neither the unit has such a label, nor any unit such a symbol */
  addressOf(name: string): number;
}

export interface Linked<Mark = never> {
  /** All units that are not over something else, one after the other from `start` on. */
  readonly bytes: Uint8Array;
  /** @throws RangeError for a unit that was not linked */
  unit(code: Code<Mark>): LinkedUnit<Mark>;
}

/** Why units cannot be where they would have to be. */
interface OutOfReach<Mark = never> {
  readonly failed: ReadonlyMap<Code<Mark>, string>;
}

/**
 * Gives the units their addresses.
 * @param start of the first of them
 * @throws RangeError where a name is missing, or there twice
 */
export function link<Mark = never>(units: readonly Code<Mark>[], start: number): Linked<Mark> | OutOfReach<Mark> {
  const failed = new Map<Code<Mark>, string>();
  const layouts = new Map<Code<Mark>, Layout>();
  const symbols = new Map<string, number>();
  let end = start;
  for (const code of units) {
    const layout = layOut(code, end, symbols);
    if (typeof layout === "string") failed.set(code, layout);
    else layouts.set(code, layout);
    if (typeof layout !== "string" && code.options.over === undefined) end = layout.end;
  }
  if (failed.size > 0) return { failed };

  const linked = new Map<Code<Mark>, LinkedUnit<Mark>>();
  const bytes = new Uint8Array(end - start).fill(INT3);
  for (const [code, layout] of layouts) {
    const unit = relocate(code, layout, symbols);
    if (typeof unit === "string") {
      failed.set(code, unit);
      continue;
    }
    linked.set(code, unit);
    if (code.options.over === undefined) bytes.set(unit.bytes, unit.start - start);
  }
  if (failed.size > 0) return { failed };
  return {
    bytes,
    unit: (code) => {
      const unit = linked.get(code);
      if (unit === undefined) throw new RangeError("this unit was not linked");
      return unit;
    },
  };
}

/** The same for a program of one unit. @throws RangeError where something does not reach, as well */
export function linkOne(code: Code, start: number): LinkedUnit {
  const linked = link([code], start);
  if ("unit" in linked) return linked.unit(code);
  throw new RangeError(linked.failed.get(code));
}

/** Where everything of a unit is. */
interface Layout {
  readonly start: number;
  readonly end: number;
  /** The address of each item. */
  readonly places: readonly number[];
  readonly labels: ReadonlyMap<string, number>;
}

/** @param symbols those of this unit are added */
function layOut<Mark>(code: Code<Mark>, earliest: number, symbols: Map<string, number>): Layout | string {
  const { name, align = 1, gap = 0, over } = code.options;
  const at = over === undefined ? unsplitStart(code, alignUp(earliest + gap, align)) : over.start;
  if (typeof at === "string") return at;
  const { places, end } = measure(code.items, at);
  const labels = new Map<string, number>();
  const add = (to: Map<string, number>, key: string, address: number): void => {
    if (to.has(key)) throw new RangeError(`the label ${key} is there twice`);
    to.set(key, address);
  };
  if (name !== undefined) add(symbols, name, at);
  code.items.forEach((item, i) => {
    if (item.kind === "label") add(item.isSymbol ? symbols : labels, item.name, places[i]!);
  });
  return { start: at, end: over?.end ?? end, places, labels };
}

/** Where a unit begins so that what must not be split is not. */
function unsplitStart<Mark>({ items }: Code<Mark>, earliest: number): number | string {
  const unsplit = items.flatMap((item, i) => (item.kind === "unsplit" ? [{ item, i }] : []));
  const [first] = unsplit;
  if (first === undefined) return earliest;
  const { places } = measure(items, earliest);
  const fits = (at: readonly number[], by: number, size: number): boolean =>
    unsplit.every(({ item, i }) => ((at[i]! + by) % size) + item.bytes.length <= size);
  const distances = Array.from({ length: LINE }, (_, by) => by);
  const by = distances.find((d) => fits(places, d, LINE)) ?? distances.find((d) => fits(places, d, PAGE_SIZE));
  // A few bytes farther on, what leads to places of the input may have another form.
  if (by === undefined || !fits(measure(items, earliest + by).places, 0, PAGE_SIZE))
    return `${first.item.what} would cross a page boundary`;
  return earliest + by;
}

function measure<Mark>(items: readonly Item<Mark>[], start: number): { places: number[]; end: number } {
  const places: number[] = [];
  let at = start;
  for (const item of items) {
    places.push(at);
    at += sizeOf(item, at);
  }
  return { places, end: at };
}

function sizeOf<Mark>(item: Item<Mark>, at: number): number {
  switch (item.kind) {
    case "bytes":
    case "unsplit":
      return item.bytes.length;
    case "leads":
      return formAt(item, at).bytes.length;
    case "address":
      return ADDRESS_SIZE;
    case "align":
      return alignUp(at, item.to) - at;
    default:
      return 0;
  }
}

/** The first form that reaches, or the longest. */
const formAt = ({ forms, target }: Leads, at: number): Form =>
  (typeof target === "number" ? forms.find((form) => distanceIn(form, at, target) !== undefined) : undefined) ??
  forms.at(-1)!;

/** The unit's bytes, now that everything has its address; or what does not reach. */
function relocate<Mark>(
  code: Code<Mark>,
  { start, end, places, labels }: Layout,
  symbols: ReadonlyMap<string, number>,
): LinkedUnit<Mark> | string {
  const addressOf = (name: string): number => {
    const address = labels.get(name) ?? symbols.get(name);
    if (address === undefined) throw new RangeError(`there is no label ${name}`);
    return address;
  };
  const bytes = new Uint8Array(end - start).fill(INT3);
  for (const [i, item] of code.items.entries()) {
    const content = contentOf(item, places[i]!, addressOf);
    if (typeof content === "string") return content;
    // A unit over one byte holds the first one of a jump alone, where the others are there already.
    if (places[i]! < end) bytes.set(content.subarray(0, end - places[i]!), places[i]! - start);
  }
  const rows: FrameRow[] = [];
  const origins: Marked<Mark>[] = [];
  let codeEnd = end;
  for (const [i, item] of code.items.entries()) {
    const at = places[i]!;
    if (item.kind === "frame" && rows.at(-1)?.offset !== item.offset) rows.push({ start: at, offset: item.offset });
    if (item.kind === "origin") origins.push({ start: at, end, mark: item.mark });
    if (item.kind === "data") codeEnd = at;
  }
  return { start, end, codeEnd, bytes, rows, origins: upToTheNext(origins), addressOf };
}

const NOTHING = new Uint8Array(0);

function contentOf<Mark>(item: Item<Mark>, at: number, addressOf: (name: string) => number): Uint8Array | string {
  const addressed = (target: Target): number => (typeof target === "number" ? target : addressOf(target));
  switch (item.kind) {
    case "bytes":
    case "unsplit":
      return item.bytes;
    case "leads": {
      const target = addressed(item.target);
      return leading([formAt(item, at)], at, target) ?? outOfReach(item.stood, target);
    }
    case "address":
      return littleEndian(addressed(item.target), ADDRESS_SIZE);
    case "align":
      return new Uint8Array(alignUp(at, item.to) - at).fill(item.fill);
    default:
      return NOTHING;
  }
}

const outOfReach = (stood: number | undefined, target: number): string =>
  stood === undefined
    ? `${hex(target)} is out of reach from new code`
    : `the instruction at ${hex(stood)} cannot reach its operand from new code`;

const upToTheNext = <Mark>(origins: readonly Marked<Mark>[]): Marked<Mark>[] =>
  origins.map((origin, i) => ({ ...origin, end: origins[i + 1]?.start ?? origin.end })).filter((o) => o.end > o.start);
