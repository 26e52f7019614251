/**
 * What single instructions with random operands (judge/) do not show: how blocks, pages and outcomes work together. Each
 * test is a small program with what it must do beside it.
 */
import { describe, expect, test } from "vitest";
import { PAGE_SIZE, type RuntimeAddress } from "../../src/address.js";
import { Cpu } from "../../src/emulate/cpu.js";
import { Perm } from "../../src/emulate/memory.js";
import { Gpr, Rflags } from "../../src/emulate/state.js";
import { assemble } from "./assemble.js";

const at = (address: number): RuntimeAddress => address as RuntimeAddress;
const CODE = at(0x400000);
const DATA = at(0x600000);
const STACK = at(0x7fff0000);
const PLENTY = 1_000_000;

/** A CPU at the start of a program, with two pages of code, two of data, one of stack. */
function machine(source: string, { code = Perm.RX as number, from = CODE as number } = {}): Cpu {
  const cpu = new Cpu();
  cpu.memory.map(CODE, 2 * PAGE_SIZE, code);
  cpu.memory.map(DATA, 2 * PAGE_SIZE, Perm.RW);
  cpu.memory.map(STACK, PAGE_SIZE, Perm.RW);
  cpu.memory.poke(at(from), assemble(source, from));
  cpu.setGpr(Gpr.RSP, BigInt(STACK + PAGE_SIZE));
  cpu.ip = from;
  return cpu;
}

const words = (cpu: Cpu): number[] => [...cpu.w];
const bytesAt = (cpu: Cpu, address: number, size: number): number[] => [...cpu.memory.peek(at(address), size)];

/** The address of the instruction that stands behind `source`. */
const behind = (source: string, from: number = CODE): number => from + assemble(source, from).length;

describe("code that changes", () => {
  test("behind itself in the same block: the new bytes run", () => {
    const cpu = machine("mov byte ptr [rip + 1], 7; mov al, 1; int3", { code: Perm.RWX });
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect(cpu.gpr(Gpr.RAX)).toBe(7n);
    expect(cpu.instructions).toBe(3);
  });

  test("on a page that has run already, by a loop that writes a little further each time", () => {
    // The loop turns four nops behind it into `inc eax` (ff c0), two at a time.
    const cpu = machine(
      `
      lea rdi, [rip + target]; mov ecx, 2; xor eax, eax
      again: mov word ptr [rdi], 0xc0ff; add rdi, 2
      call target
      dec ecx; jnz again
      int3
      target: nop; nop; nop; nop; ret`,
      { code: Perm.RWX },
    );
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    // Once with one inc, once with both.
    expect(cpu.gpr(Gpr.RAX)).toBe(3n);
  });

  test("on the next page, into which the block reaches", () => {
    // The write's own last byte and `mov al, 1` are on the second page.
    const start = CODE + PAGE_SIZE - 6;
    const write = `mov byte ptr [${CODE + PAGE_SIZE + 2}], 9`;
    expect(assemble(write, start)).toHaveLength(7);
    const cpu = machine(`${write}; mov al, 1; int3`, { code: Perm.RWX, from: start });
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect(cpu.gpr(Gpr.RAX)).toBe(9n);
  });

  test("through another writer: poke, mapping anew, permissions", () => {
    const cpu = machine("mov al, 1; int3");
    const run = (): bigint => {
      cpu.ip = CODE;
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      return cpu.gpr(Gpr.RAX);
    };
    expect(run()).toBe(1n);
    cpu.memory.poke(CODE, assemble("mov al, 2", CODE));
    expect(run()).toBe(2n);
    cpu.memory.map(CODE, PAGE_SIZE, Perm.RX);
    cpu.memory.poke(CODE, assemble("mov al, 3; int3", CODE));
    expect(run()).toBe(3n);
    cpu.memory.protect(CODE, PAGE_SIZE, Perm.RW);
    cpu.ip = CODE;
    expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: CODE, access: "execute" });
  });

  test("by rep stosb over the instruction behind it", () => {
    const cpu = machine("lea rdi, [rip + target]; mov ecx, 3; mov al, 0x90; rep stosb; target: ud2; nop; int3", {
      code: Perm.RWX,
    });
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
  });
});

