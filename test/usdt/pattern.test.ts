import { describe, expect, it } from "vitest";
import { InputError } from "../../src/errors.js";
import { parsePattern } from "../../src/usdt/pattern.js";

describe("parsePattern", () => {
  it.each([
    ["a:b", "a", "b", true],
    ["a:b", "a", "bb", false],
    ["a:b", "aa", "b", false],
    ["*:*", "x", "y", true],
    ["hotspot:gc__*", "hotspot", "gc__begin", true],
    ["hotspot:gc__*", "hotspot", "mem__pool", false],
    ["*:*__done", "postgresql", "sort__done", true],
    ["*:*__done", "postgresql", "sort__done2", false],
    ["p:a*b*c", "p", "abc", true],
    ["p:a*b*c", "p", "a1b2b3c", true],
    ["p:a*b*c", "p", "acb", false],
    ["p:aa*aa", "p", "aaa", false],
    ["p:a*a*a", "p", "aa", false],
    ["p.:x", "pq", "x", false],
    ["p:**", "p", "anything", true],
  ])("%s on %s:%s is %s", (pattern, provider, name, expected) => {
    expect(parsePattern(pattern).matches({ provider, name })).toBe(expected);
  });

  it.each(["", "a", "a:", ":b", "a:b:c", "a b:c", "*"])("refuses %j", (text) => {
    expect(() => parsePattern(text)).toThrow(InputError);
  });
});
