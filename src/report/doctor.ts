/** What `doctor` says: the JSON document of the command contract, and a list for people. */
import type { Check, Diagnosis } from "../live/doctor.js";
import { columns, forPeople, type Style } from "./text.js";

/** The document of `doctor --json`. */
export const doctorDocument = ({ kernel, checks, optimizes }: Diagnosis): object => ({
  schemaVersion: 1,
  kernel,
  checks: checks.map(({ name, status, detail }) => ({ name, status, detail })),
  optimizes,
});

/** The text of `doctor`. */
export const doctorText = forPeople(({ kernel, checks, optimizes }: Diagnosis, style: Style): string => {
  const lines = columns(
    checks.map(({ name, status, detail }) => [status, name, detail]),
    "  ",
  );
  const painted = lines.map((line, i) => paint(checks[i]!, line, style));
  const what = optimizes === "none" ? "optimizes no USDT probe" : `optimizes ${optimizes}`;
  return [style.heading(`Linux ${kernel} ${what}`), ...painted, ""].join("\n");
});

function paint({ status }: Check, line: string, style: Style): string {
  if (status === "ok") return line;
  return status === "skipped" ? style.quiet(line) : style.warning(line);
}
