/** What `list` says about files: the JSON document of the command contract, and a table for people. */
import { hex, type Vaddr } from "../address.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** One probe as it stands in a file. Addresses are link-time addresses, after the .stapsdt.base rule. */
export interface ListedSite {
  readonly provider: string;
  readonly name: string;
  readonly location: Vaddr;
  /** The address of .stapsdt.base as it stands in the note. */
  readonly base: Vaddr;
  /** 0 where the probe has none. */
  readonly semaphore: Vaddr;
  readonly arguments: readonly string[];
  /** What stands there: a known probe instruction, a disassembly, or in parentheses why there is none. */
  readonly instruction: string;
  readonly function: string | null;
  /** The other place of a universal probe, of which a pass runs one; else null. */
  readonly twin: Vaddr | null;
}

export interface ListedFile {
  readonly path: string;
  readonly buildId: string | null;
  readonly sites: readonly ListedSite[];
}

/** The document of `list --json`. */
export const listDocument = (files: readonly ListedFile[]): object => ({
  schemaVersion: 1,
  files: files.map((file) => ({
    path: file.path,
    buildId: file.buildId,
    sites: file.sites.map((site) => ({
      provider: site.provider,
      name: site.name,
      location: hex(site.location),
      base: hex(site.base),
      semaphore: hex(site.semaphore),
      arguments: site.arguments,
      instruction: site.instruction,
      function: site.function,
      twin: site.twin === null ? null : hex(site.twin),
    })),
  })),
});

/** The text of `list` for one file, with a line end. */
export const listText = forPeople((file: ListedFile, style: Style): string => {
  const buildId = file.buildId === null ? "no build-id" : `build-id ${file.buildId}`;
  const path = file.path;
  if (file.sites.length === 0) return `${style.heading(path)}: no USDT probes, ${buildId}\n`;
  const withSemaphores = file.sites.some((site) => site.semaphore !== 0);
  const withTwins = file.sites.some((site) => site.twin !== null);
  const row = (site: ListedSite): string[] => [
    `${site.provider}:${site.name}`,
    hex(site.location),
    site.instruction,
    ...(withTwins ? [site.twin === null ? "-" : hex(site.twin)] : []),
    ...(withSemaphores ? [site.semaphore === 0 ? "-" : hex(site.semaphore)] : []),
    site.function ?? "-",
    site.arguments.join(" "),
  ];
  const header = [
    "PROBE",
    "LOCATION",
    "INSTRUCTION",
    ...(withTwins ? ["TWIN"] : []),
    ...(withSemaphores ? ["SEMAPHORE"] : []),
    "FUNCTION",
    "ARGUMENTS",
  ];
  const [head, ...rows] = columns([header, ...file.sites.map(row)], "  ");
  return [`${style.heading(path)}: ${probes(file.sites)}, ${buildId}`, style.quiet(head!), ...rows, ""].join("\n");
});

/** How many there are: one with two notes is one, and that is said. */
function probes(sites: readonly ListedSite[]): string {
  const second = sites.filter((site) => site.twin !== null).length / 2;
  const all = count(sites.length - second, "USDT probe");
  return second === 0 ? all : `${all}, ${second} of them with two places`;
}
