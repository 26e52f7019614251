/** What `check` says: the JSON document of the command contract, and a report for people. */
import { hex } from "../address.js";
import { type Held, isComplete, type Shortage } from "../usdt/expected.js";
import type { Probe } from "../usdt/probes.js";
import { columns, count, forPeople, type Style } from "./text.js";

interface SlowProbe {
  readonly probe: Probe;
  readonly reason: string;
}

export interface CheckedFile {
  readonly path: string;
  readonly held: Held;
  /** Probes that are not fast; none where that was not asked. */
  readonly slow: readonly SlowProbe[];
}

/** Whether a file has all that was asked for. */
const holds = ({ held, slow }: CheckedFile): boolean => isComplete(held) && slow.length === 0;

/** The document of `check --json`. */
export const checkDocument = (files: readonly CheckedFile[]): object => ({
  schemaVersion: 1,
  files: files.map(({ path, held, slow }) => ({
    path,
    missing: held.missing.map(shortage),
    fewer: held.fewer.map(shortage),
    removed: held.removed.map(({ provider, name, location }) => ({ provider, name, location: hex(location) })),
    slow: slow.map(({ probe: { provider, name, location, twin }, reason }) => ({
      provider,
      name,
      location: hex(location),
      twin: twin === null ? null : hex(twin.location),
      reason,
    })),
  })),
});

const shortage = ({ probe, expected, found }: Shortage): object => ({ probe, expected, found });

const named = ({ provider, name }: Probe): string => `${provider}:${name}`;

/** The text of `check` for one file, with a line end. */
export const checkText = forPeople((file: CheckedFile, style: Style): string => {
  const { path, held, slow } = file;
  const present = count(held.present.length, "USDT probe");
  if (holds(file)) return `${style.heading(path)}: ${present} as expected\n`;
  const rows = [
    ...held.missing.map(({ probe, expected }) => ["missing", probe, `none of ${expected}`]),
    ...held.fewer.map(({ probe, expected, found }) => ["fewer", probe, `${found} of ${expected}`]),
    ...held.removed.map((probe) => ["removed", named(probe), `${hex(probe.location)} is in no code of the file`]),
    ...slow.map(({ probe, reason }) => ["slow", named(probe), `${hex(probe.location)} ${reason}`]),
  ];
  const lines = columns(rows, "  ").map((line) => style.warning(line));
  return [`${style.heading(path)}: not as expected (${present} found)`, ...lines, ""].join("\n");
});
