/**
 * The fork guard under verification: files that have one are found to be as they should, however they were built; and whatever
 * is changed in what a guard adds is found.
 *
 * LONG=1 builds in all ways, verifies all of the Debian packages in two layouts, and changes every instruction of a guard and
 * hundreds of bits in tables. Otherwise each compiler meets each linker once, with kinds of tables and links dealt out among these
 * eight; of the packages a program, a library, and the largest.
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { readDynamicTags } from "../../src/elf/dynamic.js";
import { type ElfImage, offsetOf, parseElf, type Section, sectionNamed } from "../../src/elf/image.js";
import { decodeInstructions } from "../../src/emulate/instruction.js";
import { InputError } from "../../src/errors.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { carriedOriginal, givenOriginal } from "../../src/verify/original.js";
import { build } from "../fixtures/build.js";
import { compilers, linkers } from "../fixtures/combinations.js";
import { corpus, corpusPath } from "../packages/corpus.js";
import { canCompile } from "../rewrite/compile.js";
import { changed, complaints, guardProblems, held, type RewrittenFile, rewritten } from "./held.js";

const LONG = process.env.LONG === "1";
const source = fileURLToPath(new URL("./guard/guarded.c", import.meta.url));

async function guarded(output: string, compiler: string, ...flags: readonly string[]): Promise<RewrittenFile> {
  const built = await build({ output, compiler, sources: [source], flags: ["-O2", "-falign-functions=1", ...flags] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  const made = rewritten(built.path, { forkGuard: true });
  expect(made.report.forkGuard).toMatchObject({ installed: true });
  return made;
}

const right = { verdict: "equivalent", reason: null };

/** What is known of an original: asked for once, however many files are held against it. */
const known = new Map<Buffer, FileFacts>();
function factsOf(original: Buffer): FileFacts {
  const facts = known.get(original) ?? new FileFacts(parseElf(original));
  known.set(original, facts);
  return facts;
}

function expectRight({ bytes, original }: RewrittenFile): void {
  // Held against the original that is given it would be asked the same again: what it carries is that, byte for byte.
  const image = parseElf(bytes);
  const [carried, given] = [
    carriedOriginal(image),
    givenOriginal(image, { bytes: original, holes: [], zeroTail: 0 }),
  ].map(({ image, ...rest }) => ({
    digest: createHash("sha256").update(image!.bytes).digest("hex"),
    ...rest,
  }));
  expect(carried).toEqual(given);
  const report = held(bytes);
  expect(complaints(report)).toEqual([]);
  expect(report.forkGuard).toEqual(right);
}

const links = {
  pie: ["-pie", "-fPIE"],
  "no-pie": ["-no-pie"],
  shared: ["-shared", "-fPIC", "-DLIBRARY"],
  "pie, bound early, stripped": ["-pie", "-fPIE", "-Wl,-z,now", "-s"],
} as const;
const ways = compilers.flatMap((compiler, c) =>
  linkers.flatMap((linker, l) =>
    (["gnu", "both", "sysv"] as const).flatMap((hash, h) =>
      Object.keys(links)
        .filter((_, k) => LONG || (h === (l + 2 * c) % 3 && k === (l + c) % 4))
        .map((link) => ({ compiler, linker, hash, link: link as keyof typeof links })),
    ),
  ),
);

describe.skipIf(!canCompile)("a guarded file is as it should be", () => {
  it.each(ways)("$compiler $linker $hash $link", async ({ compiler, linker, hash, link }) => {
    expectRight(
      await guarded("guarded", compiler, `-fuse-ld=${linker}`, `-Wl,--hash-style=${hash}`, "-w", ...links[link]),
    );
  });
});

