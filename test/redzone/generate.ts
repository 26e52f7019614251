/**
 * A family of functions that keep values below rsp across a probe, in every way that compilers and people have: made from a
 * seed, as one C file. Every function comes twice, with its probe and without; the program calls both with the same
 * arguments, counts the results that differ, prints which functions they came from and says so in its exit status:
 *
 *     NAME WRONG          a line for each function with wrong results
 *     wrong N of M        the last line; the exit status is 0 where N is 0, else 1
 *
 * Compiled with -DREDZONE_NOP5 the probes are five-byte nops, as the rewriter makes them: that is the control, in which a
 * tracer has to break something. Provider of all probes: redzone; the probe's name is the function's.
 *
 * What a compiler makes of a C function is its own choice; what is below rsp in the assembly functions is known.
 */

/** A way of using the stack. Each is made with many numbers and types. */
export type Way = keyof typeof ways;

export interface GeneratedFunction {
  /** The function, and its probe. */
  readonly name: string;
  readonly way: Way;
  /** What stack facts have to say, whatever the compiler; undefined where that depends on it. */
  readonly redZone: "unused" | "live" | undefined;
  /** The program's result depends on the bytes below rsp, so that a tracer can break it. Undefined as above. */
  readonly breakable: boolean | undefined;
}

export interface GeneratedProgram {
  /** C with GNU extensions, for gcc and clang on x86-64. */
  readonly source: string;
  readonly functions: readonly GeneratedFunction[];
}

/** Numbers from a seed, the same everywhere (mulberry32). */
class Random {
  constructor(private state: number) {}

  private next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  of<T>(list: readonly T[]): T {
    return list[this.between(0, list.length - 1)]!;
  }
}

/** What one way makes: the body of `long NAME(long a, long b, long n)`, with PROBE where the probe is. */
interface Made {
  readonly body: string;
  /** Attributes of the function. */
  readonly attributes?: string;
  /** Written in assembly: `body` computes the same in C, this is the code with the probe. */
  readonly assembly?: string;
  readonly redZone?: "unused" | "live";
  readonly breakable?: boolean;
}

const types = ["long", "int", "short", "unsigned char"] as const;
const odd = (random: Random): number => 2 * random.between(1, 40) + 1;

/** An argument for the probe: none, a constant, a register, or a local that may lie below rsp. */
const probe = (random: Random, local?: string): string => {
  const choices = ["PROBE0()", `PROBE1(${random.between(1, 99)})`, "PROBE1(a)", "PROBE2(b, n)"];
  if (local !== undefined) choices.push(`PROBE1(${local})`, `PROBE2(a, ${local})`);
  return `${random.of(choices)};`;
};

