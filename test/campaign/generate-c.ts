/**
 * Functions in C: switches, and computed gotos by tables of every element type, for gcc and clang with their options. What is
 * unusual here is made by the compiler: by its code model, its retpolines, its optimization.
 */
import { type GeneratedFunction, plain } from "./function.js";
import { odd } from "./generate-c-odd.js";
import type { Random } from "./random.js";

/** One step of a block, on x. */
function step(random: Random): string {
  const k = random.between(1, 200);
  return random.pick([
    `x += ${k};`,
    `x ^= ${k};`,
    "x++;",
    `x *= ${k | 1};`,
    "x = -x;",
    "x += m[0];",
    "m[1] += x;",
    "x += x >> 3;",
    "m[2]++;",
    `if (x & 1) x += ${k};`,
    "x += (int)s;",
    "m[3] ^= x;",
  ]);
}

class Sites {
  count = 0;
  constructor(
    readonly name: string,
    readonly random: Random,
  ) {}
  next(): string {
    const name = `${this.name}_${this.count++}`;
    return this.random.pick([
      `DTRACE_PROBE(app, ${name});`,
      `DTRACE_PROBE(app, ${name});`,
      `DTRACE_PROBE1(app, ${name}, x);`,
      `DTRACE_PROBE2(app, ${name}, x, s);`,
    ]);
  }
}

const head = (name: string): string =>
  `__attribute__((noinline, noclone)) long ${name}(long s, long x0, long *m) {\n  int x = (int)x0;\n`;
const headClang = (text: string): string => text.replaceAll("noinline, noclone", "noinline");

/** Blocks that run into one another, now and then not. */
function blocks(random: Random, sites: Sites, count: number, label: (i: number) => string, leave: string): string {
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    lines.push(`  ${label(i)} ${step(random)}`);
    if (random.chance(0.3)) lines.push(`    ${step(random)}`);
    if (i === 0 || random.chance(0.8)) lines.push(`    ${sites.next()}`);
    if (random.chance(0.2)) lines.push(`    ${step(random)} ${leave}`);
  }
  return lines.join("\n");
}

type Generator = (name: string, random: Random, sites: Sites) => { text: string; selectors: number; table: string };

const switchOf: Generator = (name, random, sites) => {
  const count = random.between(5, 10);
  const type = random.pick(["long", "int", "unsigned char", "short", "unsigned"]);
  const stride = random.pick([1, 1, 1, 2, 40]);
  const body = blocks(random, sites, count, (i) => `case ${i * stride}:`, "break;");
  const text = `${head(name)}  switch ((${type})(s * ${stride})) {\n${body}\n  default: x += 9;\n  }\n  return x;\n}\n`;
  return { text, selectors: count + 1, table: `switch ${type}` };
};

/** Types of a computed goto's table: how it is written, and how the target is made of an element. */
const gotoTables: Readonly<Record<string, readonly [string, (element: string) => string]>> = {
  "void *": ["void *const", (e) => e],
  "void * writable": ["void *", (e) => e],
  int: ["const int", (e) => `&&l0 + ${e}`],
  "int writable": ["int", (e) => `&&l0 + ${e}`],
  short: ["const short", (e) => `&&l0 + ${e}`],
  "unsigned short": ["const unsigned short", (e) => `&&l0 + ${e}`],
  char: ["const signed char", (e) => `&&l0 + ${e}`],
  long: ["const long", (e) => `&&l0 + ${e}`],
  "unsigned int": ["const unsigned", (e) => `&&l0 + ${e}`],
};