describe("fetching", () => {
  test("an instruction across two pages", () => {
    for (let before = 1; before < 10; before++) {
      const cpu = machine("mov rax, 0x1122334455667788; int3", { from: CODE + PAGE_SIZE - before });
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      expect(cpu.gpr(Gpr.RAX)).toBe(0x1122334455667788n);
    }
  });

  test("what can be fetched runs before the fault behind it", () => {
    const end = CODE + 2 * PAGE_SIZE;
    const cpu = machine("inc eax; inc eax", { from: end - 4 });
    expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: end, access: "execute" });
    expect(cpu.gpr(Gpr.RAX)).toBe(2n);
    expect(cpu.ip).toBe(end);
    expect(cpu.instructions).toBe(2);
  });

  test("an instruction whose second half is not mapped faults there", () => {
    const end = CODE + 2 * PAGE_SIZE;
    const cpu = machine("nop");
    cpu.memory.poke(at(end - 3), assemble("inc eax", end - 3));
    cpu.memory.poke(at(end - 1), Uint8Array.of(0xb8)); // mov eax, imm32
    cpu.ip = end - 3;
    expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: end, access: "execute" });
    expect(cpu.ip).toBe(end - 1);
    expect(cpu.gpr(Gpr.RAX)).toBe(1n);
  });

  test("code must be executable", () => {
    const cpu = machine(`mov eax, ${DATA}; jmp rax`);
    expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: DATA, access: "execute" });
    expect(cpu.ip).toBe(DATA);
    expect(cpu.instructions).toBe(2);
  });

  test("bytes that are no instruction, and one that is too long", () => {
    const invalid = machine("nop");
    invalid.memory.poke(CODE, Uint8Array.of(0x90, 0x06));
    expect(invalid.run(PLENTY)).toEqual({ kind: "fault", fault: "undefined", address: null, access: null });
    expect(invalid.ip).toBe(CODE + 1);
    const long = machine("nop");
    long.memory.poke(CODE, Uint8Array.from([...new Array<number>(15).fill(0x66), 0x90]));
    expect(long.run(PLENTY)).toMatchObject({ kind: "fault", fault: "general-protection" });
    const longest = machine("nop");
    longest.memory.poke(CODE, Uint8Array.from([...new Array<number>(14).fill(0x66), 0x90, 0xcc]));
    expect(longest.run(PLENTY)).toEqual({ kind: "breakpoint" });
  });

  test("a jump to an address that is not canonical faults at the jump", () => {
    for (const source of ["jmp rax", "call rax", "push rax; ret"]) {
      const cpu = machine(`mov rax, 0x8000000000000000; ${source}`);
      expect(cpu.run(PLENTY)).toMatchObject({ kind: "fault", fault: "general-protection" });
      const last = source.split("; ").at(-1)!;
      expect(cpu.ip).toBe(behind(`mov rax, 0x8000000000000000; ${source}`) - assemble(last, CODE).length);
      expect(cpu.gpr(Gpr.RSP)).toBe(BigInt(STACK + PAGE_SIZE - (source === "push rax; ret" ? 8 : 0)));
    }
  });
});