const ways = {
  /** Plain locals, through rsp or, at -O0, through rbp without a sub rsp. */
  locals(random: Random): Made {
    const names = Array.from({ length: random.between(1, 6) }, (_, i) => `x${i}`);
    const made = names.map((x, i) => `volatile ${random.of(types)} ${x} = a * ${odd(random)} + b + ${i};`);
    return { body: `${made.join(" ")} ${probe(random, "x0")} return ${names.join(" * 3 + ")} + n;` };
  },

  /** An array with constant indices. */
  array(random: Random): Made {
    const size = random.between(2, 12);
    const type = random.of(types);
    const all = Array.from({ length: size }, (_, i) => i);
    const writes = all.map((i) => `x[${i}] = a * ${odd(random)} - b + ${i};`);
    return {
      body: `volatile ${type} x[${size}]; ${writes.join(" ")} ${probe(random, `x[${random.between(0, size - 1)}]`)}
      return ${all.map((i) => `x[${i}]`).join(" + 5 * ")};`,
    };
  },

  /** An array with a variable index, written and read in loops. */
  indexed(random: Random): Made {
    const size = random.between(4, 30);
    const step = random.between(1, 3);
    return {
      body: `volatile ${random.of(types)} x[${size}]; for (int i = 0; i < ${size}; i++) x[i] = a + b * i;
      ${probe(random)} long s = 0; for (int i = 0; i < ${size}; i += ${step}) s = s * 3 + x[i];
      return s + x[(unsigned long) n % ${size}];`,
    };
  },

  /** One element, by an index that comes with the call. */
  picked(random: Random): Made {
    const size = random.between(2, 14);
    return {
      body: `long x[${size}]; for (int i = 0; i < ${size}; i++) x[i] = a ^ (b + i * ${odd(random)});
      HIDE(x); ${probe(random)} return x[(unsigned long) (a + n) % ${size}];`,
    };
  },

  /** A structure of several types, through its members and copied as a whole. */
  structure(random: Random): Made {
    const size = random.between(1, 9);
    return {
      body: `struct { char c; short s; int i; long l; char rest[${size}]; } x, y;
      x.c = a; x.s = b; x.i = a + b; x.l = a * ${odd(random)}; for (int i = 0; i < ${size}; i++) x.rest[i] = n + i;
      HIDE(&x); ${probe(random, "x.l")} y = x; HIDE(&y); return y.c + 3 * y.s + 5 * y.i + y.l + y.rest[${size - 1}];`,
    };
  },

  /** Values of 16 and 32 bytes. */
  vectors(random: Random): Made {
    const wide = random.between(0, 2) === 0;
    const bytes = wide ? 32 : 16;
    const count = random.between(1, wide ? 2 : 4);
    const all = Array.from({ length: count }, (_, i) => i);
    const init = `{${Array.from({ length: bytes / 8 }, (_, i) => `a * ${odd(random)} + ${i}`).join(", ")}}`;
    return {
      body: `typedef long v __attribute__((vector_size(${bytes})));
      ${all.map((i) => `volatile v x${i} = ${init};`).join(" ")} ${probe(random)}
      v s = ${all.map((i) => `x${i}`).join(" + ")}; long r = 0; for (int i = 0; i < ${bytes / 8}; i++) r = r * 3 + s[i];
      return r + b;`,
      ...(wide ? { attributes: '__attribute__((target("avx")))' } : {}),
    };
  },

  /** Floating-point values, spilled around the probe. */
  floating(random: Random): Made {
    const count = random.between(2, 8);
    const all = Array.from({ length: count }, (_, i) => i);
    return {
      body: `${all.map((i) => `double d${i} = (double) (a + ${i}) * ${odd(random)}.5;`).join(" ")}
      ${all.map((i) => `HIDE(&d${i});`).join(" ")} long double w = (long double) b / 3; volatile long double v = w;
      ${probe(random)} return (long) (${all.map((i) => `d${i}`).join(" + ")}) + (long) (v * 3);`,
    };
  },

  /** A value that only the probe's note needs. */
  note(random: Random): Made {
    return {
      body: `volatile long x = a * ${odd(random)}; long y = x - b; PROBE2(x, y); return a + b + n;`,
    };
  },

  /** The address of a local, kept in another local. */
  escaping(random: Random): Made {
    return {
      body: `long x = a * ${odd(random)}, y = b; long *volatile p = n & 1 ? &x : &y; ${probe(random)}
      *p += 7; return x + 3 * y;`,
    };
  },

  /** The address of a local, kept in memory that others can see. */
  escaping_far(random: Random): Made {
    return {
      body: `long x[${random.between(1, 6)}]; x[0] = a * ${odd(random)}; seen = x; ${probe(random)}
      long r = *(volatile long *) seen; seen = 0; return r + b;`,
    };
  },

  /** A pointer that walks through an array, upwards or downwards. */
  walking(random: Random): Made {
    const size = random.between(3, 14);
    const read =
      random.between(0, 1) === 0
        ? `for (long *p = x; p < x + ${size}; p++) s = s * 3 + *p;`
        : `for (long *p = x + ${size}; p-- > x;) s = s * 3 + *p;`;
    return {
      body: `long x[${size}]; for (int i = 0; i < ${size}; i++) x[i] = a + b * i; HIDE(x);
      ${probe(random)} long s = n; ${read} return s;`,
    };
  },

  /** alloca in a function that calls nothing. */
  allocating(random: Random): Made {
    return {
      body: `volatile long x = a * ${odd(random)}; volatile char *p = __builtin_alloca((n & 31) + ${random.between(1, 40)});
      p[0] = b; p[n & 31] = a; ${probe(random, "x")} return x + p[0] + 3 * p[n & 31];`,
    };
  },

  /** A local that needs more alignment than the stack has. */
  aligned(random: Random): Made {
    const alignment = random.of([32, 64]);
    const size = random.between(1, 6);
    return {
      body: `volatile long x[${size}] __attribute__((aligned(${alignment}))); volatile long y = b * ${odd(random)};
      for (int i = 0; i < ${size}; i++) x[i] = a + i; ${probe(random, "y")} return x[0] + 3 * x[${size - 1}] + y;`,
    };
  },

  /** More than fits below rsp: rsp is lowered, and the rest is still below it. */
  large(random: Random): Made {
    const size = random.between(17, 60);
    const last = random.between(0, size - 1);
    return {
      body: `volatile long x[${size}]; for (int i = 0; i < ${size}; i++) x[i] = a - b * i; ${probe(random)}
      return x[0] + 3 * x[${last}] + 5 * x[(unsigned long) n % ${size}];`,
    };
  },

  /** The probe in a loop: what is below rsp is needed in the next round. */
  looping(random: Random): Made {
    const rounds = random.between(2, 5);
    return {
      body: `volatile long x = a, y = b; for (int i = 0; i < ${rounds}; i++) { x = x * ${odd(random)} + y;
      ${probe(random, "y")} y = y + i; } return x + y;`,
    };
  },

  /** The probe on a path that is seldom taken. */
  cold(random: Random): Made {
    return {
      body: `volatile long x[${random.between(2, 8)}]; x[0] = a; x[1] = b;
      if (__builtin_expect((a & ${random.of([1, 3])}) == 1, 0)) { ${probe(random, "x[0]")} x[1] += x[0]; }
      return x[0] * ${odd(random)} + x[1];`,
    };
  },

  /** The probe before and in a switch. */
  switching(random: Random): Made {
    const cases = Array.from(
      { length: random.between(4, 7) },
      (_, i) => `case ${i}: x += y * ${odd(random)}; ${random.of(["break;", ""])}`,
    );
    return {
      body: `volatile long x = a, y = b; ${probe(random)} switch ((unsigned long) n % 8) { ${cases.join(" ")}
      default: x ^= ${odd(random)}; } return x + y;`,
    };
  },

  /** Nothing is read behind the probe any more. */
  finished(random: Random): Made {
    return {
      body: `volatile long x = a * ${odd(random)}; long r = x + b; HIDE_VALUE(r); PROBE1(r); return r;`,
    };
  },

  /** A function that calls others: nothing is below rsp. */
  calling(random: Random): Made {
    const before = random.between(0, 1) === 0;
    const text = probe(random);
    return {
      body: `volatile long x[${random.between(1, 20)}]; x[0] = a; ${before ? text : ""} long r = helper(b, n);
      ${before ? "" : text} x[0] += r; return x[0] + helper(r, 3);`,
      redZone: "unused",
      breakable: false,
    };
  },

  /** A tail call behind the probe. */
  tail(random: Random): Made {
    return { body: `volatile long x = a * ${odd(random)}; long y = x; ${probe(random)} return helper(y, b);` };
  },

  /** Assembly: a value at a known distance, below rsp or above. */
  assembly(random: Random): Made {
    const lower = random.of([0, 0, 8, 0x48, 0xd0]);
    const at = random.of([-8, -16, -64, -120, -128, ...(lower > 8 ? [8, 16] : [])]);
    const name = "@NAME@";
    const base = random.of(["%rsp", "%rcx"]);
    const distance = base === "%rsp" ? 0 : 8 * random.between(-4, 4);
    const copy = base === "%rsp" ? "" : `lea ${distance}(%rsp), %rcx;`;
    const index = random.between(0, 2) === 0;
    const place = `${at - distance - (index ? 8 : 0)}(${base}${index ? ",%r8,8" : ""})`;
    // What is read with an index in a function that calls nothing may lie anywhere.
    const redZone = at < 0 ? "live" : index ? undefined : "unused";
    return {
      body: `return a * 3 + b;`,
      assembly: `${copy === "" ? "" : ""}sub $${lower}, %rsp; .cfi_adjust_cfa_offset ${lower}; ${copy} mov $1, %r8d;
        lea (%rdi,%rdi,2), %rax; mov %rax, ${place}; redzone_probe ${name};
        xor %eax, %eax; mov ${place}, %rax; add %rsi, %rax; add $${lower}, %rsp; .cfi_adjust_cfa_offset -${lower}; ret`,
      ...(redZone === undefined ? {} : { redZone }),
      // A traced nop5 writes 32 bytes: the return address and three registers.
      breakable: at < 0 && at >= -32,
    };
  },
} satisfies Record<string, (random: Random) => Made>;