const gotoOf: Generator = (name, random, sites) => {
  const count = random.between(3, 6);
  const kind = random.pick(Object.keys(gotoTables));
  const [type, target] = gotoTables[kind]!;
  const pointers = kind.startsWith("void");
  const packed = random.chance(0.25);
  const values = Array.from({ length: count }, (_, i) => (pointers ? `&&l${i}` : `&&l${i} - &&l0`));
  const element = packed ? "t[s].off" : "t[s]";
  // One that is no static is copied to the stack each time.
  const kept = random.chance(0.85) ? "static " : "";
  const table = packed
    ? `  ${kept}${pointers ? "" : "const "}struct __attribute__((packed)) { char op; ${type.replace("const ", "").replace("*const", "*")} off; } t[] = { ${values.map((v, i) => `{${i}, ${v}}`).join(", ")} };`
    : `  ${kept}${type} t[] = { ${values.join(", ")} };`;
  const spill = random.chance(0.3);
  const way = spill
    ? ""
    : random.pick([
        "",
        "",
        "",
        "p = same(p);",
        "kept = p; other(m); p = kept;",
        "m[15] = (long)p; other(m); p = (void *)m[15]; m[15] = 0;",
      ]);
  const between = random.chance(0.4)
    ? `  ${random.pick(["if (x & 1) x += 3; else x -= 5;", "for (int i = 0; i < 3; i++) x += m[i];", "other(m);"])}\n`
    : "";
  const long = spill
    ? `  long ${Array.from({ length: 13 }, (_, i) => `r${i} = m[${i}]`).join(", ")};\n  for (int i = 0; i < three; i++) { ${Array.from({ length: 13 }, (_, i) => `r${i} ${random.pick(["+=", "^="])} r${(i + 1) % 13} ${random.pick(["^ i", "* 3", "+ i"])};`).join(" ")} }\n  x += ${Array.from({ length: 13 }, (_, i) => `r${i}`).join(" ^ ")};\n`
    : "";
  const body = blocks(random, sites, count, (i) => `l${i}:`, "goto out;");
  const looping = !spill && random.chance(0.25);
  const again = looping ? `  if (turns++ < 2) { s = (s + 1) % ${count}; goto *(${target(element)}); }\n` : "";
  const text = `${head(name)}${table}\n${looping ? "  int turns = 0;\n" : ""}  void *p = ${target(element)};\n${long}${between}  ${way}\n  goto *p;\n${body}\n  out:\n${again}  return x;\n}\n`;
  return {
    text,
    selectors: count,
    table: `goto ${kind}${packed ? " packed" : ""}${spill ? " spilled" : way === "" ? "" : " carried"}${kept === "" ? " on the stack" : ""}`,
  };
};

const straight: Generator = (name, random, sites) => {
  const lines = Array.from({ length: random.between(2, 6) }, () => {
    const one = `${step(random)} ${sites.next()}`;
    const round = `for (int i = 0; i < 3; i++) { ${step(random)} ${sites.next()} }`;
    return `  ${random.pick([one, one, `if (s == ${random.between(0, 2)}) { ${one} }`, round, `x += other(m); ${sites.next()}`])}`;
  });
  return { text: `${head(name)}${lines.join("\n")}\n  return x;\n}\n`, selectors: 3, table: "none" };
};

/** Compilers with options: which make a plain switch or goto unusual. */
export interface Build {
  readonly compiler: "gcc" | "clang" | "g++";
  readonly options: readonly string[];
  /** In a word, for the table; - where it is what everybody uses. */
  readonly unusual: string;
  readonly links: readonly ("pie" | "no-pie" | "shared" | "static")[];
}

const everywhere = ["pie", "no-pie", "shared"] as const;
const build = (
  compiler: Build["compiler"],
  unusual: string,
  options: string,
  links: Build["links"] = everywhere,
): Build => ({
  compiler,
  unusual,
  options: options.split(" ").filter((option) => option !== ""),
  links,
});