describe("a guarded Debian package is as it should be", () => {
  const names = LONG ? (Object.keys(corpus) as (keyof typeof corpus)[]) : (["python", "libstdcxx", "libjvm"] as const);
  it.each(names)("%s", { timeout: 240_000 }, (name) => {
    for (const layout of LONG ? (["nop5", "auto"] as const) : (["nop5"] as const)) {
      const { bytes, report } = rewritten(corpusPath(corpus[name]), { layout, forkGuard: true });
      const answer = held(bytes);
      expect(complaints(answer)).toEqual([]);
      expect(answer.forkGuard).toEqual(report.forkGuard?.installed ? right : null);
      if (layout === "nop5") expect(answer.forkGuard).toEqual(right);
    }
  });
});

type Change = (bytes: Buffer, image: ElfImage) => void;

const section = (image: ElfImage, name: string): Section => {
  const found = sectionNamed(image, name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
};
/** The file offset of a named piece of new code. */
function piece(image: ElfImage, name: string): { offset: number; size: number } {
  const [table, strings] = [section(image, ".symtab"), section(image, ".strtab")];
  for (let at = table.sh_offset + 24; at < table.sh_offset + table.sh_size; at += 24) {
    const start = strings.sh_offset + image.bytes.readUInt32LE(at);
    if (image.bytes.toString("latin1", start, image.bytes.indexOf(0, start)) !== name) continue;
    const value = Number(image.bytes.readBigUInt64LE(at + 8));
    return { offset: offsetOf(image, value as never)!, size: Number(image.bytes.readBigUInt64LE(at + 16)) };
  }
  throw new Error(`no symbol ${name}`);
}
/** Puts bytes where others stand in the guard's pieces: those, and as many. */
const inPiece =
  (name: string, from: string, to: string, which = 0): Change =>
  (bytes, image) => {
    const { offset, size } = piece(image, name);
    let at = bytes.indexOf(from, offset, "hex");
    for (let i = 0; i < which; i++) at = bytes.indexOf(from, at + 1, "hex");
    if (at < offset || at >= offset + size) throw new Error(`${name} has no ${from}`);
    bytes.set(Buffer.from(to, "hex"), at);
  };
/** The value of a dynamic tag. */
const tag =
  (number: number, change: (value: bigint) => bigint): Change =>
  (bytes, image) => {
    const { valueOffset } = readDynamicTags(image).find((t) => t.d_tag === number)!;
    bytes.writeBigUInt64LE(change(bytes.readBigUInt64LE(valueOffset)), valueOffset);
  };
/** Where the branches lead that the set of harmless ones names, by how far they are from the guard's end. */
const namesOf = (toEnd: number): string =>
  toEnd < 286 ? "apart" : toEnd > 826 && toEnd < 846 ? "through mem" : "elsewhere";
/** The guard's tables stand behind its code: the first site's entry, the first page's. */
const tables = (image: ElfImage): number => {
  const { offset, size } = piece(image, "usdt_nop5.fork_guard");
  return Math.ceil((offset + size) / 8) * 8;
};
/** The relocation of a word in .bss.nop5. */
const relocation =
  (change: (bytes: Buffer, at: number) => void): Change =>
  (bytes, image) => {
    const words = section(image, ".bss.nop5").sh_addr;
    const { sh_offset, sh_size } = section(image, ".rela.dyn");
    for (let at: number = sh_offset; at < sh_offset + sh_size; at += 24)
      if (Number(bytes.readBigUInt64LE(at)) === words) return change(bytes, at);
    throw new Error("no relocation of the words");
  };
const [DT_INIT, DT_FINI, DT_RELACOUNT] = [12, 13, 0x6ffffff9];

/** What is changed, how, and what is said of it. */
const changes: readonly (readonly [what: string, change: Change, says: RegExp])[] = [
  [
    "the handler is not registered",
    (b, i) => {
      const { offset } = piece(i, "usdt_nop5.init");
      b.fill(0x90, b.indexOf("ff15", offset, "hex"), b.indexOf("ff15", offset, "hex") + 6);
    },
    /it does not register a child handler once: it calls nothing/,
  ],
  [
    "the handle is another",
    inPiece("usdt_nop5.fini", "488d3d", "488d35"),
    /takes out the handlers of another|at the end/,
  ],
  ["an argument of the initialiser is lost", inPiece("usdt_nop5.init", "5a5e5f", "5e5a5f"), /rdx is not|rsi is not/],
  ["the initialiser goes on elsewhere", inPiece("usdt_nop5.init", "5a5e5fe9", "5a5e5feb"), /at the start, /],
  ["the stack is not aligned", inPiece("usdt_nop5.fini", "4883ec08", "4883ec10"), /no multiple of 16|at the end/],
  ["no endbr64", inPiece("usdt_nop5.fork_guard", "f30f1efa", "f30f1efb"), /does not begin with endbr64/],
  ["a call is not seen", inPiece("usdt_nop5.fork_guard", "81ffe8000000", "81ffe9000000"), /does not look at the site/],
  [
    "another distance is not seen",
    inPiece("usdt_nop5.fork_guard", "81ff1f440000", "81ff1f440001"),
    /in a child, untraced: (a system call, and no site was patched|it )/,
  ],
  ["flags are lost", inPiece("usdt_nop5.fork_guard", "9dc3", "58c3"), /the flags are not what they were/],
  [
    "signals stay blocked",
    inPiece("usdt_nop5.fork_guard", "48c7c702000000", "48c7c700000000"),
    /does not restore the signals/,
  ],
  ["MADV_DONTNEED is MADV_REMOVE", inPiece("usdt_nop5.fork_guard", "48c7c204000000", "48c7c209000000"), /madvise\(/],
  ["two pages are dropped", inPiece("usdt_nop5.fork_guard", "48c7c600100000", "48c7c600200000"), /madvise\(/],
  ["mprotect for madvise", inPiece("usdt_nop5.fork_guard", "c7c01c000000", "c7c00a000000"), /system call 10/],
  [
    "a site is missing in its table",
    (b, i) => b.writeUInt32LE(0, tables(i) + 4),
    /does not look at the site|in a child/,
  ],
  [
    "a site is another in its table",
    (b, i) => b.writeUInt32LE(b.readUInt32LE(tables(i) + 8) + 1, tables(i) + 8),
    /it reads/,
  ],
  ["DT_INIT leads around the guard", tag(DT_INIT, (v) => v + 4n), /at the start|does not begin with endbr64/],
  ["DT_FINI leads nowhere", tag(DT_FINI, () => 0n), /DT_FINI is 0x0|handler stays/],
  ["DT_RELACOUNT counts the new relocation", tag(DT_RELACOUNT, (v) => v + 1n), /dynamic tag 0x6ffffff9|DT_RELACOUNT/],
  [
    "the new relocation writes to the last variable",
    relocation((b, at) => b.writeBigUInt64LE(b.readBigUInt64LE(at) - 8n, at)),
    /which is no new word/,
  ],
  [
    "the new relocation is of another symbol",
    relocation((b, at) => b.writeUInt32LE(1, at + 12)),
    /a new relocation of type 6 for/,
  ],
  [
    "the new relocation has an addend",
    relocation((b, at) => b.writeUInt32LE(1, at + 16)),
    /a new relocation of type 6 for/,
  ],
  [
    "another function is imported",
    (b, i) => {
      const { sh_offset } = section(i, ".dynstr");
      const at = b.indexOf("__register_atfork\0", sh_offset);
      b.write("__register_btfork", at);
    },
    /dynamic symbol \d+ is another|is another string/,
  ],
  [
    "something behind the name of the import",
    (b, i) => {
      const at = b.indexOf("__register_atfork\0", section(i, ".dynstr").sh_offset);
      b[at + 20] = 0x41;
    },
    /leaves something there/,
  ],
  [
    "one more word behind the variables",
    (b, i) => {
      const p = i.programHeaders.findLast((h) => h.p_type === 1 && (h.p_flags & 2) !== 0)!;
      b.writeBigUInt64LE(BigInt(p.p_memsz + 8), i.header.e_phoff + p.index * 56 + 40);
    },
    /a word that no relocation fills/,
  ],
  [
    "the section of the words is writable code",
    (b, i) => {
      const at = i.header.e_shoff + section(i, ".bss.nop5").index * 64 + 8;
      b.writeUInt32LE(b.readUInt32LE(at) | 4, at);
    },
    /\.bss\.nop5: has an unexpected header/,
  ],
  [
    "the guard's symbol ends early",
    (b, i) => {
      const { sh_offset } = section(i, ".symtab");
      const { size } = piece(i, "usdt_nop5.fork_guard");
      for (let at: number = sh_offset; ; at += 24)
        if (b.readUInt32LE(at + 16) === size) {
          b.writeUInt32LE(size - 1, at + 16);
          return;
        }
    },
    /usdt_nop5\.fork_guard does not cover/,
  ],
  [
    "int3 behind the guard",
    (b, i) => b.writeUInt8(0x90, section(i, ".text.nop5").sh_offset + section(i, ".text.nop5").sh_size - 1),
    /new code that no probe leads to/,
  ],
];

/** Likewise for a program, whose guard has handlers in the parent as well, and words for them. */
const changesInPrograms: typeof changes = [
  [
    "no handler is registered before a fork, and one behind it",
    (b, i) => {
      const { offset } = piece(i, "usdt_nop5.init");
      b.write("31ff0f1f440000", b.indexOf("488d3d", offset, "hex"), "hex");
    },
    /registers a handler on one side of a fork alone/,
  ],
  [
    "what comes before a fork and what comes behind it are the other way round",
    (b, i) => {
      const { offset } = piece(i, "usdt_nop5.init");
      const [parent, prepare] = ["488d35", "488d3d"].map((code) => b.indexOf(code, offset, "hex")) as [number, number];
      b.write("488d3d", parent, "hex");
      b.write("488d35", prepare, "hex");
    },
    /before a fork, untraced: it|before a fork, it/,
  ],
  [
    "signals that an instruction raises are blocked",
    inPiece("usdt_nop5.prepare", "c7c0d8040040", "c7c0d0040040"),
    /before a fork, traced at .*: it blocks the signals/,
  ],
  ["all is blocked but them", inPiece("usdt_nop5.prepare", "48f7d0", "4885c0"), /before a fork, traced.*it blocks/],
  ["other signals are blocked", inPiece("usdt_nop5.prepare", "4889e64889e2", "9090904889e2"), /before a fork, traced/],
  [
    "the kernel is told another size",
    inPiece("usdt_nop5.prepare", "49c7c208000000", "49c7c210000000"),
    /before a fork, traced.*a set of 16 bytes/,
  ],
  [
    "signals are blocked where nobody traces",
    inPiece("usdt_nop5.prepare", "81ff0f1f4400", "81ff0f1f4401"),
    /before a fork, untraced: /,
  ],
  [
    "a breakpoint is not seen before the fork",
    inPiece("usdt_nop5.prepare", "0f85", "0f82"),
    /before a fork, traced at .*: it takes no slot/,
  ],
  [
    "a slot is claimed without a lock",
    inPiece("usdt_nop5.prepare", "f0480fb13a", "90480fb13a"),
    /before a fork, it claims a slot without a lock/,
  ],
  ["the mask is put where the key is", inPiece("usdt_nop5.prepare", "48894208", "48890290"), /before a fork, traced/],
  [
    "one slot is never used",
    inPiece("usdt_nop5.prepare", "488d8a80000000", "488d8a70000000", 1),
    /before a fork, traced .*(takes no slot|system calls)/,
  ],
  ["a slot is never given back", inPiece("usdt_nop5.parent", "48c70200000000", "48c74200000000"), /after a fork, /],
  [
    "signals stay blocked in the parent",
    inPiece("usdt_nop5.parent", "48c7c702000000", "48c7c700000000"),
    /after a fork, it blocks|after a fork, the signals/,
  ],
  ["another's mask is given back", inPiece("usdt_nop5.parent", "488b4208", "488b4218"), /after a fork, /],
  ["the parent's flags are lost", inPiece("usdt_nop5.parent", "9dc3", "58c3"), /after a fork, the flags are not/],
  [
    "slots of other threads stay in the child",
    inPiece("usdt_nop5.fork_guard", "48c702000000004839f8", "48c742080000000039f8"),
    /in a child, /,
  ],
  [
    "what was held is not let in again in the child",
    inPiece("usdt_nop5.fork_guard", "48c7c702000000", "48c7c700000000"),
    /in a child, untraced: it blocks the signals/,
  ],
  [
    "slots that nothing uses",
    (b, i) => {
      const p = i.programHeaders.findLast((h) => h.p_type === 1 && (h.p_flags & 2) !== 0)!;
      b.writeBigUInt64LE(BigInt(p.p_memsz + 16), i.header.e_phoff + p.index * 56 + 40);
    },
    /before a fork, |after a fork, |in a child, /,
  ],
];

describe.skipIf(!canCompile)("what is changed in a guard is found", () => {
  let subject: RewrittenFile;
  let program: RewrittenFile;
  beforeAll(async () => {
    subject = await guarded("guarded.so", "gcc", ...links.shared, "-DMANY");
    program = await guarded("guarded", "gcc", ...links.pie, "-DMANY");
  });

  function expectFound({ bytes, original }: RewrittenFile, change: Change, says: RegExp): void {
    const copy = changed(bytes, change);
    expect(copy.equals(bytes)).toBe(false);
    const lines = complaints(held(copy, original));
    expect(
      lines.some((line) => says.test(line)),
      lines.join("\n"),
    ).toBe(true);
    // Whether the original is given or carried makes no difference to what is looked at: each fourth change is held against both.
    if (LONG || found++ % 4 === 0) expect(complaints(held(copy)).length).toBeGreaterThan(0);
  }
  let found = 0;

  it.each(changes)("%s", (_what, change, says) => {
    expectFound(subject, change, says);
  });

  it.each(changesInPrograms)("in a program: %s", (_what, change, says) => {
    expectFound(program, change, says);
  });

  it("a memo that tells of no guard", () => {
    const copy = changed(subject.bytes, (bytes, image) => {
      const { sh_offset, sh_size } = section(image, ".usdt_nop5");
      const carry = bytes.subarray(sh_offset, sh_offset + sh_size);
      const at = carry.indexOf('{"installed":true,"reason":null');
      expect(at).toBeGreaterThan(0);
      carry.write('{"installed":false, "reason":""', at);
      // The section's digest of itself, without its own place.
      const place = "USDTNOP5".length + 4 + 32;
      carry.fill(0, place, place + 8);
      carry.set(createHash("sha256").update(carry).digest().subarray(0, 8), place);
    });
    expect(complaints(held(copy, subject.original))).toEqual(["the memo: it tells of no fork guard, and there is one"]);
  });

  it("a guard that is said to be there, and is not", async () => {
    const built = await build({
      output: "bare.so",
      compiler: "gcc",
      sources: [source],
      flags: [...links.shared, "-O2"],
    });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    const bare = rewritten(built.path);
    expect(held(bare.bytes).forkGuard).toBeNull();
    const copy = changed(bare.bytes, (bytes, image) => {
      const { sh_offset, sh_size } = section(image, ".usdt_nop5");
      const carry = bytes.subarray(sh_offset, sh_offset + sh_size);
      const at = carry.indexOf('{"installed":false,"reason":"');
      carry.write('{"installed":true, "reason":"', at);
      const place = "USDTNOP5".length + 4 + 32;
      carry.fill(0, place, place + 8);
      carry.set(createHash("sha256").update(carry).digest().subarray(0, 8), place);
    });
    expect(complaints(held(copy, bare.original))).toEqual([
      "the memo: it tells of a fork guard, and the loader calls none",
    ]);
  });

  /**
   * What makes no difference where it is missing. The kernel keeps rdi, rsi and r10, which hold the same for the call before. No
   * page of these files is private, and the address of a site is even at times. And whether a mapping has been split is asked for nothing: a site that was mended shows no
   * breakpoint before that.
   */
  const harmless = new Set([
    "dropped: mov rdi,[rsp+0x20]",
    "dropped: mov rsi,0x1000",
    "dropped: mov rsi,rsp",
    "dropped: mov r10,8",
    "dropped: mov eax,[r8]",
    "dropped: and eax,1",
    "dropped: jne near through mem",
    "dropped: mov qword [rsp+0x18],0",
    "dropped: mov qword [rsp+0x18],1",
    "dropped: jne near apart",
  ]);

  it("an instruction that is dropped, a condition that is the opposite", { timeout: 900_000 }, () => {
    const missed = new Map<string, number>();
    let planted = 0;
    for (const [file, name] of [
      [subject, "init"],
      [subject, "fini"],
      [program, "init"],
      [program, "prepare"],
      [program, "parent"],
      [program, "fork_guard"],
    ] as const) {
      const { offset, size } = piece(parseElf(file.bytes), `usdt_nop5.${name}`);
      const facts = factsOf(file.original);
      expect(guardProblems(file.bytes, facts)).toEqual([]);
      for (let at = offset; at < offset + size; ) {
        const [instruction] = decodeInstructions(file.bytes.subarray(at, offset + size), at, 1);
        const { length, text } = instruction!;
        const [opcode, condition] = [file.bytes[at], file.bytes[at + 1]! & 0xf0];
        const faults: [string, Uint8Array][] = [["dropped", Buffer.alloc(length, 0x90)]];
        if (opcode === 0x0f && condition === 0x80)
          faults.push(["opposite", Uint8Array.of(0x0f, file.bytes[at + 1]! ^ 1)]);
        for (const [kind, bytes] of faults) {
          if (!LONG && planted++ % 41 !== 0) continue;
          const copy = changed(file.bytes, (b) => b.set(bytes, at));
          if (guardProblems(copy, facts).length > 0) continue;
          const what = `${kind}: ${text.replace(/0x0{4}.*/, namesOf(offset + size - at))}`;
          missed.set(what, (missed.get(what) ?? 0) + 1);
        }
        at += length;
      }
    }
    expect([...missed.keys()].filter((what) => !harmless.has(what))).toEqual([]);
  });

  it("a bit anywhere in tables and new code", { timeout: 900_000 }, () => {
    const { bytes, original } = subject;
    const unnoticed: string[] = [];
    const image = parseElf(bytes);
    const where = [
      ".dynsym",
      ".dynstr",
      ".gnu.version",
      ".gnu.version_r",
      ".rela.dyn",
      ".dynamic",
      ".symtab",
      ".strtab",
      ".shstrtab",
    ];
    let seed = 7;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    for (const name of where) {
      const { sh_offset, sh_size } = section(image, name);
      for (let turn = 0; turn < (LONG ? 200 : 1); turn++) {
        const at = sh_offset + random(sh_size);
        const copy = changed(bytes, (b) => b.writeUInt8(b[at]! ^ (1 << random(8)), at));
        try {
          if (complaints(held(copy, original)).length === 0) unnoticed.push(`${name} + ${at - sh_offset}`);
        } catch (error) {
          if (!(error instanceof InputError)) throw error;
        }
      }
    }
    expect(unnoticed).toEqual([]);
  });
});

describe.skipIf(!canCompile)("a page that the loader writes to", () => {
  it("is not to be dropped", async () => {
    const made = await guarded("textrel.so", "gcc", ...links.shared, "-DTEXTREL", "-Wl,-z,notext", "-w");
    expectRight(made);
    // The flag of the page in the guard's table.
    const image = parseElf(made.bytes);
    const start = tables(image);
    const entry = made.bytes.indexOf(Buffer.of(0x03, 0, 0, 0), start);
    expect(entry).toBeGreaterThan(start);
    const copy = changed(made.bytes, (bytes) => bytes.writeUInt8(0x02, entry));
    expect(complaints(held(copy, made.original))).toContainEqual(
      expect.stringMatching(/MADV_[A-Z]+ on a page that has other bytes than the file/),
    );
  });
});

const forks = fileURLToPath(new URL("./guard/forks.c", import.meta.url));

async function forking(flags: readonly string[]): Promise<RewrittenFile> {
  const built = await build({ output: "forks", compiler: "gcc", sources: [forks], flags: ["-O2", ...flags] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  const made = rewritten(built.path, { forkGuard: true });
  expect(made.report.forkGuard).toMatchObject({ installed: true });
  return made;
}

const all = ["-DUFORK", "-DSYSC", "-DCLONE"];

describe.skipIf(!canCompile)("ways to fork that lead through new code", () => {
  it.each([
    ["imports", all],
    ["imports, bound early, without a table of jumps", [...all, "-fno-plt", "-Wl,-z,now"]],
    ["imports, bound lazily", [...all, "-no-pie", "-Wl,-z,lazy"]],
    ["system calls of a static program", ["-static"]],
    ["system calls of a static program that may stand anywhere", [...all, "-static-pie"]],
    ["system calls beside instructions that move along", ["-DLED", "-static"]],
  ])("%s", { timeout: 300_000 }, async (_what, flags) => {
    expectRight(await forking(flags));
  });

  /** Each occurrence of some bytes in new code, with others in their place; how many there were. */
  function planted({ bytes, original }: RewrittenFile, from: string, to: string): number {
    const facts = factsOf(original);
    expect(guardProblems(bytes, facts)).toEqual([]);
    const { sh_offset, sh_size } = section(parseElf(bytes), ".text.nop5");
    let count = 0;
    for (let at = bytes.indexOf(from, sh_offset, "hex"); at >= 0 && at < sh_offset + sh_size; ) {
      const copy = changed(bytes, (b) => b.set(Buffer.from(to, "hex"), at));
      expect(guardProblems(copy, facts), `${from} at ${at - sh_offset}`).not.toEqual([]);
      count++;
      at = bytes.indexOf(from, at + 1, "hex");
    }
    return count;
  }

  it("and do not lead there as they should", { timeout: 300_000 }, async () => {
    const imports = await forking(all);
    // test eax, eax; jne: the parent runs the handler, and the child does not.
    expect(planted(imports, "85c00f85", "85c00f84")).toBeGreaterThan(0);
    // cmp edi, SYS_clone
    expect(planted(imports, "81ff38000000", "81ff39000000")).toBe(1);
    // and eax, CLONE_VM
    expect(planted(imports, "81e000010000", "81e000020000")).toBe(1);
    const calls = await forking([...all, "-static-pie"]);
    // mov rcx, rax: the child's answer; lea rsp, [rsp-128]: the red zone; lea ecx, [rax-57]
    expect(planted(calls, "4889c1e3", "4889c9e3")).toBeGreaterThan(0);
    expect(planted(calls, "488d642480e8", "488d642488e8")).toBeGreaterThan(0);
    expect(planted(calls, "8d48c7e3", "8d48c5e3")).toBeGreaterThan(0);
    for (const flags of LONG ? ["-static", "-static-pie"] : ["-static"]) {
      const led = await forking(["-DLED", flags]);
      // mov [rsi+16], rsi: elsewhere, another register, read and not written, not at all
      for (const other of ["48897618", "48897e10", "488b7610", "0f1f4000"])
        expect(planted(led, "48897610", other)).toBe(1);
      // add [rsi+8], rax: elsewhere, another flag
      for (const other of ["48014610", "48294608"]) expect(planted(led, "48014608", other)).toBe(1);
    }
  });
});
