/** The table of kernels: what was seen on each, and questions to it. */
import { describe, expect, it } from "vitest";
import {
  attachedTo,
  kernelNamed,
  kernelOf,
  kernels,
  parseVersion,
  returnsBySystemCall,
  treatmentOf,
} from "../../src/kernel/kernels.js";
import { treatmentAt } from "../../src/kernel/treatment.js";

const named = (version: string): string => kernelOf(parseVersion(version)!).name;

describe("ranges", () => {
  it.each([
    ["legacy", ["3.10", "4.18.0-553.el8", "5.4", "6.1.176", "6.12.117", "6.17.13"]],
    ["6.18", ["6.18", "6.18.15+deb13-cloud-amd64", "6.19.14", "7.0.13", "7.1.13"]],
    // Seen in the images of 7.2.6 to 7.2.13 and 7.3.4.
    ["7.2", ["7.2.6", "7.2.13+deb14-cloud-amd64", "7.3-rc7", "7.3.4", "7.4", "7.10", "8.0", "10.1"]],
  ])("%s: %s", (name, versions) => {
    expect(versions.map(named)).toEqual(versions.map(() => name));
  });

  it("what is no version belongs to none", () => {
    expect(["", "six", "6", "6.", ".18", "v6.18", "12345.1"].map(parseVersion)).toEqual(Array(7).fill(null));
  });

  it("are in order, and no two have a name or a beginning in common", () => {
    const numbers = kernels.map(({ since: [major, minor] }) => major * 1000 + minor);
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    expect(new Set(kernels.map(({ name }) => name)).size).toBe(kernels.length);
  });

  it("return probes use a system call from 6.11 on", () => {
    const answers = ["6.1", "6.10.9", "6.11", "6.12.117", "6.18", "7.3"].map((v) =>
      returnsBySystemCall(parseVersion(v)!),
    );
    expect(answers).toEqual([false, false, true, true, true, true]);
  });
});

describe("what tracers get", () => {
  const [legacy, nop5, nop10] = (["legacy", "6.18", "7.2"] as const).map(kernelNamed) as [
    ReturnType<typeof kernelNamed>,
    ReturnType<typeof kernelNamed>,
    ReturnType<typeof kernelNamed>,
  ];

  it("by name", () => {
    const of = (kernel: typeof legacy) =>
      (["nop", "nop5", "nop10", "nop,nop5", "nop,nop10"] as const).map((instruction) => {
        const { plain, libbpf } = treatmentOf(kernel, instruction);
        return plain === libbpf ? plain : `${plain}, ${libbpf}`;
      });
    expect(of(legacy)).toEqual(["emulated", "stepped", "refused", "emulated", "emulated"]);
    expect(of(nop5)).toEqual(["emulated", "optimized", "refused", "emulated, optimized", "emulated"]);
    expect(of(nop10)).toEqual(["emulated", "emulated", "optimized", "emulated", "emulated, optimized"]);
  });

  it("and where", () => {
    const places = [legacy, nop5, nop10].map((kernel) =>
      (["nop5", "nop,nop5", "nop,nop10"] as const).map((instruction) => attachedTo(kernel, instruction).offset),
    );
    expect(places).toEqual([
      [0, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ]);
  });

  // Held against each kernel by test/kernels.
  it.each([
    ["90", 0, "emulated", "emulated", "emulated"],
    ["66 90", 0, "stepped", "emulated", "emulated"],
    ["0f 1f 44 00 00", 0, "stepped", "optimized", "emulated"],
    ["0f 1f 44 00 08", 0, "stepped", "optimized", "emulated"],
    ["66 66 66 66 90", 0, "stepped", "optimized", "emulated"],
    ["0f 1f 44 00 00", 0xffc, "stepped", "emulated", "emulated"],
    ["0f 1f 44 00 00", 0xffb, "stepped", "optimized", "emulated"],
    ["2e 0f 1f 40 00", 0, "refused", "refused", "refused"],
    ["66 2e 0f 1f 84 00 00 00 00 00", 0, "refused", "refused", "optimized"],
    ["66 2e 0f 1f 84 c0 78 56 34 12", 0, "refused", "refused", "optimized"],
    ["66 2e 0f 1f 84 00 00 00 00 00", 0xff6, "refused", "refused", "optimized"],
    ["66 2e 0f 1f 84 00 00 00 00 00", 0xff7, "refused", "refused", "refused"],
    ["2e 66 0f 1f 84 00 00 00 00 00", 0, "refused", "refused", "refused"],
    ["66 66 0f 1f 84 00 00 00 00 00", 0, "stepped", "emulated", "emulated"],
    ["66 66 2e 0f 1f 84 00 00 00 00 00", 0, "refused", "refused", "refused"],
    ["c3", 0, null, null, null],
  ])("%s at 0x%i", (hex, address, ...expected) => {
    const code = Buffer.from(hex.replaceAll(" ", ""), "hex");
    expect([legacy, nop5, nop10].map((kernel) => treatmentAt(kernel, code, address))).toEqual(expected);
  });
});