describe("faults leave everything as it was", () => {
  const unmapped = DATA + 0x100000;
  const bad = [
    `mov rax, [${unmapped}]`,
    `mov [${unmapped}], rax`,
    `add [${unmapped}], rax`,
    `adc dword ptr [${CODE}], 5`, // not writable
    `xchg [${CODE}], rbx`,
    `lock xadd [${CODE}], rbx`,
    `cmpxchg [${CODE}], rbx`,
    `cmpxchg16b [${DATA + 8}]`, // not aligned
    `cmpxchg16b [${CODE}]`,
    `shl qword ptr [${CODE}], 3`,
    `shld [${CODE}], rbx, 3`,
    `inc byte ptr [${CODE}]`,
    `neg word ptr [${CODE}]`,
    `not dword ptr [${CODE}]`,
    `bts dword ptr [${CODE}], 3`,
    `bts [${CODE}], rbx`,
    `sete [${CODE}]`,
    `pop qword ptr [${CODE}]`,
    `push qword ptr [${unmapped}]`,
    `call [${unmapped}]`,
    `imul rax, [${unmapped}], 3`,
    `add [${DATA + 2 * PAGE_SIZE - 4}], rax`, // the second half is not mapped
    `mov [${DATA + 2 * PAGE_SIZE - 4}], rax`,
    `mov [${DATA - 4}], rax`, // nor here the first
    "div ecx",
    "idiv rcx",
    "movsb",
    "stosq",
    "hlt",
    "ud2",
    "mov rax, cr0",
  ];

  test.each(bad)("%s", (source) => {
    const cpu = machine(`stc; mov eax, 0x1234; ${source}; int3`);
    cpu.setGpr(Gpr.RCX, 0n);
    cpu.setGpr(Gpr.RBX, 3n);
    cpu.memory.poke(at(DATA + 2 * PAGE_SIZE - 4), Uint8Array.of(1, 2, 3, 4));
    expect(cpu.run(2)).toEqual({ kind: "limit" });
    const before = words(cpu);
    const memory = [bytesAt(cpu, CODE, PAGE_SIZE), bytesAt(cpu, DATA, 2 * PAGE_SIZE), bytesAt(cpu, STACK, PAGE_SIZE)];
    const outcome = cpu.run(PLENTY);
    expect(outcome.kind).toBe("fault");
    expect(words(cpu)).toEqual(before);
    expect([bytesAt(cpu, CODE, PAGE_SIZE), bytesAt(cpu, DATA, 2 * PAGE_SIZE), bytesAt(cpu, STACK, PAGE_SIZE)]).toEqual(
      memory,
    );
    expect(cpu.instructions).toBe(2);
    // The same, taken alone.
    expect(cpu.step()).toEqual(outcome);
    expect(words(cpu)).toEqual(before);
  });

  test("call and push without a stack", () => {
    for (const source of ["call [rbx]", "call rbx", "push rbx", "pushfq", "enter 16, 0"]) {
      const cpu = machine(source);
      cpu.setGpr(Gpr.RBX, BigInt(DATA));
      cpu.setGpr(Gpr.RSP, BigInt(unmapped));
      const before = words(cpu);
      expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: expect.any(Number), access: "write" });
      expect(words(cpu)).toEqual(before);
    }
  });

  test("permissions: read-only, write-only in name, none", () => {
    const cpu = machine("mov al, [rbx]; mov [rbx], al; int3");
    const run = (permissions: number) => {
      cpu.memory.protect(DATA, PAGE_SIZE, permissions);
      cpu.setGpr(Gpr.RBX, BigInt(DATA));
      cpu.ip = CODE;
      return cpu.run(PLENTY);
    };
    expect(run(Perm.RW)).toEqual({ kind: "breakpoint" });
    expect(run(Perm.R)).toEqual({ kind: "fault", fault: "page", address: DATA, access: "write" });
    expect(cpu.ip).toBe(CODE + 2);
    expect(run(0)).toEqual({ kind: "fault", fault: "page", address: DATA, access: "read" });
    expect(cpu.ip).toBe(CODE);
    expect(run(Perm.RW)).toEqual({ kind: "breakpoint" });
  });
});

