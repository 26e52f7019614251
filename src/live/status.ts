/**
 * What each probe of each file that a process has mapped is at this moment. It reads /proc and the files, and nothing else:
 * no process is stopped, traced or written to, and none notices.
 *
 * So the kernel may be at work at a probe in the very moment. What looks torn is looked at again, and is torn only if it
 * stays so.
 */
import { type BigIntStats, closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Vaddr } from "../address.js";
import { offsetOf, parseElf } from "../elf/image.js";
import { headerRanges, noteAndSymbolRanges } from "../elf/ranges.js";
import { InputError } from "../errors.js";
import { describe, isSystemError } from "../files/file-error.js";
import { readParts } from "../files/input.js";
import { pathText } from "../files/path-bytes.js";
import { addTo } from "../grouped.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { codeFrom } from "../usdt/sites.js";
import { findTwins, twinPlaces } from "../usdt/twins.js";
import { findMappedFile, type MappedFile } from "./mapped-file.js";
import { type Mapping, parseMappings } from "./mappings.js";
import { judge, type Patched, worst } from "./patched.js";

export interface SiteState extends Patched {
  readonly provider: string;
  readonly name: string;
  /** Link-time address. */
  readonly location: Vaddr;
  /** The other place of a universal probe, or null. */
  readonly twin: Vaddr | null;
}

export interface FileState extends MappedFile {
  readonly sites: readonly SiteState[];
}

export interface ProcessState {
  readonly pid: number;
  /** The name of its program, as the kernel has it. */
  readonly command: string;
  /** Why nothing can be said of it, for a person to read, or null. */
  readonly reason: string | null;
  /** Where the kernel's trampolines for probes are: runtime addresses. */
  readonly trampolines: readonly number[];
  /** Files with probes, and files of which it cannot be said whether they have any. */
  readonly files: readonly FileState[];
}

/** A probe as its file has it. */
interface KnownSite extends Pick<SiteState, "provider" | "name" | "location" | "twin"> {
  /** File offset, or null where the note leads to no code. */
  readonly offset: number | null;
  /** The file's bytes there, so many as the longest form has. */
  readonly code: Uint8Array;
}

/** Bytes of the longest form of a probe: nop; nop10. */
const LOOK = 11;
const ATTEMPTS = 3;
/** The kernel changes a probe in some microseconds, but may wait for its turn between two of them: in ms. */
const AGAIN = 20;
const TRAMPOLINE = "[uprobes-trampoline]";

/** Numbers of all processes there are. */
export const allProcesses = (): readonly number[] =>
  readdirSync("/proc")
    .filter((name) => /^[1-9]\d*$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);

/** Looks at processes, and reads each file once, however many have it mapped. */
export class StatusReader {
  readonly #files = new Map<string, readonly KnownSite[] | string>();

  /** The state of a process; null where there is none, or it has ended meanwhile. */
  async look(pid: number): Promise<ProcessState | null> {
    for (let attempt = 1; ; attempt++) {
      const state = this.#lookOnce(pid);
      const isTorn = state?.files.some(({ sites }) => sites.some((site) => site.state === "torn")) ?? false;
      if (!isTorn || attempt === ATTEMPTS) return state;
      await delay(AGAIN);
    }
  }

  #lookOnce(pid: number): ProcessState | null {
    const nothing = { pid, command: commandOf(pid), trampolines: [], files: [] };
    let mappings: readonly Mapping[];
    try {
      mappings = parseMappings(pathText(readFileSync(`/proc/${pid}/maps`)).split("\n"));
    } catch (error) {
      if (!isSystemError(error)) throw error;
      if (isGone(error)) return null;
      return { ...nothing, reason: `its mappings cannot be read: ${describe(error)}` };
    }
    const trampolines = mappings.filter(({ path }) => path === TRAMPOLINE);
    const isTrampoline = (at: number): boolean => trampolines.some(({ start, end }) => at >= start && at < end);
    const byFile = new Map<string, Mapping[]>();
    for (const mapping of mappings)
      if (mapping.isCode && mapping.inode !== "0") addTo(byFile, `${mapping.identity} ${mapping.path}`, mapping);
    const memory = new Memory(pid);
    try {
      const files = [...byFile.values()].flatMap((ofFile) => this.#file(pid, ofFile, memory, isTrampoline));
      return { ...nothing, reason: null, trampolines: trampolines.map(({ start }) => start), files };
    } finally {
      memory.close();
    }
  }

