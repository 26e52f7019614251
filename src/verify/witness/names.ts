/**
 * Addresses of code that something names, other than by a branch: hundreds of thousands in a large file, so that each
 * is three numbers until somebody asks.
 */
import { hex } from "../../address.js";

/** Who names it: what `place` is. */
export const Namer = {
  /** The place that is relocated. */
  Relocation: 0,
  /** The place in a table of code that is patched at run time, or one that a relocation fills. */
  PatchTable: 1,
  /** Of the program at run time. */
  Symbol: 2,
  /** That the program does not have at run time. */
  LocalSymbol: 3,
  EntryPoint: 4,
  InitOrFini: 5,
  Sequence: 6,
  /** Where the calls begin. */
  LandingPad: 7,
} as const;

export class Name {
  constructor(
    readonly address: number,
    private readonly namer: number,
    private readonly place: number,
  ) {}

  /** The unwinder comes with the frame of the call. */
  get isPad(): boolean {
    return this.namer === Namer.LandingPad;
  }

  /** A symbol that the program does not have at run time. */
  get isLocal(): boolean {
    return this.namer === Namer.LocalSymbol;
  }

  /** Somebody overwrites the code there at run time. */
  get isPatched(): boolean {
    return this.namer === Namer.PatchTable;
  }

  get why(): string {
    switch (this.namer) {
      case Namer.Relocation:
        return `a relocation at ${hex(this.place)}`;
      case Namer.PatchTable:
        return `a patch table at ${hex(this.place)}`;
      case Namer.EntryPoint:
        return "the entry point";
      case Namer.InitOrFini:
        return "DT_INIT or DT_FINI";
      case Namer.Sequence:
        return "a restartable sequence aborts to it";
      case Namer.LandingPad:
        return `a landing pad of calls at ${hex(this.place)}`;
      default:
        return "a symbol";
    }
  }
}

export class Names {
  private readonly addresses: number[] = [];
  private readonly namers: number[] = [];
  private readonly places: number[] = [];
  private order: Uint32Array | undefined;

  add(address: number, namer: number, place: number): void {
    this.addresses.push(address);
    this.namers.push(namer);
    this.places.push(place);
  }

  /** Ascending by address, by the order in which they came where several have the same. */
  *[Symbol.iterator](): Iterator<Name> {
    const { addresses, namers, places } = this;
    this.order ??= Uint32Array.from(addresses.keys()).sort((a, b) => addresses[a]! - addresses[b]! || a - b);
    for (const i of this.order) yield new Name(addresses[i]!, namers[i]!, places[i]!);
  }
}
