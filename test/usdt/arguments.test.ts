import { describe, expect, it } from "vitest";
import {
  fullRegister,
  type MemoryArgument,
  parseArguments,
  printArguments,
  splitArguments,
  type UsdtArgument,
  usesRegister,
  withDisplacement,
} from "../../src/usdt/arguments.js";

const one = (text: string): UsdtArgument => {
  const { arguments: list } = parseArguments(text);
  expect(list).toHaveLength(1);
  return list[0]!;
};

const memory = (fields: Partial<MemoryArgument>): object => ({
  kind: "memory",
  segment: null,
  symbol: null,
  displacement: 0,
  base: null,
  index: null,
  scale: 1,
  ...fields,
});

describe("operands", () => {
  it.each<[string, object]>([
    ["-4@$1", { kind: "constant", value: 1n, size: 4, signed: true, float: false }],
    ["8@$-9223372036854775808", { kind: "constant", value: -(2n ** 63n) }],
    ["8@$18446744073709551615", { kind: "constant", value: 2n ** 64n - 1n }],
    ["4@$0x10", { kind: "constant", value: 16n }],
    ["8@%rdi", { kind: "register", register: "rdi", size: 8, signed: false }],
    ["-1@%r9b", { kind: "register", register: "r9b" }],
    ["1@%ah", { kind: "register", register: "ah" }],
    ["8@%rsp", { kind: "register", register: "rsp" }],
    ["8f@%xmm0", { kind: "register", register: "xmm0", float: true }],
    ["-4f@%xmm31", { kind: "register", register: "xmm31", float: true, signed: true }],
    ["16f@%st(1)", { kind: "register", register: "st(1)" }],
    ["8@-20(%rbp)", memory({ base: "rbp", displacement: -20 })],
    ["8@(%rsp)", memory({ base: "rsp" })],
    ["8@-8(%rsp)", memory({ base: "rsp", displacement: -8 })],
    ["8@0x10(%rsp)", memory({ base: "rsp", displacement: 16 })],
    ["4@-8+12-4(%rsp)", memory({ base: "rsp" })],
    ["8@(%eax)", memory({ base: "eax" })],
    ["1@-96(%rbp,%rax,8)", memory({ base: "rbp", index: "rax", scale: 8, displacement: -96 })],
    ["8@(%rbp,%rax)", memory({ base: "rbp", index: "rax" })],
    ["8@(,%rax,8)", memory({ index: "rax", scale: 8 })],
    ["8@table(,%rax,8)", memory({ symbol: "table", index: "rax", scale: 8 })],
    ["8@table+16(%rbx)", memory({ symbol: "table", base: "rbx", displacement: 16 })],
    ["8@%fs:0x28", memory({ segment: "fs", displacement: 40 })],
    ["8@%gs:-8(%rax)", memory({ segment: "gs", base: "rax", displacement: -8 })],
    ["4@counter", memory({ symbol: "counter" })],
    ["-4@NBuffers(%rip)", { kind: "symbolic", symbol: "NBuffers", displacement: 0, signed: true }],
    ["-4@40+CheckpointStats(%rip)", { kind: "symbolic", symbol: "CheckpointStats", displacement: 40 }],
    ["4@CheckpointStats+40(%rip)", { kind: "symbolic", symbol: "CheckpointStats", displacement: 40 }],
    ["4@-8+a.b$c+4(%rip)", { kind: "symbolic", symbol: "a.b$c", displacement: -4 }],
    ["8@.LC0(%rip)", { kind: "symbolic", symbol: ".LC0" }],
    ["4@16(%rip)", { kind: "rip-relative", displacement: 16 }],
    ["4@-0x10(%rip)", { kind: "rip-relative", displacement: -16 }],
  ])("reads %s", (text, expected) => {
    expect(one(text)).toMatchObject({ text, ...expected });
  });

  it.each(["8@$symbol", "8@$.L.str", "8@$.LC3+8", "4@%fs:own@tpoff", "-4@%fs:own@tpoff+4"])(
    "knows that %s is a name, which depends on no place",
    (text) => {
      const [argument] = parseArguments(text).arguments;
      expect(argument).toMatchObject({ kind: "named", text });
    },
  );

  it.each([
    "%rdi",
    "@%rdi",
    "8@",
    "0@$1",
    "8@$",
    "8@$010",
    "8@010(%rsp)",
    "8@1234",
    "8@%cs",
    "8@%xmm32",
    "8@()",
    "8@(%rip)",
    "8@4(%rip,%rax)",
    "8@4(%eip)",
    "8@(%ax)",
    "8@(%xmm0)",
    "8@(%rax,%rsp)",
    "8@(%rax,%rbx,3)",
    "8@-symbol(%rip)",
    "8@a+b(%rip)",
    "8@a b(%rip)".replace(" ", "\u00a0"),
    "8@x@GOTPCREL(%rip)",
    '8@"odd"(%rip)',
    "8@4(%rsp",
    "8@4(%rsp)+4",
    "8@99999999999999999999(%rsp)",
    "8@--4(%rsp)",
    "*8@%rdi",
  ])("leaves %s unknown", (text) => {
    expect(one(text)).toEqual({ kind: "unknown", text });
  });
});