const wayNames = Object.keys(ways) as Way[];

const head = (seed: number): string => `/* Made by test/redzone/generate.ts, seed ${seed}. */
#include <stdio.h>
#include <sys/sdt.h>
#ifdef REDZONE_NOP5
#undef _SDT_NOP
#define _SDT_NOP .nops 5
#define REDZONE_NOP ".nops 5"
#else
#define REDZONE_NOP "nop"
#endif
/* The compiler has to keep the object in memory; or the value in a register. */
#define HIDE(p) __asm__ volatile("" :: "r"(p) : "memory")
#define HIDE_VALUE(x) __asm__ volatile("" : "+r"(x))
static long *volatile seen;
__attribute__((noinline)) long helper(long a, long b) { __asm__ volatile(""); return a * 5 + b; }
__asm__(".macro redzone_probe name\\n"
  "990: " REDZONE_NOP "\\n"
  ".pushsection .note.stapsdt, \\"\\", \\"note\\"\\n"
  ".balign 4\\n .4byte 992f-991f, 994f-993f, 3\\n"
  "991: .asciz \\"stapsdt\\"\\n 992: .balign 4\\n"
  "993: .8byte 990b, _.stapsdt.base, 0\\n .asciz \\"redzone\\"\\n .asciz \\"\\\\name\\"\\n .byte 0\\n 994: .balign 4\\n"
  ".popsection\\n.endm\\n");
`;