describe("repeated string instructions", () => {
  test("a fault says how far they came, and running again goes on", () => {
    const cpu = machine("rep movsb; int3");
    const source = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => i * 7);
    cpu.memory.poke(DATA, source);
    const target = DATA + 2 * PAGE_SIZE - 1000; // 1000 bytes until the end of the mapping
    cpu.setGpr(Gpr.RSI, BigInt(DATA));
    cpu.setGpr(Gpr.RDI, BigInt(target));
    cpu.setGpr(Gpr.RCX, 1500n);
    const end = DATA + 2 * PAGE_SIZE;
    expect(cpu.run(PLENTY)).toEqual({ kind: "fault", fault: "page", address: end, access: "write" });
    expect(cpu.ip).toBe(CODE);
    expect([cpu.gpr(Gpr.RSI), cpu.gpr(Gpr.RDI), cpu.gpr(Gpr.RCX)]).toEqual([BigInt(DATA + 1000), BigInt(end), 500n]);
    cpu.memory.map(at(end), PAGE_SIZE, Perm.RW);
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect(bytesAt(cpu, target, 1500)).toEqual([...source.subarray(0, 1500)]);
    expect(cpu.gpr(Gpr.RCX)).toBe(0n);
    // What has faulted has not run; then it was one instruction, and int3 another.
    expect(cpu.instructions).toBe(2);
  });

  test.each([
    ["movsb", ".byte 0xf3, 0xa4", 1],
    ["movsw", ".byte 0x66, 0xf3, 0xa5", 2],
    ["movsd", ".byte 0xf3, 0xa5", 4],
    ["movsq", ".byte 0xf3, 0x48, 0xa5", 8],
  ] as const)("rep %s onto what it reads next, over pages, up and down", (_, encoded, size) => {
    for (const distance of [1, 3, 8, 13, 100, -1, -5, -64])
      for (const down of [false, true]) {
        const cpu = machine(`${down ? "std" : "cld"}; ${encoded}; int3`);
        const model = Uint8Array.from({ length: 2 * PAGE_SIZE }, (_, i) => (i * 31) ^ (i >> 5));
        cpu.memory.poke(DATA, model);
        const count = 5000 / size;
        let from = down ? 6500 : 200;
        let to = from + distance;
        cpu.setGpr(Gpr.RSI, BigInt(DATA + from));
        cpu.setGpr(Gpr.RDI, BigInt(DATA + to));
        cpu.setGpr(Gpr.RCX, BigInt(count));
        expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
        for (let i = 0; i < count; i++) {
          model.set(model.slice(from, from + size), to);
          from += down ? -size : size;
          to += down ? -size : size;
        }
        expect(Buffer.compare(cpu.memory.peek(DATA, model.length), model)).toBe(0);
        expect([cpu.gpr(Gpr.RSI), cpu.gpr(Gpr.RDI)]).toEqual([BigInt(DATA + from), BigInt(DATA + to)]);
      }
  });

  test.each([
    ["stosb", 1],
    ["stosw", 2],
    ["stosd", 4],
    ["stosq", 8],
  ] as const)("rep %s over pages, from any alignment", (mnemonic, size) => {
    for (const offset of [0, 1, 5, 8]) {
      const cpu = machine(`rep ${mnemonic}; int3`);
      const count = 6000 / size;
      cpu.setGpr(Gpr.RAX, 0x1122334455667788n);
      cpu.setGpr(Gpr.RDI, BigInt(DATA + offset));
      cpu.setGpr(Gpr.RCX, BigInt(count));
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      const model = new Uint8Array(2 * PAGE_SIZE);
      const value = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
      for (let i = 0; i < count * size; i++) model[offset + i] = value[i % size]!;
      expect(Buffer.compare(cpu.memory.peek(DATA, model.length), model)).toBe(0);
      expect(cpu.gpr(Gpr.RCX)).toBe(0n);
    }
  });

  test("a watcher is told of each element", () => {
    const cpu = machine("rep stosw; int3");
    const seen: [number, number][] = [];
    cpu.memory.onWrite = (address, size) => seen.push([address, size]);
    cpu.setGpr(Gpr.RDI, BigInt(DATA + 2));
    cpu.setGpr(Gpr.RCX, 3n);
    cpu.run(PLENTY);
    expect(seen).toEqual([
      [DATA + 2, 2],
      [DATA + 4, 2],
      [DATA + 6, 2],
    ]);
  });
});

