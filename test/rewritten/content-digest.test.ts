/** The digest follows from the content alone, however it comes and wherever it has holes. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { ContentDigest, digestOf } from "../../src/rewritten/content-digest.js";

const MIB = 1 << 20;
const hex = (bytes: Buffer): string => bytes.toString("hex");
const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

function withZeros(before: number, zeros: number, after: number): Buffer {
  return Buffer.concat([Buffer.alloc(before, 7), Buffer.alloc(zeros), Buffer.alloc(after, 9)]);
}

describe("the digest of content", () => {
  it.each([0, 1, 65_535, 65_536, 65_537, 3 * MIB])("is the SHA-256 of %i bytes", (size) => {
    const bytes = Buffer.from(Array.from({ length: size }, (_, i) => (i * 31) & 255));
    expect(hex(digestOf(bytes, [], 0))).toBe(sha256(bytes));
  });

  it("is the SHA-256 where zeros are few", () => {
    const bytes = withZeros(100, 15 * MIB, 100);
    expect(hex(digestOf(bytes, [], 0))).toBe(sha256(bytes));
    expect(hex(digestOf(bytes, [{ start: 65_536, end: 10 * MIB }], 0))).toBe(sha256(bytes));
  });

  it("is the same in whatever parts long zeros come", () => {
    const bytes = withZeros(100, 40 * MIB, 70_000);
    const whole = hex(digestOf(bytes, [], 0));
    expect(whole).not.toBe(sha256(bytes));
    expect(hex(digestOf(bytes, [{ start: MIB, end: 30 * MIB }], 0))).toBe(whole);
    const parts = new ContentDigest();
    for (let at = 0; at < bytes.length; at += 333_333) parts.bytes(bytes.subarray(at, at + 333_333));
    expect(hex(parts.digest())).toBe(whole);
    const told = new ContentDigest();
    told.bytes(bytes.subarray(0, 100));
    told.zeros(40 * MIB);
    told.bytes(bytes.subarray(100 + 40 * MIB));
    expect(hex(told.digest())).toBe(whole);
  });

  it("is the same for zeros at the end, in the bytes or after them", () => {
    const bytes = withZeros(100, 40 * MIB, 0);
    expect(hex(digestOf(bytes.subarray(0, 100), [], 40 * MIB))).toBe(hex(digestOf(bytes, [], 0)));
  });

  it("is another where zeros are more, fewer, or elsewhere", () => {
    const digests = [
      withZeros(100, 40 * MIB, 100),
      withZeros(100, 40 * MIB + 1, 99),
      withZeros(65_636, 40 * MIB, 100),
      withZeros(100, 40 * MIB + 65_536, 100),
      withZeros(100, 20 * MIB, 100),
    ].map((bytes) => hex(digestOf(bytes, [], 0)));
    expect(new Set(digests).size).toBe(digests.length);
  });
});
