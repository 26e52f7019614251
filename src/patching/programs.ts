/**
 * The programs that are run: small loops around a probe, in machine code with its listing.
 *
 * A program never ends by itself: its threads pass the probe again and again. A run may end where every thread is about
 * to pass the probe once more, and all have come back to the same state after at most two passes, so that there are
 * finitely many states.
 */

import type { Interval } from "../address.js";
import type { Memory } from "../emulate/memory.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { type Assembled, assemble, branch, type Line, line, type Source } from "./assemble.js";
import type { Bytes } from "./machine.js";
import type { Act } from "./state.js";
import { type Site, type UniversalShape, universalLeaf, universalSites } from "./universal.js";

export type { Site } from "./universal.js";

export interface Program {
  readonly name: string;
  readonly listing: Assembled["listing"];
  /** Maps what the listing does not have: real programs. */
  readonly mapsMore: ((memory: Memory) => void) | null;
  /** Runtime addresses where trampolines cannot be, besides those of the listing: [start, end). */
  readonly occupied: readonly Interval[];
  /** What threads begin with, where it is not the usual. */
  readonly first: { readonly words: Int32Array; readonly bytes: readonly Bytes[] } | null;
  /**
   * The instructions that make up the program, where the rest of it is left out: a thread that comes to another one
   * begins again.
   */
  readonly region: ReadonlySet<number> | null;
  /** What the tracer asks for, where nothing else is said: the entry, the return too, or a session of both. */
  readonly tracer: "entry" | "return" | "session";
  /** Runtime addresses of the threads' stacks: each has its own, at the same place. */
  readonly stack: Interval;
  readonly entry: number;
  /** Where its loops begin, the child's too. */
  readonly begins: ReadonlySet<number>;
  /** What its first thread does besides, and what a forked child does: acts.ts. */
  readonly acts: { readonly own: readonly Act[]; readonly child: readonly Act[] };
  readonly sites: readonly Site[];
  /**
   * Where the sites are both places of one probe: its code, from the question which of them runs on to where both ways
   * meet. Runtime addresses.
   */
  readonly twins: Interval | null;
  /** Where the signal handler begins, if there is one. */
  readonly handler: number | null;
  /** Addresses of instructions that read what threads and the kernel share: code at a probe, or the semaphore. */
  readonly sharedReads: ReadonlySet<number>;
  readonly semaphore: number | null;
  /** Where the child of a fork or vfork goes on and passes its probes; null where nothing forks. */
  readonly forks: "fork" | "vfork" | null;
  /** Its threads have shadow stacks. */
  readonly shadowStack: boolean;
  /** A seccomp filter that kills whoever makes a system call. */
  readonly filter: boolean;
}

const STACK_TOP = 0x7ffd_0000_0000;
const STACK_SIZE = 0x2000;
/** rsp at a program's entry: what is above belongs to somebody else. */
export const FIRST_SP = STACK_TOP - 0x1000;
const TEXT = 0x40_1000;
const DATA = 0x40_8000;

export type ProgramName =
  | "plain"
  | "redzone"
  | "fork"
  | "vfork"
  | "signal"
  | "seccomp"
  | "far"
  | "semaphore"
  | "return"
  | "session"
  | "universal";

export interface Shape {
  /** The instruction at the probe. */
  readonly probe: Uint8Array;
  /** Put `lea -0x80(%rsp),%rsp` before and `lea 0x80(%rsp),%rsp` after it. */
  readonly guard: boolean;
  /** A forked child looks for patched probes and repairs them. */
  readonly forkGuard: "none" | "repair" | "repair-call" | "int3";
  /** Put the probe across a page's end. */
  readonly crossing: boolean;
  readonly acts: Program["acts"];
  readonly shadowStack: boolean;
  /** Of a probe with two places. */
  readonly universal: UniversalShape;
}

const NO_ACTS: Program["acts"] = { own: [], child: [] };

const PLAIN: Shape = {
  probe: NOP5,
  guard: false,
  forkGuard: "none",
  crossing: false,
  acts: NO_ACTS,
  shadowStack: false,
  universal: { selector: 0, runs: "one" },
};

const hexOf = (bytes: Uint8Array): string => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");

const nopText = (bytes: Uint8Array): string => {
  if (hexOf(bytes) === hexOf(NOP5)) return "nop DWORD PTR [rax+rax*1+0x0]";
  if (hexOf(bytes) === hexOf(NOP10)) return "cs nop WORD PTR [rax+rax*1+0x0]";
  return bytes.length === 1 ? "nop" : "nops";
};