const main = (functions: readonly { name: string }[]): string => `
typedef long function(long, long, long);
static const struct { const char *name; function *with, *without; } all[] = {
${functions.map(({ name }) => `  {"${name}", ${name}, ${name}_plain},`).join("\n")}
};
int main(void) {
  long wrong = 0, total = 0;
  for (unsigned f = 0; f < sizeof all / sizeof all[0]; f++) {
    long before = wrong;
    for (long i = 0; i < ROUNDS; i++, total++) {
      long a = i * 0x1234567 + f, b = (i + 3) * (long) 0x9e3779b97f4a7c15, n = i;
      wrong += all[f].with(a, b, n) != all[f].without(a, b, n);
    }
    if (wrong != before) printf("%s %ld\\n", all[f].name, wrong - before);
  }
  printf("wrong %ld of %ld\\n", wrong, total);
  return wrong != 0;
}
`;

/**
 * Makes the program.
 * @param count how many functions; the ways take turns
 * @param rounds how often the program calls each
 */
export function generate(seed: number, count: number, rounds = 8): GeneratedProgram {
  const random = new Random(seed);
  const functions: GeneratedFunction[] = [];
  const pieces: string[] = [];
  for (let i = 0; i < count; i++) {
    const way = wayNames[i % wayNames.length]!;
    const name = `${way}_${i}`;
    const made = ways[way](random) as Made;
    functions.push({ name, way, redZone: made.redZone, breakable: made.breakable });
    pieces.push(pieceOf(name, made));
  }
  const source = `${head(seed)}\n#define ROUNDS ${rounds}\n${pieces.join("\n")}\n${main(functions)}`;
  return { source, functions };
}

/** Both versions of one function: the probe is a macro that is empty in the second. */
function pieceOf(name: string, { body, attributes = "", assembly }: Made): string {
  const plain = `__attribute__((noinline)) ${attributes} static long ${name}_plain(long a, long b, long n) {`;
  const macros = (one: string): string =>
    ["PROBE0()", "PROBE1(x)", "PROBE2(x, y)"].map((p) => `#define ${p} ${one.replace("@", p)}`).join("\n");
  const undefine = "#undef PROBE0\n#undef PROBE1\n#undef PROBE2";
  const without = `${macros("((void) 0)")}\n${plain}\n  ${body}\n}\n${undefine}`;
  if (assembly !== undefined) {
    const code = assembly.replaceAll("@NAME@", name).replace(/\s*\n\s*/g, " ");
    return `long ${name}(long a, long b, long n);
__asm__(".text; .balign 16; .type ${name}, @function; ${name}: .cfi_startproc;"
  "${code.replace(/;/g, "\\n")}\\n"
  ".cfi_endproc; .size ${name}, . - ${name}");
${without}`;
  }
  const traced = [
    `#define PROBE0() DTRACE_PROBE(redzone, ${name})`,
    `#define PROBE1(x) DTRACE_PROBE1(redzone, ${name}, x)`,
    `#define PROBE2(x, y) DTRACE_PROBE2(redzone, ${name}, x, y)`,
  ].join("\n");
  return `${traced}
__attribute__((noinline)) ${attributes} long ${name}(long a, long b, long n) {
  ${body}
}
${undefine}
${without}`;
}
