/**
 * The machine code that the emulator's bench runs: segments, registers, where it starts and where it stops. rbx counts
 * the rounds of a loop. Each is made in a short form as well, in which counting every instruction is affordable.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Const, Keystone, loadKeystone } from "keystone-wasm";

const CODE = 0x400000;
const DATA = 0x600000;
const STACK = 0x7f0000;
const PAGE = 4096;
const [RBX, RSP, RBP, RSI, RDI] = [3, 4, 5, 6, 7];

const tenInstructions = `
loop:
  mov rax, qword ptr [rsi + rcx*8]
  add rax, rdx
  mov qword ptr [rdi + rcx*8], rax
  lea rdx, [rax + rdx*2 + 7]
  xor r8d, eax
  inc ecx
  and ecx, 255
  add r9, qword ptr [rbp - 16]
  sub rbx, 1
  jne loop`;

const branchy = `
loop:
  imul r8d, r8d, 1103515245
  add r8d, 12345
  mov eax, r8d
  shr eax, 16
  test al, 1
  je even
  add r9, 3
  jmp joined
even:
  dec r9
joined:
  test al, 6
  jne skip
  xor r9, rax
skip:
  cmp al, 100
  ja high
  inc r10
high:
  call leaf
  sub rbx, 1
  jne loop
  jmp out
leaf:
  push rbp
  cmp r9d, r10d
  cmovl r11d, r10d
  pop rbp
  ret
out:`;

const vectors = `
  movups xmm5, xmmword ptr [rsi + 64]
  cvtsi2sd xmm6, ebx
  xorps xmm7, xmm7
loop:
  movups xmm0, xmmword ptr [rsi]
  paddd xmm0, xmm5
  pshufd xmm1, xmm0, 0x1b
  pxor xmm5, xmm1
  punpcklbw xmm1, xmm0
  movaps xmmword ptr [rdi], xmm1
  cvtsi2sd xmm2, rbx
  mulsd xmm2, xmm6
  addsd xmm7, xmm2
  ucomisd xmm7, xmm2
  sub rbx, 1
  jne loop
  movq rax, xmm7
  movq rdx, xmm5`;

const loops = [
  { name: "ten instructions", assembly: tenInstructions, rounds: 3_000_000, head: 0 },
  { name: "branches and calls", assembly: branchy, rounds: 1_000_000, head: 0 },
  { name: "SSE", assembly: vectors, rounds: 1_000_000, head: 0 },
];

/** What stands in data pages: no zeros, the same in every run. */
const pattern = (size) =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 167 + (i >> 8) * 59 + 13) & 255));

function loop(assembler, { assembly, rounds }) {
  const code = Buffer.from(assembler.asm(assembly, { address: CODE }));
  const registers = new Array(16).fill(0);
  registers[RBX] = rounds;
  registers[RSP] = STACK + PAGE - 64;
  registers[RBP] = STACK + PAGE - 256;
  registers[RSI] = DATA;
  registers[RDI] = DATA + PAGE;
  return {
    segments: [
      { address: CODE, size: PAGE, content: Buffer.concat([code, Buffer.from([0xcc])]), permissions: 5 },
      { address: DATA, size: 2 * PAGE, content: pattern(2 * PAGE), permissions: 6 },
      { address: STACK, size: PAGE, content: pattern(PAGE), permissions: 6 },
    ],
    registers,
    start: CODE,
    stop: CODE + code.length,
  };
}

function sha256(parseElf, rounds) {
  const folder = mkdtempSync(join(tmpdir(), "usdt-nop5-bench-"));
  try {
    const file = join(folder, "sha256");
    const source = fileURLToPath(new URL("sha256.c", import.meta.url));
    const flags = ["-O2", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-ffreestanding", "-fno-stack-protector"];
    const baseline = ["-fno-tree-loop-distribute-patterns", "-Wl,-z,noseparate-code"];
    execFileSync("gcc", [...flags, ...baseline, `-DROUNDS=${rounds}`, source, "-o", file]);
    const image = parseElf(readFileSync(file));
    const [start, stop] = ["_start", "done"].map((name) => symbol(file, name));
    const loads = image.programHeaders.filter((p) => p.p_type === 1);
    const first = Math.floor(Math.min(...loads.map((p) => p.p_vaddr)) / PAGE) * PAGE;
    const end = Math.ceil(Math.max(...loads.map((p) => p.p_vaddr + p.p_memsz)) / PAGE) * PAGE;
    const content = Buffer.alloc(end - first);
    for (const p of loads) image.bytes.copy(content, p.p_vaddr - first, p.p_offset, p.p_offset + p.p_filesz);
    const registers = new Array(16).fill(0);
    registers[RSP] = STACK + PAGE - 64;
    return {
      segments: [
        { address: first, size: end - first, content, permissions: 7 },
        { address: STACK, size: PAGE, content: pattern(PAGE), permissions: 6 },
      ],
      registers,
      start,
      stop,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function symbol(file, name) {
  const line = execFileSync("nm", [file], { encoding: "utf8" })
    .split("\n")
    .find((entry) => entry.endsWith(` ${name}`));
  return Number.parseInt(line, 16);
}

/** The programs, each in its full and its short form. `parseElf` is the project's own. */
export async function programs(parseElf) {
  await loadKeystone();
  const assembler = new Keystone(Const.KS_ARCH_X86, Const.KS_MODE_64);
  const made = loops.map((entry) => ({
    name: entry.name,
    full: loop(assembler, entry),
    short: loop(assembler, { ...entry, rounds: 1000 }),
  }));
  if (spawnSync("gcc", ["--version"]).status !== 0) console.log("gcc is missing: no SHA-256");
  else made.push({ name: "SHA-256", full: sha256(parseElf, 60), short: sha256(parseElf, 1) });
  return made;
}
