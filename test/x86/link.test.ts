/**
 * What the linker puts together is what objdump reads and what the processor runs; moved instructions lead where they did
 * before.
 */
import { describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { CODE, programBytes, writeProgramFile } from "../../src/live/program-file.js";
import { Assembler, at } from "../../src/x86/assembler.js";
import { Code, type Linked, link, linkOne } from "../../src/x86/link.js";
import { disassemble, movable, nearBranch, relocate } from "../../src/x86/relocate.js";
import { run } from "../run.js";
import { disassembled } from "./disassembled.js";

const START = 0x400000;

function linked<Mark>(units: readonly Code<Mark>[], start = START): Linked<Mark> {
  const result = link(units, start);
  if ("failed" in result) throw new Error([...result.failed.values()].join());
  return result;
}
const failures = (units: readonly Code[], start = START): string[] => {
  const result = link(units, start);
  return "failed" in result ? [...result.failed.values()] : [];
};
const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));

describe("units", () => {
  it("find each other's symbols, and keep their labels to themselves", async () => {
    const caller = new Assembler({ name: "caller" }).label("again").call("callee").address("rsi", "table");
    caller.op("dec", "rcx").jumpIf("ne", "again").jumpShort("out").label("out").op("ret");
    const callee = new Assembler({ name: "callee", align: 16 }).label("again").jumpIf("e", "again").jump("caller");
    callee.op("ret").data().align(8).symbol("table").raw([0xf4]);
    const units = linked([caller, callee]);
    expect((await disassembled(units.bytes, START)).filter((line) => line !== "int3")).toEqual([
      "call 0x400020",
      "lea rsi,[rip+0x24]",
      "dec rcx",
      "jne 0x400000",
      "jmp 0x400017",
      "ret",
      "je 0x400020",
      "jmp 0x400000",
      "ret",
      "hlt",
    ]);
    const { start, codeEnd, end } = units.unit(callee);
    expect([start, codeEnd, end]).toEqual([0x400020, 0x40002c, 0x400031]);
    expect(units.unit(caller).addressOf("again")).toBe(START);
    expect(units.unit(callee).addressOf("again")).toBe(0x400020);
  });

  it("run as one program", async () => {
    const [EXIT, RESULT] = [231, 42];
    const start = new Assembler().address("rbx", "word").op("mov", "rbx", at("rbx")).callThrough("word");
    start.op("mov", "rdi", "rax").system(EXIT, undefined);
    const data = new Code({ align: 8 }).symbol("word").address64("answer");
    // A short branch of somewhere else, led to what is too far away for it.
    const answer = new Assembler({ name: "answer", align: 16 }).op("cmp", "rbx", "rbx");
    answer.moved(movable(bytes("7410"), vaddr(0x1000))!, { form: nearBranch(bytes("7410"))!, target: "far" });
    answer.jump("wrong").align(64).symbol("wrong").op("mov", "eax", 1).op("ret");
    const far = new Assembler({ name: "far", align: 256 }).op("mov", "eax", RESULT).op("ret");
    const file = writeProgramFile("linked", programBytes(linked([start, data, answer, far], CODE).bytes, 8));
    try {
      expect((await run(file.path, [])).status).toBe(RESULT);
    } finally {
      file.remove();
    }
  });

  it("hold addresses and lead to what is not linked with them", () => {
    const code = new Code({ name: "code" }).address64("code").jump(0x500000);
    expect(Buffer.from(linkOne(code, START).bytes).toString("hex")).toBe("0000400000000000e9f3ff0f00");
  });

  it("stand where bytes of something else stand, filled up or cut to their size", () => {
    const chunk = new Code({ name: "chunk" }).raw([0xc3]);
    const [long, single] = [
      new Code({ over: { start: 0x1000, end: 0x1008 } }).jump("chunk"),
      new Code({ over: { start: 0x2000, end: 0x2001 } }).jump("chunk"),
    ];
    const units = linked([long, chunk, single]);
    expect(Buffer.from(units.bytes).toString("hex")).toBe("c3");
    expect(Buffer.from(units.unit(long).bytes).toString("hex")).toBe("e9fbef3f00cccccc");
    expect([...units.unit(single).bytes]).toEqual([0xe9]);
  });

  it("are the same whatever they are linked with before", () => {
    const code = new Assembler().op("push", "rbx").call(0x500000).op("mov", "rax", at("rsp", 8)).op("ret");
    expect(linkOne(code, START).bytes).toEqual(linkOne(code, START).bytes);
    expect(linkOne(code, 0x400800).bytes.length).toBe(linkOne(code, START).bytes.length);
  });
});

describe("what must not be split", () => {
  const unit = (before: number, size = 5) =>
    new Code().raw(new Uint8Array(before).fill(0x90)).unsplit(new Uint8Array(size).fill(0x90), "the nop");

  it.each([
    [0, START, START],
    [11, START, START],
    [12, START, START + 4],
    [0, START + 0xffe, START + 0x1000],
  ])("lies in one line: %i bytes before it, from %i on", (before, from, start) => {
    expect(linked([unit(before)], from).unit).toBeDefined();
    const code = unit(before);
    expect(linked([code], from).unit(code).start).toBe(start);
  });

  it("lies in one page where it is longer than a line", () => {
    const code = unit(0, 20);
    expect(linked([code], START + 0xff4).unit(code).start).toBe(START + 0x1000);
    expect(linked([code], START + 4).unit(code).start).toBe(START + 4);
  });

  it("is refused where that cannot be", () => {
    expect(failures([unit(0).raw(new Uint8Array(3900)).unsplit(new Uint8Array(100), "the other")])).toEqual([]);
    expect(failures([unit(4000, 100).unsplit(new Uint8Array(4096), "more")])).toEqual([
      "the nop would cross a page boundary",
    ]);
  });
});