function probe(shape: Shape, label = "site"): Source {
  const site = [`${label}:`, line(nopText(shape.probe), hexOf(shape.probe))];
  return shape.guard
    ? [line("lea rsp,[rsp-0x80]", "48 8d 64 24 80"), ...site, line("lea rsp,[rsp+0x80]", "48 8d a4 24 80 00 00 00")]
    : site;
}

const loop: Source = [
  TEXT,
  "loop:",
  line("mov edi,0x5", "bf 05 00 00 00"),
  branch("call leaf", "e8", "leaf"),
  branch("jmp loop", "e9", "loop"),
];

/** Flags, rcx, r11 and rax cross the probe: what a trampoline and a system call would change. */
const leafBefore = [line("mov rax,rdi", "48 89 f8"), line("cmp rdi,0x7", "48 83 ff 07")];
const leafBehind = [
  line("setb cl", "0f 92 c1"),
  line("lea rax,[rax+rax*2]", "48 8d 04 40"),
  line("xor rax,r11", "4c 31 d8"),
  line("ret", "c3"),
];
const leafBeforeSize = 7;
/** A page's end in the middle of the probe. */
const CROSSING = TEXT + 0x1000 - 2;

const leaf = (shape: Shape, address = TEXT + 0x80): Source => [
  shape.crossing ? CROSSING - leafBeforeSize - (shape.guard ? 5 : 0) : address,
  "leaf:",
  ...leafBefore,
  ...probe(shape),
  ...leafBehind,
];

/** Keeps two values below rsp, as compilers do in functions that call nobody. */
const leafWithRedZone = (shape: Shape): Source => [
  TEXT + 0x80,
  "leaf:",
  line("mov QWORD PTR [rsp-0x8],rdi", "48 89 7c 24 f8"),
  line("mov QWORD PTR [rsp-0x70],rdi", "48 89 7c 24 90"),
  ...probe(shape),
  line("mov rax,QWORD PTR [rsp-0x8]", "48 8b 44 24 f8"),
  line("add rax,QWORD PTR [rsp-0x70]", "48 03 44 24 90"),
  line("ret", "c3"),
];

const FAR = 0xc000_0000; // 3 GiB

const farLeaf = (shape: Shape, index: number): Source => [
  TEXT + 0x80 + index * FAR,
  `leaf${index}:`,
  line("mov eax,edi", "89 f8"),
  ...probe(shape, `site${index}`),
  line("ret", "c3"),
];

const movToRax = (value: number): Line =>
  line(`movabs rax,0x${value.toString(16)}`, `48 b8 ${hexOf(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer))}`);

const callFar = (index: number): Source => [movToRax(TEXT + 0x80 + index * FAR), line("call rax", "ff d0")];

/**
 * A child that repairs its probe: the file's bytes back, then a split and a join of the mapping, upon which the kernel
 * itself installs what is still registered. It does so whatever it finds there. To look for e8 first is not enough: a
 * tracer that attaches and detaches before the child looks leaves byte 0 of the nop in front of the rest of the call,
 * and one that only attaches leaves int3, while a CPU that has not serialized since may still run the call.
 */
const repair: Source = [4, 16, 17].flatMap((advice) => [
  line(`mov edx,0x${advice.toString(16)}`, `ba ${hexOf(Uint8Array.of(advice))} 00 00 00`),
  line("mov eax,0x1c", "b8 1c 00 00 00"),
  line("syscall", "0f 05"),
]);

/** A child that repairs only where it finds a call. */
const repairCall: Source = [
  { text: "cmp BYTE PTR [rip+site],0xe8", bytes: "80 3d", relative: { to: "site", rest: "e8" } },
  branch("jne childloop", "0f 85", "childloop"),
  ...repair,
];

/** A child that writes int3 itself, through /proc/self/mem: what must not be done. */
const writeInt3: Source = [
  { text: "cmp BYTE PTR [rip+site],0xe8", bytes: "80 3d", relative: { to: "site", rest: "e8" } },
  branch("jne childloop", "0f 85", "childloop"),
  line("mov eax,0x12", "b8 12 00 00 00"),
  line("syscall", "0f 05"),
];

const childGuards: Readonly<Record<Shape["forkGuard"], Source>> = {
  none: [],
  repair,
  "repair-call": repairCall,
  int3: writeInt3,
};

