/**
 * Several trampolines in one address space, on a kernel that takes the first one in reach by its address. A probe keeps its
 * trampoline only as long as no other in reach is mapped below it: one that a probe further down gets where the free
 * pages near it are taken. Taking a call back leaves it in bytes 5 to 9 for threads that stand behind lea, and patching it
 * in again writes another call over it.
 */
import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../../src/address.js";
import { assemble, branch, line } from "../../src/patching/assemble.js";
import { type Fault, faultNamed } from "../../src/patching/faults.js";
import { makeProgram, type Program } from "../../src/patching/programs.js";
import { Rehearsal } from "../../src/patching/rehearsal.js";
import { explore, prepare, type Scenario } from "../../src/patching/scenario.js";
import { NOP5, NOP10 } from "../../src/x86/bytes.js";
import { passing } from "./conformance/cases.js";

const MEGABYTE = 2 ** 20;
const GIGABYTE = 2 ** 30;
const UPPER = 0x1_8040_1080;
/** 2.5 GiB below. */
const LOWER = UPPER - 2.5 * GIGABYTE;

const hex = (bytes: ArrayLike<number>): string => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(" ");

const callTo = (address: number) => [
  line("movabs rax", `48 b8 ${hex(new Uint8Array(BigUint64Array.of(BigInt(address)).buffer))}`),
  line("call rax", "ff d0"),
];

/** @param isCrowded the pages around the lower probe are taken, up to a place that the upper one reaches */
function program(nop: Uint8Array, isCrowded: boolean): Program {
  const leaf = (address: number) => [address, line("nop", hex(nop)), line("ret", "c3")];
  const loop = [0x40_1000, "loop:", ...callTo(UPPER), ...callTo(LOWER), branch("jmp loop", "e9", "loop")];
  const { listing } = assemble([...loop, ...leaf(UPPER), ...leaf(LOWER)]);
  const crowd = { start: LOWER - 1.5 * GIGABYTE, end: LOWER + 0.75 * GIGABYTE + MEGABYTE / 3 };
  return {
    ...makeProgram("far", { probe: nop }),
    listing,
    sites: [UPPER, LOWER].map((address) => ({ address, original: nop })),
    occupied: isCrowded ? [crowd] : [],
  };
}

const scenario = (kernel: "6.18" | "7.2", isCrowded: boolean, threads = 2): Scenario => ({
  kernel,
  program: program(kernel === "7.2" ? NOP10 : NOP5, isCrowded),
  threads,
  toggles: 2,
});

describe("a second trampoline in reach", () => {
  it("7.2: another call is patched in the second time", () => {
    const { setup } = prepare(scenario("7.2", true, 1));
    const run = new Rehearsal(setup, { toggles: 2 });
    run.attach();
    run.pass(0, 4);
    const first = run.bytes(0);
    run.detach();
    run.attach();
    run.pass(0, 4);
    expect(run.trampolines().length).toBe(2);
    expect(hex(run.bytes(0))).not.toBe(hex(first));
  });

  it("7.2: a thread between lea and call runs a mixture of both", () => {
    const { found } = explore(scenario("7.2", true));
    expect(found?.violation.property).toBe("torn-instruction");
    const torn = found!.schedule.at(-1)!;
    const own = found!.schedule.filter(({ actor }) => actor === torn.actor).map(({ step }) => step.label);
    expect(own.slice(-2)).toEqual(["lea", "fetches a mixture"]);
  });

  it("7.2: nothing of that where there is room near each probe", () => {
    const result = explore(scenario("7.2", false, 1));
    expect([result.found, result.exhaustive]).toEqual([null, true]);
  });

  it("7.2: two probes 2 GiB apart are enough, with pages taken around the lower one", () => {
    const [upper, lower] = [0x8040_1ff0, 0x40_1ff0];
    const neighbours = { start: lower - 64 * PAGE_SIZE, end: lower + 64 * PAGE_SIZE };
    const scenario: Scenario = {
      ...{ kernel: "7.2", threads: 2, toggles: 2 },
      program: { ...passing(NOP10, [upper, lower]), occupied: [neighbours] },
    };
    const { found } = explore(scenario);
    expect(found?.violation.property).toBe("torn-instruction");
    // A kernel whose sites keep the trampoline that they once had does not tear.
    const keeps: Fault = { ...faultNamed("syncs-twice")!, change: () => ({ keepsTrampoline: true }) };
    const result = explore({ ...scenario, fault: keeps });
    expect([result.found, result.exhaustive]).toEqual([null, true]);
  });

  it("6.18: no thread can stand inside, whatever trampoline is taken", () => {
    const result = explore(scenario("6.18", true));
    expect([result.found, result.exhaustive]).toEqual([null, true]);
  });
});