describe("marks", () => {
  it("say how far the caller's frame is away", () => {
    const code = new Assembler().entry().op("endbr64").push("rbx").lower(32).raise(32).pop("rbx").op("ret");
    expect(linkOne(code, START).rows).toEqual([
      { start: 0x400000, offset: 8 },
      { start: 0x400005, offset: 16 },
      { start: 0x40000c, offset: 48 },
      { start: 0x400013, offset: 16 },
      { start: 0x400014, offset: 8 },
    ]);
  });

  it("say where stretches come from", () => {
    const code = new Code<string>().origin("a").raw([1, 2]).origin("nothing").origin("b").raw([3]);
    expect(linked([code]).unit(code).origins).toEqual([
      { start: 0x400000, end: 0x400002, mark: "a" },
      { start: 0x400002, end: 0x400003, mark: "b" },
    ]);
  });
});

describe("instructions of the input", () => {
  // What each leads or points to, from 0x1000 and from elsewhere, as the disassembler says.
  const texts = (hex: string, to: number): (string | undefined)[] => {
    const moved = relocate(bytes(hex), vaddr(0x1000), vaddr(to));
    return [disassemble(bytes(hex), vaddr(0x1000)), moved && disassemble(moved, vaddr(to))];
  };

  it.each([
    ["a load", "488b0500010000"],
    ["a comparison with an immediate after the distance", "813d0001000078563412"],
    ["a vector load", "c5fa100510000000"],
    ["a short jmp", "eb10"],
    ["a near jmp", "e910000000"],
    ["a short jcc", "7410"],
    ["a near jcc", "0f8410000000"],
    ["a call", "e800010000"],
  ])("lead where they led: %s", (_what, hex) => {
    for (const to of [0x900, 0x1040, 0x40000000]) {
      const [before, after] = texts(hex, to);
      expect(after?.replace(/short |near |dword |qword /g, ""), to.toString(16)).toBe(
        before!.replace(/short |near |dword |qword /g, ""),
      );
    }
  });

  it("take the short form where it reaches, and the near one elsewhere", () => {
    const size = (hex: string, to: number): number | undefined =>
      relocate(bytes(hex), vaddr(0x1000), vaddr(to))?.length;
    expect([size("e910000000", 0x1000), size("e910000000", 0x2000)]).toEqual([2, 5]);
    expect([size("7410", 0x1000), size("7410", 0x2000)]).toEqual([2, 6]);
    expect([size("e310", 0x1000), size("e310", 0x2000)]).toEqual([2, 9]);
  });

  it("are not changed where they do not depend on where they stand", () => {
    const hex = "66662e0f1f840000000000";
    expect(Buffer.from(relocate(bytes(hex), vaddr(0x1000), vaddr(0x99))!).toString("hex")).toBe(hex);
  });

  it("name their own bytes where these stood", () => {
    expect(texts("488d05f9ffffff", 0x2000)[1]).toBe("lea rax,[rel 0x1000]");
    expect(movable(bytes("ebfe"), vaddr(0x1000))).toBeUndefined();
  });

  it("stay where nobody knows what they name: a distance from eip", () => {
    expect(movable(bytes("678b0510000000"), vaddr(0x1000))).toBeUndefined();
  });

  it("are led elsewhere by 32 bits, prefixes and all", () => {
    const to = (hex: string): string => {
      const instruction = movable(bytes(hex), vaddr(0x1000))!;
      const code = new Code({ name: "new" }).moved(instruction, { form: nearBranch(bytes(hex))!, target: "new" });
      return Buffer.from(linkOne(code, START).bytes).toString("hex");
    };
    expect(to("7410")).toBe("0f84faffffff");
    expect(to("f2eb10")).toBe("f2e9faffffff");
    expect(to("e310")).toBe("e302eb05e9f7ffffff");
    expect(nearBranch(bytes("c3"))).toBeUndefined();
  });
});

describe("what does not reach", () => {
  it("is a reason for its unit, and for no other", () => {
    const good = new Code().jump(0x500000);
    const far = new Code().jump(2 ** 40);
    const moved = new Code().moved(movable(bytes("488b0500010000"), vaddr(2 ** 40))!);
    const result = link([good, far, moved], START);
    expect("failed" in result && [...result.failed]).toEqual([
      [far, "0x10000000000 is out of reach from new code"],
      [moved, "the instruction at 0x10000000000 cannot reach its operand from new code"],
    ]);
  });

  it.each([
    [127, []],
    [128, ["0x400082 is out of reach from new code"]],
  ])("over 8 bits: %i bytes", (gap, reasons) => {
    const code = new Code().jumpShort("end").raw(new Uint8Array(gap)).label("end");
    expect(failures([code])).toEqual(reasons);
  });

  it.each([
    [2 ** 31 - 1, 0],
    [2 ** 31, 1],
    [-(2 ** 31), 0],
    [-(2 ** 31) - 1, 1],
  ])("over 32 bits: %i bytes", (distance, count) => {
    expect(failures([new Code().jump(2 ** 33 + 5 + distance)], 2 ** 33)).toHaveLength(count);
  });
});

it("takes missing labels and second ones for mistakes", () => {
  expect(() => link([new Code().jump("nowhere")], START)).toThrow(/nowhere/);
  expect(() => link([new Code().label("twice").label("twice")], START)).toThrow(/twice/);
  expect(() => link([new Code({ name: "both" }), new Code().symbol("both")], START)).toThrow(/both/);
  expect(() => linked([new Code()]).unit(new Code())).toThrow(/not linked/);
  expect(() => linkOne(new Code().jump(2 ** 40), START)).toThrow(/out of reach/);
});