export const builds: readonly Build[] = [
  build("gcc", "-", ""),
  build("clang", "-", ""),
  build("gcc", "-", "-fcf-protection"),
  build("gcc", "-", "-fno-asynchronous-unwind-tables"),
  build("gcc", "-", "-ffunction-sections -mno-red-zone"),
  build("gcc", "static", "", ["static"]),
  build("gcc", "retpoline", "-mindirect-branch=thunk -fjump-tables -fcf-protection=none"),
  build("gcc", "retpoline inline", "-mindirect-branch=thunk-inline -fjump-tables -fcf-protection=none"),
  build(
    "gcc",
    "retpoline and returns",
    "-mindirect-branch=thunk -mfunction-return=thunk -fjump-tables -fcf-protection=none",
  ),
  build("clang", "retpoline", "-mretpoline"),
  build("gcc", "model medium", "-mcmodel=medium"),
  build("gcc", "model large", "-mcmodel=large"),
  build("clang", "model medium", "-mcmodel=medium"),
  build("clang", "model large", "-mcmodel=large"),
  build("gcc", "lto", "-flto"),
  build("gcc", "-", "-fuse-ld=lld"),
  build("gcc", "-", "-fuse-ld=gold"),
  build("gcc", "-", "-Wl,--emit-relocs -Wl,-z,now"),
  build("clang", "-", "-fuse-ld=lld -ffunction-sections -Wl,--gc-sections -Wl,-z,nostart-stop-gc"),
  build("clang", "lto", "-flto -fuse-ld=lld"),
  build("gcc", "partitioned", "-freorder-blocks-and-partition -funroll-loops"),
  build("gcc", "-", "-march=x86-64-v3"),
  build("gcc", "model kernel", "-mcmodel=kernel", ["no-pie"]),
  build("gcc", "frame pointer, no tables", "-fno-jump-tables -fno-omit-frame-pointer"),
];

/** One that is entered by other means; every compiler has some. */
function inOdd(name: string, random: Random, made: Build, language: "c" | "c++"): GeneratedFunction {
  const sites = new Sites(name, random);
  const kind = random.pick(Object.keys(odd).filter((key) => odd[key]!.compilers.includes(made.compiler)));
  const { write, unusual, selectors } = odd[kind]!;
  const start = language === "c++" ? `extern "C" ${head(name)}` : head(name);
  const text = write(
    start,
    () => step(random),
    () => sites.next(),
    random,
  );
  return {
    name,
    kinds: {
      ...plain,
      language,
      base: "compiler",
      combine: made.compiler,
      leave: made.unusual === "-" ? "-" : `${made.compiler} ${made.unusual}`,
      special: kind,
    },
    unusual: unusual + (made.unusual === "-" ? 0 : 1),
    assumption: null,
    selectors,
    text: made.compiler === "clang" ? headClang(text) : text,
  };
}

export function inC(name: string, random: Random, made: Build): GeneratedFunction {
  if (random.chance(0.25)) return inOdd(name, random, made, "c");
  const sites = new Sites(name, random);
  const generator = random.pick([switchOf, switchOf, gotoOf, gotoOf, straight]);
  const { text, selectors, table } = generator(name, random, sites);
  // Tables of addresses and switches are what compilers are made for; distances by the thousand are not.
  const special = generator === gotoOf && !table.startsWith("goto void *");
  const byBuild = made.unusual !== "-" ? 1 : 0;
  return {
    name,
    kinds: {
      ...plain,
      language: "c",
      base: "compiler",
      table,
      combine: made.compiler,
      leave: made.unusual === "-" ? "-" : `${made.compiler} ${made.unusual}`,
    },
    unusual:
      byBuild +
      (special ||
      table.includes("packed") ||
      table.includes("spilled") ||
      table.includes("carried") ||
      table.includes("stack")
        ? 1
        : 0),
    assumption: null,
    selectors,
    text: made.compiler === "clang" ? headClang(text) : text,
  };
}

/** C++: exceptions, whose landing pads are entered by the unwinder. */
export function inCpp(name: string, random: Random, made: Build): GeneratedFunction {
  if (random.chance(0.5)) return inOdd(name, random, made, "c++");
  const sites = new Sites(name, random);
  const part = (): string => `${step(random)} ${random.chance(0.7) ? sites.next() : ""}`;
  const text = `${head(name).replace("long ", 'extern "C" long ')}  try {
    ${part()} raise(s, x); ${sites.next()} ${part()}
  } catch (int e) { ${part()} x += e; ${part()}
  } catch (const char *) { ${sites.next()} ${part()} }
  ${random.chance(0.5) ? `{ Keeper k(m); ${part()} try { raise(s - 1, x); ${part()} } catch (...) { ${part()} } }` : part()}
  return x;\n}\n`;
  return {
    name,
    kinds: { ...plain, language: "c++", base: "compiler", combine: "g++", special: "landing pads" },
    unusual: 0,
    assumption: null,
    selectors: 4,
    text: text.replace(
      '__attribute__((noinline, noclone)) extern "C" long',
      'extern "C" __attribute__((noinline, noclone)) long',
    ),
  };
}
