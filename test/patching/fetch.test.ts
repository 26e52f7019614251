/** What a CPU may fetch: the rules of src/patching/fetch.ts on single bytes. */
import { expect, it } from "vitest";
import { fetchFrom, freshView, viewAfterWrite } from "../../src/patching/fetch.js";

const NOP5 = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const CALL = [0xe8, 0x10, 0x20, 0x30, 0x40];
const versions = [Uint8Array.from(NOP5), Uint8Array.from(CALL)];
const fetch = (view: Parameters<typeof fetchFrom>[0], at = 0) => {
  const { whole, torn } = fetchFrom(view, at, versions);
  return { whole: whole.map((w) => [...w]), torn: torn === null ? null : [...torn] };
};

it("a CPU that has serialized sees what is there", () => {
  expect(fetch(freshView(Uint8Array.from(NOP5)))).toEqual({ whole: [NOP5], torn: null });
});

it("a one-byte write is seen whole, or not yet", () => {
  const view = viewAfterWrite(freshView(Uint8Array.from(NOP5)), 0, Uint8Array.of(0xcc));
  expect(fetch(view)).toEqual({ whole: [NOP5, [0xcc]], torn: null });
});

it("behind int3 nothing matters", () => {
  const view = viewAfterWrite(freshView(Uint8Array.of(0xcc, ...NOP5.slice(1))), 1, Uint8Array.from(CALL.slice(1)));
  expect(fetch(view)).toEqual({ whole: [[0xcc]], torn: null });
});

it("of a write of several bytes any mixture can be seen", () => {
  const view = viewAfterWrite(freshView(Uint8Array.from(NOP5)), 0, Uint8Array.from(CALL));
  const { whole, torn } = fetch(view);
  expect(whole).toEqual([NOP5, CALL]);
  expect(versions.some((v) => torn!.every((byte, i) => byte === v[i]))).toBe(false);
  for (const [i, byte] of torn!.entries()) expect([NOP5[i], CALL[i]]).toContain(byte);
});

it("two writes without a serialization between them mix as well", () => {
  const trapped = freshView(Uint8Array.of(0xcc, ...NOP5.slice(1)));
  const tail = viewAfterWrite(trapped, 1, Uint8Array.from(CALL.slice(1)));
  const both = viewAfterWrite(tail, 0, Uint8Array.of(0xe8));
  const { whole, torn } = fetch(both);
  expect(whole).toEqual([[0xcc], CALL]);
  expect(torn![0]).toBe(0xe8);
});

it("bytes inside an instruction are no instruction", () => {
  expect(fetchFrom(freshView(Uint8Array.from(CALL)), 3, []).torn).toEqual(Uint8Array.of(0x30, 0x40));
});

it("writing what is there already changes nothing", () => {
  const view = freshView(Uint8Array.from(NOP5));
  expect(viewAfterWrite(view, 3, Uint8Array.of(0, 0))).toEqual(view);
});
