/**
 * A program as a rewrite sees it: the file, what is asked of it, and tables of what is known, each made when somebody
 * first asks. All passes read it, and none changes it.
 */
import type { Vaddr } from "../address.js";
import { readBuildId } from "../elf/build-id.js";
import { type ElfImage, parseElf } from "../elf/image.js";
import { FileFacts } from "../facts/file-facts.js";
import { wayToFork } from "../facts/forks.js";
import { gatherFacts, type ProgramFacts } from "../facts/program.js";
import { addTo } from "../grouped.js";
import type { RewriteOptions } from "../rewritten/contract.js";
import { derivedBuildId } from "../rewritten/derived-build-id.js";
import type { FileLayout } from "../usdt/forms.js";
import { readUsdtNotes, type UsdtNote } from "../usdt/notes.js";
import { ProbeNames } from "./apart.js";
import { applyEdits, type Edit, editAt, holesAfter } from "./edits.js";
import { type GuardSearch, nop5Before, searchForGuard } from "./fork-guard/fork-guard.js";
import { InputTables } from "./input-tables.js";
import { type Selection, selectSites } from "./select.js";
import { refuseOtherFrames } from "./two-tables.js";

/** The providers of glibc, its dynamic loader, and GCC's libraries. */
const libraries = new Set(["libc", "rtld", "libm", "libpthread", "libgcc", "libstdcxx"]);

export class Program {
  readonly notes: readonly UsdtNote[];
  readonly #file: FileFacts;
  readonly #selections = new Map<FileLayout, ReadonlyMap<UsdtNote, Selection>>();
  #sites: ReadonlyMap<Vaddr, readonly UsdtNote[]> | undefined;
  #names: ProbeNames | undefined;
  #forks: GuardSearch | undefined;
  #facts: ProgramFacts | undefined;
  #tables: InputTables | undefined;
  #wayToFork: { readonly words: string | undefined } | undefined;

  /**
   * @param original the input, byte for byte
   * @param image the same with the edits that come before all others: sections are known by their identity in it
   * @throws InputError where its notes are damaged
   */
  constructor(
    readonly original: ElfImage,
    readonly image: ElfImage,
    readonly options: RewriteOptions,
  ) {
    this.notes = readUsdtNotes(image);
    this.#file = new FileFacts(image);
  }

  /** What is to be done with each note's probe, before anything is known of the code around it. */
  selection(layout: FileLayout): ReadonlyMap<UsdtNote, Selection> {
    const found = this.#selections.get(layout) ?? selectSites(this.image, this.notes, this.options, layout);
    this.#selections.set(layout, found);
    return found;
  }

  /** The notes of each site that is looked at. Which are skipped at first sight does not depend on the layout. */
  get sites(): ReadonlyMap<Vaddr, readonly UsdtNote[]> {
    this.#sites ??= this.#findSites();
    return this.#sites;
  }

  #findSites(): ReadonlyMap<Vaddr, readonly UsdtNote[]> {
    const selection = this.selection("nop5");
    const byLocation = new Map<Vaddr, UsdtNote[]>();
    for (const note of this.notes) if (selection.get(note)!.kind !== "skipped") addTo(byLocation, note.location, note);
    return byLocation;
  }

  /** Whether any of the sites that are looked at may get this layout. */
  hasCandidates(layout: FileLayout): boolean {
    const selection = this.selection(layout);
    return [...this.sites.values()].some(([note]) => selection.get(note!)!.kind === "candidate");
  }

  /** The sites that libraries have brought along: by the provider that their notes name. */
  get ofLibraries(): ReadonlySet<Vaddr> {
    const own = new Set(this.notes.filter((n) => !libraries.has(n.provider)).map((n) => n.location));
    return new Set(this.notes.map((n) => n.location).filter((location) => !own.has(location)));
  }

  get names(): ProbeNames {
    this.#names ??= new ProbeNames(this.notes);
    return this.#names;
  }

  /** Whether a probe that is asked for is a nop5 already. */
  get hasNop5(): boolean {
    const asked = this.notes.filter((note) => this.sites.has(note.location));
    return nop5Before(this.image, asked, new Set()).length > 0;
  }

  /** How it may fork, where a fork guard is asked for. @throws InputError where its dynamic tables are damaged */
  get forks(): GuardSearch {
    this.#forks ??= searchForGuard(this.#file, this.options);
    return this.#forks;
  }

  /** Why the process may fork, or undefined where no way is seen. */
  get wayToFork(): string | undefined {
    this.#wayToFork ??= { words: wayToFork(this.image) };
    return this.#wayToFork.words;
  }

  /**
   * What is known of the code around the sites, and around all that may fork where that is asked.
   * @throws InputError where a table that has to be trusted (.eh_frame, relocations, symbols) is damaged
   */
  get facts(): ProgramFacts {
    if (this.#facts === undefined) {
      this.#facts = gatherFacts(this.#file, [...this.sites.keys(), ...this.forks.places]);
      refuseOtherFrames(this.image, this.#facts.functions.ehFrame);
    }
    return this.#facts;
  }

  /** What tactics look up; undefined where there is no site. @throws InputError like facts */
  get tables(): InputTables | undefined {
    if (this.sites.size === 0) return undefined;
    this.#tables ??= new InputTables(this.facts);
    return this.#tables;
  }
}

/** @throws InputError where the file's notes are damaged */
export function readProgram(original: ElfImage, options: RewriteOptions): Program {
  const before = options.newBuildId ? newBuildId(original) : [];
  if (before.length === 0) return new Program(original, original, options);
  const holes = holesAfter(
    original.holes,
    before.map((edit) => ({ offset: edit.offset, size: edit.new.length })),
  );
  const image = parseElf(applyEdits(original, before), { holes, zeroTail: original.zeroTail });
  return new Program(original, image, options);
}

function newBuildId(image: ElfImage): Edit[] {
  const id = readBuildId(image);
  return id === null ? [] : [editAt(image, id.offset, derivedBuildId(id))];
}
