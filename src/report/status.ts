/** What `status` says of processes: the JSON document of the command contract, and a report for people. */
import { hex } from "../address.js";
import type { FileState, ProcessState, SiteState } from "../live/status.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** The document of `status --json`. */
export const statusDocument = (processes: readonly ProcessState[]): object => ({
  schemaVersion: 1,
  processes: processes.map(({ pid, command, reason, trampolines, files }) => ({
    pid,
    command,
    reason,
    trampolines: trampolines.map(hex),
    files: files.map((file) => ({
      path: file.path,
      stale: file.stale,
      reason: file.reason,
      sites: file.sites.map((site) => ({
        provider: site.provider,
        name: site.name,
        location: hex(site.location),
        twin: site.twin === null ? null : hex(site.twin),
        state: site.state,
        reason: site.reason,
      })),
    })),
  })),
});

/**
 * The text of `status` for one process, with a line end.
 * @param isWhole whether probes that nobody has touched get a line as well
 */
export const statusText = forPeople((process: ProcessState, style: Style, isWhole: boolean): string => {
  const { pid, command, trampolines, files } = process;
  const head = style.heading(command === "" ? `process ${pid}` : `process ${pid} (${command})`);
  if (files.length === 0) return `${head}: no file with USDT probes\n`;
  const room = trampolines.length === 0 ? "" : `: ${count(trampolines.length, "trampoline")} of the kernel's`;
  return [`${head}${room}`, ...files.flatMap((file) => fileLines(file, style, isWhole)), ""].join("\n");
});

function fileLines({ path, stale, reason, sites }: FileState, style: Style, isWhole: boolean): readonly string[] {
  const lines: string[] = [];
  if (reason === null) lines.push(`  ${path}: ${count(sites.length, "place")}: ${tally(sites)}`);
  else lines.push(`  ${path}: ${style.warning("unknown")}: ${reason}`);
  if (stale) lines.push(`    ${style.warning("stale")}: its path leads to another file now, or to none`);
  const shown = sites.filter(({ state }) => isWhole || state !== "untouched");
  const rows = shown.map(({ state, location, provider, name, reason: why }) => [
    state,
    hex(location),
    `${provider}:${name}`,
    why ?? "",
  ]);
  return [...lines, ...columns(rows, "    ")];
}

/** How many are what: "70 untouched, 1 call". */
function tally(sites: readonly SiteState[]): string {
  const states = ["untouched", "trap", "call", "torn", "unknown"] as const;
  const numbers = states.map((state) => [sites.filter((site) => site.state === state).length, state] as const);
  return numbers
    .filter(([n]) => n > 0)
    .map(([n, state]) => `${n} ${state}`)
    .join(", ");
}