  /** @param mappings those of one file, of code */
  #file(
    pid: number,
    mappings: readonly Mapping[],
    memory: Memory,
    isTrampoline: (address: number) => boolean,
  ): readonly FileState[] {
    let known: readonly KnownSite[] | string = [];
    const file = findMappedFile(pid, mappings[0]!, (fd, stat) => {
      known = this.#sitesOf(fd, stat);
    });
    const reason = typeof known === "string" ? known : file.reason;
    const sites = typeof known === "string" ? [] : known;
    if (reason === null && sites.length === 0) return [];
    return [
      {
        ...file,
        reason,
        sites: sites.map(({ provider, name, location, twin, offset, code }) => {
          const seen = stateAt(offset, code, mappings, memory, isTrampoline);
          return { provider, name, location, twin, ...seen };
        }),
      },
    ];
  }

  #sitesOf(fd: number, { dev, ino, size, mtimeNs }: BigIntStats): readonly KnownSite[] | string {
    const key = `${dev} ${ino} ${size} ${mtimeNs}`;
    let known = this.#files.get(key);
    if (known === undefined) {
      known = readSites(fd);
      this.#files.set(key, known);
    }
    return known;
  }
}

/** The probes of an open file: none where it is no ELF file; why not, where it is one that cannot be read. */
function readSites(fd: number): readonly KnownSite[] | string {
  try {
    return readParts(`/proc/self/fd/${fd}`, (bytes, need) => {
      need(0, ELF_MAGIC.length);
      if (bytes.toString("latin1", 0, ELF_MAGIC.length) !== ELF_MAGIC) return [];
      for (const { offset, size } of headerRanges(bytes)) need(offset, size);
      const image = parseElf(bytes);
      for (const { offset, size } of noteAndSymbolRanges(image)) need(offset, size);
      const notes = readUsdtNotes(image);
      const twins = twinPlaces(notes, findTwins(image, notes, need));
      return notes.map(({ provider, name, location }, i) => {
        const code = codeFrom(image, location)?.subarray(0, LOOK) ?? null;
        if (code !== null) need(code.byteOffset - bytes.byteOffset, code.length);
        const offset = code === null ? null : (offsetOf(image, location) ?? null);
        return { provider, name, location, twin: twins[i] ?? null, offset, code: Uint8Array.from(code ?? []) };
      });
    });
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
}

const ELF_MAGIC = "\x7fELF";

/** A place that is mapped several times is what the one of them is that matters most. */
function stateAt(
  offset: number | null,
  code: Uint8Array,
  mappings: readonly Mapping[],
  memory: Memory,
  isTrampoline: (address: number) => boolean,
): Patched {
  if (offset === null) return { state: "unknown", reason: "its note leads to no code" };
  const here = mappings.filter((m) => offset >= m.offset && offset < m.offset + m.end - m.start);
  if (here.length === 0) return { state: "unknown", reason: "it is not mapped as code" };
  if (memory.reason !== null) return { state: "unknown", reason: memory.reason };
  return worst(
    here.map((mapping) => {
      const address = mapping.start + offset - mapping.offset;
      return judge(code, memory.read(address, code.length), address, isTrampoline);
    }),
  );
}

/** The memory of a process, to read. */
class Memory {
  /** Why it cannot be read, or null. */
  readonly reason: string | null = null;
  readonly #fd: number | null = null;

  constructor(pid: number) {
    try {
      this.#fd = openSync(`/proc/${pid}/mem`, "r");
    } catch (error) {
      if (!isSystemError(error)) throw error;
      const rights = error.code === "EACCES" || error.code === "EPERM" ? `; ${whoMay()}` : "";
      this.reason = `its memory cannot be read: ${describe(error)}${rights}`;
    }
  }

  /** As many bytes from a runtime address on as can be read, at most `size`. */
  read(address: number, size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    if (this.#fd === null) return bytes.subarray(0, 0);
    try {
      return bytes.subarray(0, readSync(this.#fd, bytes, 0, size, address));
    } catch {
      return bytes.subarray(0, 0);
    }
  }

  close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
  }
}

/** Who may read the memory of others here. */
function whoMay(): string {
  try {
    const scope = readFileSync("/proc/sys/kernel/yama/ptrace_scope", "latin1").trim();
    if (scope !== "0") return `root may (Yama: kernel.yama.ptrace_scope is ${scope})`;
  } catch {
    // A kernel without Yama.
  }
  return "its owner and root may";
}

/** No such process, or none any more. */
const isGone = ({ code }: NodeJS.ErrnoException): boolean => code === "ENOENT" || code === "ESRCH";

function commandOf(pid: number): string {
  try {
    return pathText(readFileSync(`/proc/${pid}/comm`)).replace(/\n$/, "");
  } catch {
    return "";
  }
}