describe("outcomes", () => {
  test("syscall: rcx and r11 say where to go on, and with which flags", () => {
    const cpu = machine("mov eax, 60; stc; syscall; int3");
    expect(cpu.run(PLENTY)).toEqual({ kind: "syscall" });
    expect(cpu.ip).toBe(behind("mov eax, 60; stc; syscall"));
    expect(cpu.gpr(Gpr.RCX)).toBe(BigInt(cpu.ip));
    expect(cpu.gpr(Gpr.R11)).toBe(BigInt(cpu.rflags));
    expect(cpu.rflags & Rflags.CF).toBe(1);
    expect(cpu.instructions).toBe(3);
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect(cpu.instructions).toBe(4);
  });

  test("int3, one byte or two, leaves rip behind it", () => {
    for (const bytes of [[0xcc], [0xcd, 3]]) {
      const cpu = machine("nop");
      cpu.memory.poke(CODE, Uint8Array.from(bytes));
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      expect(cpu.ip).toBe(CODE + bytes.length);
    }
  });

  test("what is not implemented says so, with its text, and changes nothing", () => {
    const cpu = machine("inc eax; rdrand rbx; int3");
    expect(cpu.run(PLENTY)).toEqual({ kind: "unimplemented", instruction: expect.stringContaining("rdrand") });
    expect(cpu.ip).toBe(CODE + 2);
    expect(cpu.gpr(Gpr.RAX)).toBe(1n);
    expect(cpu.instructions).toBe(1);
    expect(cpu.step()).toMatchObject({ kind: "unimplemented" });
  });

  test("popf that would trap from then on is not implemented", () => {
    for (const flag of [0x100, 0x40000]) {
      const cpu = machine(`push ${flag}; popfq`);
      expect(cpu.run(1)).toEqual({ kind: "limit" });
      const before = words(cpu);
      expect(cpu.run(1)).toMatchObject({ kind: "unimplemented" });
      expect(words(cpu)).toEqual(before);
    }
  });

  test("rdtsc counts instructions, however they are run", () => {
    const source = "nop; nop; rdtsc; mov ebx, eax; nop; rdtsc; int3";
    const whole = machine(source);
    expect(whole.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect([whole.gpr(Gpr.RBX), whole.gpr(Gpr.RAX)]).toEqual([2n, 5n]);
    const single = machine(source);
    while (single.step().kind === "limit");
    expect(words(single)).toEqual(words(whole));
  });
});

describe("instructions that do nothing, or tell about the processor", () => {
  const asItWas = (bytes: readonly number[]): void => {
    const cpu = machine("nop");
    cpu.memory.poke(CODE, Uint8Array.from([...bytes, 0xcc]));
    const before = words(cpu);
    expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
    expect(cpu.instructions).toBe(2);
    cpu.ip = CODE;
    expect(words(cpu)).toEqual(before);
  };

  test("nops of all lengths", () => {
    const plain = [
      [0x90],
      [0x66, 0x90],
      [0x0f, 0x1f, 0x00],
      [0x0f, 0x1f, 0x40, 0x00],
      [0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
      [0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
    ];
    for (const bytes of plain) asItWas(bytes);
    const longest = plain.at(-1)!;
    for (let n = 1; n <= 7; n++) asItWas([...new Array<number>(n - 1).fill(0x66), 0x2e, ...longest]);
  });

  test("markers of branch targets, pause, fences, shadow stacks that are not there", () => {
    for (const bytes of [
      [0xf3, 0x0f, 0x1e, 0xfa],
      [0xf3, 0x0f, 0x1e, 0xfb],
      [0xf3, 0x90],
      [0x0f, 0xae, 0xe8],
      [0x0f, 0xae, 0xf0],
      [0x0f, 0xae, 0xf8],
      [0xf3, 0x48, 0x0f, 0x1e, 0xc8],
      [0x0f, 0x18, 0x08],
    ])
      asItWas(bytes);
  });

  test("prefixes that mean nothing to branches", () => {
    const after = CODE + 0x100;
    for (const bytes of [
      [0xf2, 0xff, 0xe0], // bnd jmp rax
      [0x3e, 0xff, 0xe0], // notrack jmp rax
      [0xf2, 0xe9, 0xfa, 0, 0, 0], // bnd jmp
      [0x3e, 0xff, 0xd0], // notrack call rax
      [0x66, 0x66, 0x48, 0xe8, 0xf8, 0, 0, 0], // data16 data16 rex.W call, as linkers write it for __tls_get_addr
      [0x50, 0xf3, 0xc3], // push rax; rep ret
      [0x50, 0xf2, 0xc3], // push rax; bnd ret
      [0x2e, 0x74, 0x02], // je, not taken
    ]) {
      const cpu = machine("nop");
      cpu.memory.poke(CODE, Uint8Array.from(bytes));
      cpu.memory.poke(at(CODE + bytes.length), Uint8Array.of(0xcc));
      cpu.memory.poke(at(after), Uint8Array.of(0xcc));
      cpu.setGpr(Gpr.RAX, BigInt(after));
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      expect(cpu.ip).toBe(bytes[1] === 0x74 ? CODE + bytes.length + 1 : after + 1);
    }
  });

  test("cpuid: a baseline processor, the same each time", () => {
    const cpuid = (leaf: number): bigint[] => {
      const cpu = machine(`mov eax, ${leaf}; mov ecx, 0; cpuid; int3`);
      expect(cpu.run(PLENTY)).toEqual({ kind: "breakpoint" });
      return [Gpr.RAX, Gpr.RBX, Gpr.RCX, Gpr.RDX].map((register) => cpu.gpr(register));
    };
    const [most, b, c, d] = cpuid(0);
    expect(Buffer.from(BigUint64Array.of(b! | (d! << 32n), c!).buffer).toString("latin1", 0, 12)).toBe("GenuineIntel");
    expect(most).toBeLessThan(7n);
    const [, , ecx, edx] = cpuid(1);
    // No SSE3, cmpxchg16b, popcnt, OSXSAVE, AVX...; but cmov, SSE, SSE2.
    expect(ecx).toBe(0n);
    for (const bit of [15n, 25n, 26n]) expect((edx! >> bit) & 1n).toBe(1n);
    expect(cpuid(7)).toEqual([0n, 0n, 0n, 0n]);
    expect(cpuid(0x80000001)[3]! >> 29n).toBe(1n);
    const xgetbv = machine("xgetbv");
    expect(xgetbv.run(PLENTY)).toMatchObject({ kind: "fault", fault: "undefined" });
  });
});

/** Fibonacci numbers, a checksum of them in memory, a call in between: a bit of everything. */
const MIXED = `
  xor eax, eax; mov ebx, 1; mov ecx, 50; mov edi, ${DATA}
  again:
  mov rdx, rax; add rax, rbx; mov rbx, rdx
  call store
  test cl, 3; jne skip
  rol r8, 5
  skip: dec ecx; jnz again
  int3
  store: mov [rdi], rax; add rdi, 8; xor r8, rax; push r8; pop r9; ret`;

describe("how far a run goes", () => {
  const whole = machine(MIXED);
  const outcome = whole.run(PLENTY);

  test("the program itself", () => {
    expect(outcome).toEqual({ kind: "breakpoint" });
    expect(whole.gpr(Gpr.RAX)).toBe(12586269025n);
    // 4, then 50 times 4 + 6 and test, jne, dec, jnz; rol in the 12 rounds where rcx is a multiple of 4; int3.
    expect(whole.instructions).toBe(4 + 50 * (4 + 6 + 4) + 12 + 1);
  });

  test("step equals run", () => {
    const single = machine(MIXED);
    let last = single.step();
    while (last.kind === "limit") last = single.step();
    expect(last).toEqual(outcome);
    expect(words(single)).toEqual(words(whole));
    expect(single.instructions).toBe(whole.instructions);
    expect(bytesAt(single, DATA, PAGE_SIZE)).toEqual(bytesAt(whole, DATA, PAGE_SIZE));
  });

  test("exactly as many instructions as asked for", () => {
    const single = machine(MIXED);
    for (let n = 0; n < 200; n++) {
      const run = machine(MIXED);
      expect(run.run(n)).toEqual({ kind: "limit" });
      expect(run.instructions).toBe(n);
      expect(words(run)).toEqual(words(single));
      single.step();
    }
  });

  test("in pieces of any size", () => {
    for (const piece of [1, 2, 3, 7, 64]) {
      const run = machine(MIXED);
      let last = run.run(piece);
      while (last.kind === "limit") last = run.run(piece);
      expect(last).toEqual(outcome);
      expect(words(run)).toEqual(words(whole));
      expect(run.instructions).toBe(whole.instructions);
    }
  });

  test("not at all", () => {
    const run = machine("ud2");
    expect(run.run(0)).toEqual({ kind: "limit" });
    expect(run.ip).toBe(CODE);
  });
});

describe("where a run ends", () => {
  test("the limit is reached before anybody looks at what comes next", () => {
    const cpu = machine("jmp 0x900000");
    expect(cpu.run(1)).toEqual({ kind: "limit" });
    expect(cpu.ip).toBe(0x900000);
    expect(cpu.run(1)).toEqual({ kind: "fault", fault: "page", address: 0x900000, access: "execute" });
  });

  test("a branch with an operand-size prefix leads elsewhere on other makes of processor: not implemented", () => {
    for (const bytes of [
      [0x66, 0xeb, 0],
      [0x66, 0x74, 0],
      [0x66, 0xe8, 0, 0, 0, 0],
      [0x2e, 0x66, 0xe2, 0],
    ]) {
      const cpu = machine("nop");
      cpu.memory.poke(CODE, Uint8Array.from(bytes));
      const before = words(cpu);
      expect(cpu.run(1).kind).toBe("unimplemented");
      expect(words(cpu)).toEqual(before);
    }
  });
});