const forking = (shape: Shape, number: number): Source => [
  TEXT,
  "loop:",
  line("mov edi,0x5", "bf 05 00 00 00"),
  branch("call leaf", "e8", "leaf"),
  line(`mov eax,0x${number.toString(16)}`, `b8 ${hexOf(Uint8Array.of(number))} 00 00 00`),
  line("syscall", "0f 05"),
  line("test eax,eax", "85 c0"),
  branch("jne loop", "0f 85", "loop"),
  ...childGuards[shape.forkGuard],
  "childloop:",
  line("mov edi,0x5", "bf 05 00 00 00"),
  branch("call leaf", "e8", "leaf"),
  ...(number === VFORK
    ? [line("mov eax,0x3c", "b8 3c 00 00 00"), line("syscall", "0f 05")]
    : [branch("jmp childloop", "e9", "childloop")]),
];

export const FORK = 57;
export const VFORK = 58;

/** The handler passes the probe itself, and then returns as libc's restorer does. */
const handler: Source = [
  TEXT + 0x200,
  "handler:",
  line("mov edi,0x9", "bf 09 00 00 00"),
  branch("call leaf", "e8", "leaf"),
  line("mov eax,0xf", "b8 0f 00 00 00"),
  line("syscall", "0f 05"),
];

const semaphoreLoop: Source = [
  TEXT,
  "loop:",
  line("mov edi,0x5", "bf 05 00 00 00"),
  "test:",
  { text: "cmp WORD PTR [rip+semaphore],0x0", bytes: "66 83 3d", relative: { to: "semaphore", rest: "00" } },
  branch("je loop", "0f 84", "loop"),
  branch("call leaf", "e8", "leaf"),
  branch("jmp loop", "e9", "loop"),
];

/** The probe is a function's first instruction, so that a return probe finds the return address at rsp. */
const probedFunction = (shape: Shape): Source => [
  TEXT + 0x80,
  "leaf:",
  ...probe({ ...shape, guard: false }),
  ...leafBefore,
  ...leafBehind,
];

/** The same, called with another argument each time: odd ones want the return of a session. */
const alternatingLoop: Source = [
  TEXT,
  "loop:",
  line("xor ebx,0x1", "83 f3 01"),
  line("mov edi,ebx", "89 df"),
  branch("call leaf", "e8", "leaf"),
  branch("jmp loop", "e9", "loop"),
];

function sourceOf(name: ProgramName, shape: Shape): Source {
  switch (name) {
    case "plain":
    case "seccomp":
      return [...loop, ...leaf(shape)];
    case "redzone":
      return [...loop, ...leafWithRedZone(shape)];
    case "signal":
      return [...loop, ...leaf(shape), ...handler];
    case "fork":
      return [...forking(shape, FORK), ...leaf(shape, TEXT + 0x100)];
    case "vfork":
      return [...forking(shape, VFORK), ...leaf(shape, TEXT + 0x100)];
    case "far":
      return [
        TEXT,
        "loop:",
        line("mov edi,0x5", "bf 05 00 00 00"),
        ...[0, 1, 2].flatMap(callFar),
        branch("jmp loop", "e9", "loop"),
        ...[0, 1, 2].flatMap((index) => farLeaf(shape, index)),
      ];
    case "semaphore":
      return [...semaphoreLoop, ...leaf(shape)];
    case "universal":
      return [...loop, ...universalLeaf(TEXT + 0x80, DATA, shape.universal)];
    case "return":
    case "session":
      return [...alternatingLoop, ...probedFunction(shape)];
  }
}

/** One of the built-in programs. */
export function makeProgram(name: ProgramName, shape: Partial<Shape> = {}): Program {
  const whole = { ...PLAIN, ...shape };
  const { listing, labels } = assemble(sourceOf(name, whole), new Map([["semaphore", DATA]]));
  const at = (label: string): number | null => labels.get(label) ?? null;
  const sites = ["site", "site0", "site1", "site2"]
    .flatMap((label) => at(label) ?? [])
    .map((address): Site => ({ address, original: whole.probe }));
  const readsShared = (text: string): boolean => text.includes("[rip+site]") || text.includes("[rip+semaphore]");
  return {
    name,
    listing,
    entry: at("loop")!,
    begins: new Set(["loop", "childloop"].flatMap((label) => at(label) ?? [])),
    acts: whole.acts,
    shadowStack: whole.shadowStack,
    sites: name === "universal" ? universalSites(labels, whole.probe) : sites,
    twins: name === "universal" ? { start: at("question")!, end: at("join")! } : null,
    handler: at("handler"),
    sharedReads: new Set(listing.filter((l) => readsShared(l.text)).map((l) => l.address)),
    semaphore: name === "semaphore" ? DATA : null,
    forks: name === "fork" || name === "vfork" ? name : null,
    mapsMore: null,
    occupied: [],
    first: null,
    region: null,
    tracer: name === "return" || name === "session" ? name : "entry",
    stack: { start: STACK_TOP - STACK_SIZE, end: STACK_TOP },
    filter: name === "seccomp",
  };
}
