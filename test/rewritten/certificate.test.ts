/** Certificates survive being written and read, and whatever else the bytes may be, reading them ends quietly. */
import { describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import {
  type Certificate,
  type Claim,
  decodeCertificates,
  encodeCertificates,
} from "../../src/rewritten/certificate.js";

const table: Claim = {
  kind: "table",
  base: vaddr(0x1234),
  width: 4,
  signed: true,
  minus: false,
  first: vaddr(0x9000),
  stride: 4,
};

const certificates: readonly Certificate[] = [
  {
    parts: [
      { start: vaddr(0x1000), end: vaddr(0x1100) },
      { start: vaddr(0x40_0000), end: vaddr(0x40_0001) },
    ],
    transfers: [
      { address: vaddr(0x1010), claims: [table, { ...table, signed: false, minus: true, width: 8, stride: -24 }] },
      {
        address: vaddr(0x1020),
        claims: [{ kind: "exact", addresses: [vaddr(0), vaddr(2 ** 47)] }, { kind: "pointer" }],
      },
      { address: vaddr(0x40_0000), claims: [] },
    ],
    made: [
      { address: vaddr(0x1000), value: vaddr(0x1080) },
      { address: vaddr(0x1000), value: vaddr(0x7fff_ffff_f000) },
    ],
  },
  { parts: [], transfers: [], made: [] },
];

describe("certificates", () => {
  it("are read as they were written", () => {
    expect(decodeCertificates(encodeCertificates(certificates))).toEqual(certificates);
    expect(decodeCertificates(encodeCertificates([]))).toEqual([]);
  });

  it("are compact: a transfer with a table takes at most 12 bytes", () => {
    const [first] = certificates;
    const one = {
      ...first!,
      made: [],
      transfers: first!.transfers.slice(0, 1).map((t) => ({ ...t, claims: [table] })),
    };
    const none = { ...one, transfers: [] };
    expect(encodeCertificates([one]).length - encodeCertificates([none]).length).toBeLessThanOrEqual(12);
  });

  it("cannot be written out of order", () => {
    const [first] = certificates;
    const turned = { ...first!, transfers: [...first!.transfers].reverse() };
    expect(() => encodeCertificates([turned])).toThrow(RangeError);
  });

  it("are nothing where the bytes are cut short, longer, or of another version", () => {
    const bytes = encodeCertificates(certificates);
    for (let length = 0; length < bytes.length; length++)
      expect(decodeCertificates(bytes.subarray(0, length)), `${length} bytes`).toBeUndefined();
    expect(decodeCertificates(Uint8Array.of(...bytes, 0))).toBeUndefined();
    expect(decodeCertificates(Uint8Array.of(2, 0))).toBeUndefined();
  });

  it("do not allocate what a count announces", () => {
    const huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    const before = process.memoryUsage().arrayBuffers + process.memoryUsage().heapUsed;
    for (const at of [[1], [1, 1], [1, 1, 0], [1, 1, 0, 0]])
      expect(decodeCertificates(Uint8Array.of(...at, ...huge))).toBeUndefined();
    const after = process.memoryUsage().arrayBuffers + process.memoryUsage().heapUsed;
    expect(after - before).toBeLessThan(2 ** 23);
  });

  it("read from any bytes, are written as the same bytes, or are nothing", () => {
    const bytes = encodeCertificates(certificates);
    let random = 1;
    const next = (below: number): number => {
      random = (Math.imul(random, 1103515245) + 12345) >>> 0;
      return (random >>> 8) % below;
    };
    let sound = 0;
    for (let i = 0; i < 20_000; i++) {
      const damaged = Uint8Array.from(bytes);
      for (let n = 1 + next(3); n > 0; n--) damaged[next(damaged.length)] = next(256);
      const read = decodeCertificates(damaged);
      if (read === undefined) continue;
      sound++;
      expect(encodeCertificates(read)).toEqual(damaged);
    }
    expect(sound).toBeGreaterThan(100);
  });
});