describe("argument strings", () => {
  it.each(["", " ", "-4@$1", "-4@$1 8@%rdi  8@(%rsp)", "  8@%rdi\t-4@$1 ", "nonsense 8@%rdi", "4@a+1-1(%rip)"])(
    "gives back %j unchanged",
    (text) => {
      expect(printArguments(parseArguments(text))).toBe(text);
    },
  );

  it("splits at blanks", () => {
    expect(splitArguments(" -4@$1  8@%rdi ")).toEqual(["-4@$1", "8@%rdi"]);
    expect(splitArguments("")).toEqual([]);
    expect(parseArguments("").arguments).toEqual([]);
  });
});

describe("withDisplacement", () => {
  it.each([
    ["8@(%rsp)", 128, "8@128(%rsp)"],
    ["8@-8(%rsp)", 120, "8@120(%rsp)"],
    ["8@-128(%rsp)", 0, "8@0(%rsp)"],
    ["-1@0x10(%rsp,%rax,8)", 144, "-1@144(%rsp,%rax,8)"],
    ["8f@%fs:16(%rsp)", -4, "8f@%fs:-4(%rsp)"],
    ["8@table(%rsp)", 128, "8@table+128(%rsp)"],
    ["8@4+table(%rsp)", -4, "8@table-4(%rsp)"],
    ["8@%fs:0x28", 48, "8@%fs:48"],
    ["4@16(%rip)", -20, "4@-20(%rip)"],
  ])("%s with %d is %s", (text, displacement, expected) => {
    const before = one(text);
    if (before.kind !== "memory" && before.kind !== "rip-relative") throw new Error(before.kind);
    const after = withDisplacement(before, displacement);
    expect(after.text).toBe(expected);
    expect(one(expected)).toEqual(after);
    expect(before.text).toBe(text);
  });
});

describe("registers", () => {
  it.each([
    ["rax", "rax"],
    ["eax", "rax"],
    ["ah", "rax"],
    ["sil", "rsi"],
    ["sp", "rsp"],
    ["r10d", "r10"],
    ["r15b", "r15"],
    ["xmm0", null],
    ["rip", null],
  ])("%s is part of %s", (name, full) => {
    expect(fullRegister(name)).toBe(full);
  });

  it("finds the stack pointer wherever it is used", () => {
    const users = parseArguments(
      "8@%rsp 4@%esp 8@(%rsp) 8@4(%rsp,%rax,2) 8@%rax 8@(%rbp) -4@$1 4@x(%rip) what",
    ).arguments;
    expect(users.map((argument) => usesRegister(argument, "rsp"))).toEqual([
      true,
      true,
      true,
      true,
      false,
      false,
      false,
      false,
      false,
    ]);
  });
});
