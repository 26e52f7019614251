/**
 * `npm run bench:emulate`: how many instructions a second the emulator runs, against Unicorn (Debian's
 * python3-unicorn), which compiles to machine code, where it is installed.
 *
 * Both run the same machine code from the same state. That they do the same is checked: in a short form the
 * instructions are counted on both sides, and the registers at the end agree in the short form and the full one. Each
 * round makes a new machine, and times decoding, or compiling, as well. The two run in turns; medians are compared.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { programs } from "./emulate/programs.js";

const ROUNDS = 7;
/** What the ten-instruction loop is to reach, in millions a second. */
const TARGET = 20;
/** Debian's own Python has Debian's Unicorn. */
const python = ["/usr/bin/python3", "python3"].find((p) => spawnSync(p, ["-c", "import unicorn"]).status === 0);
const dist = new URL(process.argv[2] ? `file://${process.argv[2]}/` : "../dist/", import.meta.url);

if (!existsSync(fileURLToPath(new URL("emulate/cpu.js", dist)))) {
  console.error("bench: run `npm run build` first");
  process.exit(1);
}
const { Cpu } = await import(new URL("emulate/cpu.js", dist).href);
const { parseElf } = await import(new URL("elf/image.js", dist).href);

/** Runs it in our emulator: milliseconds, instructions, registers. */
function ours({ segments, registers, start, stop }) {
  const cpu = new Cpu();
  for (const { address, size, content, permissions } of segments) {
    cpu.memory.map(address, size, permissions);
    cpu.memory.poke(address, content);
  }
  for (const [i, value] of registers.entries()) cpu.setGpr(i, BigInt(value));
  cpu.ip = start;
  const begun = performance.now();
  const outcome = cpu.run(Number.MAX_SAFE_INTEGER);
  const ms = performance.now() - begun;
  // The int3 at `stop` is ours alone.
  if (outcome.kind !== "breakpoint" || cpu.ip !== stop + 1) throw new Error(`stopped: ${JSON.stringify(outcome)}`);
  return { ms, count: cpu.instructions - 1, registers: registers.map((_, i) => String(cpu.gpr(i))) };
}

/** Unicorn in a process of its own, or undefined. */
async function startUnicorn() {
  if (python === undefined) return undefined;
  const child = spawn(python, [fileURLToPath(new URL("emulate/in-unicorn.py", import.meta.url))], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error("Unicorn ended");
    return JSON.parse(value);
  };
  const { version } = await answer();
  return {
    version,
    run: (program, count) => {
      const segments = program.segments.map(({ address, size, content }) => [address, size, content.toString("hex")]);
      child.stdin.write(`${JSON.stringify({ ...program, segments, count })}\n`);
      return answer();
    },
    end: () => child.stdin.end(),
  };
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

function mustAgree(name, one, other) {
  if (JSON.stringify(one.registers) !== JSON.stringify(other.registers))
    throw new Error(`${name}: registers differ\n${one.registers}\n${other.registers}`);
}

const unicorn = await startUnicorn();
console.log(
  unicorn === undefined
    ? "python3-unicorn is not installed: no comparison (apt-get install python3-unicorn)"
    : `against Unicorn ${unicorn.version}, medians of ${ROUNDS} rounds in turns; millions of instructions a second`,
);
console.log(`${"".padEnd(20)}${"instructions".padStart(14)}${"ours".padStart(10)}${"Unicorn".padStart(10)}   ratio`);

for (const { name, full, short } of await programs(parseElf)) {
  let count = ours(short).count;
  if (unicorn !== undefined) {
    const counted = await unicorn.run(short, true);
    mustAgree(name, ours(short), counted);
    if (counted.count !== count) throw new Error(`${name}: ${count} instructions, Unicorn counts ${counted.count}`);
  }
  const times = { ours: [], unicorn: [] };
  for (let round = 0; round < ROUNDS; round++) {
    const own = ours(full);
    count = own.count;
    times.ours.push(own.ms);
    if (unicorn === undefined) continue;
    const theirs = await unicorn.run(full, false);
    mustAgree(name, own, theirs);
    times.unicorn.push(theirs.ms);
  }
  const speed = (list) => count / median(list) / 1000;
  const own = speed(times.ours);
  const theirs = unicorn === undefined ? undefined : speed(times.unicorn);
  console.log(
    `${name.padEnd(20)}${count.toLocaleString("en").padStart(14)}${own.toFixed(1).padStart(10)}` +
      (theirs === undefined ? "         -" : `${theirs.toFixed(1).padStart(10)}   ${(own / theirs).toFixed(3)}`) +
      (name === "ten instructions" ? `   target ${TARGET}: ${own >= TARGET ? "reached" : "missed"}` : ""),
  );
}
unicorn?.end();
