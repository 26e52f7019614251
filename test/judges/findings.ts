/**
 * What the checkers of binutils and elfutils have to say about a file, made comparable: numbers that a rewrite moves
 * (section indexes, offsets, addresses) are taken out, so that a finding of the input is known again in the output, and
 * one that appears more often than before counts as new.
 */
import { run } from "../run.js";
import { readSections, readSegments } from "./headers.js";

function comparable(line: string, file: string): string {
  return line
    .replaceAll(file, "FILE")
    .replace(/0x[0-9a-f]+/g, "N")
    .replace(/\[ *\d+\]/g, "[N]")
    .replace(/\b\d+\b/g, "N")
    .trim();
}

const TEXT_RELOCATION = /section \[ *(\d+)\] .*: relocation (\d+): read-only section modified/;

/** eu-elflint exits 1 with findings on stdout; a crash or nothing readable is a finding of its own. */
async function elflint(file: string): Promise<readonly string[]> {
  const outcome = await run("eu-elflint", ["--gnu-ld", file]);
  if (outcome.signal !== null) return [`eu-elflint ended by ${outcome.signal}`];
  const lines = `${outcome.stdout}\n${outcome.stderr}`
    .split("\n")
    .filter((line) => line !== "" && line !== "No errors");
  const real: string[] = [];
  for (const line of lines) if (!(await isWritten(file, line))) real.push(line);
  return real.map((line) => comparable(line, file));
}

/**
 * Whether a relocation that eu-elflint takes for one of read-only memory lies in a writable segment, by readelf. It adds
 * the symbol's size to the place, as if every relocation copied the symbol; mold writes the sizes of imported functions.
 */
async function isWritten(file: string, line: string): Promise<boolean> {
  const found = TEXT_RELOCATION.exec(line);
  if (found === null) return false;
  const section = (await readSections(file)).find((s) => s.index === Number(found[1]));
  const { stdout } = await run("readelf", ["-rW", file]);
  const table = stdout.split("Relocation section ").find((part) => part.startsWith(`'${section?.name}'`));
  const places = [...(table ?? "").matchAll(/^([0-9a-f]{16}) /gm)].map((row) => BigInt(`0x${row[1]}`));
  const place = places[Number(found[2])];
  const segments = await readSegments(file);
  return segments.some(
    (s) =>
      s.type === "LOAD" &&
      s.flags.includes("W") &&
      place !== undefined &&
      place >= s.vaddr &&
      place + 8n <= s.vaddr + s.memorySize,
  );
}

async function readelf(file: string): Promise<readonly string[]> {
  const outcome = await run("readelf", ["-hlSWnrdsV", file]);
  const warnings = outcome.stderr.split("\n").filter((line) => line !== "");
  return outcome.status === 0
    ? warnings.map((line) => comparable(line, file))
    : [...warnings.map((line) => comparable(line, file)), `readelf: exit ${outcome.status}`];
}

/** Rules of our own: what strip, the kernel and hardening need of a file's headers. */
async function structure(file: string): Promise<readonly string[]> {
  const findings: string[] = [];
  const [sections, segments] = await Promise.all([readSections(file), readSegments(file)]);
  let last = 0n;
  for (const section of sections) {
    if (!section.flags.includes("A")) continue;
    if (section.address < last) findings.push(`section ${section.name} is not in address order`);
    last = section.address;
  }
  let previous = -1n;
  for (const segment of segments) {
    if (segment.flags.includes("W") && segment.flags.includes("E")) {
      findings.push(`segment ${segment.type} is both writable and executable`);
    }
    if (segment.type !== "LOAD") continue;
    if (segment.vaddr < previous) findings.push("PT_LOADs are not in address order");
    previous = segment.vaddr + segment.memorySize;
    if ((segment.vaddr - segment.offset) % 4096n !== 0n) findings.push("a PT_LOAD's address and offset do not agree");
  }
  return findings;
}

export type Findings = ReadonlyMap<string, number>;

export async function findingsOf(file: string): Promise<Findings> {
  const all = (await Promise.all([elflint(file), readelf(file), structure(file)])).flat();
  const counted = new Map<string, number>();
  for (const finding of all) counted.set(finding, (counted.get(finding) ?? 0) + 1);
  return counted;
}

export function newFindings(before: Findings, after: Findings): readonly string[] {
  return [...after].filter(([finding, times]) => times > (before.get(finding) ?? 0)).map(([finding]) => finding);
}
