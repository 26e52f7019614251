/**
 * Damaged files by design: a mutant is a file in which some fields of one table hold what sizes, offsets and counts go
 * wrong with, or whose elements stand for each other. Which table, what is done, and with which values depends on the seed
 * alone, so that a finding is a number.
 */
import * as elf from "../../src/elf/constants.js";
import { parseElf, type Section } from "../../src/elf/image.js";
import { sealCarry } from "../../src/rewritten/carry.js";
import { generator } from "./random.js";
import { type Field, type Table, tablesOf } from "./tables.js";

export interface Mutant {
  readonly bytes: Buffer;
  /** Which table was damaged, and how. */
  readonly table: string;
  readonly changes: readonly string[];
}

/** A file to be damaged, read once. An object file is none that can be read: its header is all that is known. */
export interface Damageable {
  readonly bytes: Buffer;
  readonly tables: readonly Table[];
  readonly sections: readonly Section[];
  readonly carry: Section | undefined;
}

export function damageable(bytes: Buffer): Damageable {
  const image = bytes.readUInt16LE(16) === elf.ET_REL ? undefined : parseElf(bytes);
  const words = Array.from({ length: 8 }, (_, i) => ({ at: i * 8, width: 8 }));
  const header: Table = { name: "file header", offset: 0, size: 64, content: "words", count: 1, element: () => words };
  return {
    bytes,
    tables: image === undefined ? [header] : tablesOf(image),
    sections: image?.sections ?? [],
    carry: image?.sections.find(({ name }) => name === ".usdt_nop5"),
  };
}

/** What is drawn from, and what is written to. */
class Draw {
  readonly changes: string[] = [];

  constructor(
    readonly file: Damageable,
    readonly table: Table,
    public bytes: Buffer,
    readonly next: (below: number) => number,
  ) {}

  pick<T>(all: readonly T[]): T {
    return all[this.next(all.length)]!;
  }

  /** Tables go wrong at their ends more than in between. */
  element(): readonly Field[] {
    const { count } = this.table;
    const [at, end] = [this.next(count), this.next(6)];
    return this.table.element(end === 0 ? 0 : end === 1 ? count - 1 : at);
  }

  field(): Field {
    return this.pick(this.element());
  }

  write({ at, width }: Field, value: bigint): void {
    const cut = BigInt.asUintN(8 * width, value);
    for (let i = 0; i < width && at + i < this.bytes.length; i++)
      this.bytes[at + i] = Number((cut >> BigInt(8 * i)) & 0xffn);
    this.changes.push(`+0x${(at - this.table.offset).toString(16)} ${width}:0x${cut.toString(16)}`);
  }

  put(at: number, bytes: Uint8Array): void {
    bytes.forEach((byte, i) => {
      if (at + i < this.table.offset + this.table.size) this.bytes[at + i] = byte;
    });
    this.changes.push(`+0x${(at - this.table.offset).toString(16)} = ${Buffer.from(bytes).toString("hex")}`);
  }

  read({ at, width }: Field): bigint {
    let value = 0n;
    for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[at + i] ?? 0);
    return value;
  }
}

const LARGE = [31n, 32n, 53n, 63n, 64n].flatMap((power) => [2n ** power - 1n, 2n ** power, 2n ** power - 4096n]);

function value(draw: Draw, field: Field): bigint {
  const { next, file, bytes } = draw;
  const here = draw.read(field);
  const other = draw.read(draw.field());
  const section = file.sections.length === 0 ? undefined : draw.pick(file.sections);
  const near = (number: number): bigint => BigInt(number + next(17) - 8);
  return draw.pick<() => bigint>([
    () => BigInt(next(4)),
    () => draw.pick(LARGE),
    () => -draw.pick(LARGE.slice(0, 6)),
    () => BigInt(next(256)),
    () => other,
    () => other + BigInt(next(33) - 16),
    () => here + BigInt(next(33) - 16),
    () => here ^ (1n << BigInt(next(8 * field.width))),
    () => near(section?.sh_addr ?? 0),
    () => near(section?.sh_offset ?? 0),
    () => near(section?.sh_size ?? 0),
    () => near(bytes.length),
    // Relative to where it stands: to itself, to the table's beginning, to another section.
    () => near(draw.table.offset - field.at),
    () => near((section?.sh_offset ?? 0) - field.at),
    () => 0n,
  ])();
}

type Damage = (draw: Draw) => void;

const fields: Damage = (draw) => {
  for (let n = 1 + draw.next(3); n > 0; n--) {
    const field = draw.field();
    draw.write(field, value(draw, field));
  }
};

/** All numbers of an element at once: counts that multiply, ranges that go round. */
const wholeElement: Damage = (draw) => {
  const large = draw.pick([...LARGE, BigInt(draw.bytes.length), BigInt(draw.bytes.length >> 1), 0x10000n]);
  for (const field of draw
    .element()
    .filter(() => draw.next(3) > 0)
    .slice(0, 8))
    draw.write(field, large);
};

/** One element stands for another as well, or they change places. */
const twice: Damage = (draw) => {
  const [one, other] = [draw.element(), draw.element()];
  const values = one.map((field) => draw.read(field));
  if (draw.next(3) === 0) one.forEach((field, i) => void (other[i] && draw.write(field, draw.read(other[i]))));
  other.forEach((field, i) => void (values[i] !== undefined && draw.write(field, values[i])));
};

/** Some fields of an element are those of another, or a little more: ranges that overlap, names that are the same. */
const overlapping: Damage = (draw) => {
  const [one, other] = [draw.element(), draw.element()];
  const by = BigInt(draw.pick([0, 0, 1, 2, 4, 5, 8, 16, 0x1000, -1, -4, -8]));
  one.forEach((field, i) => {
    if (other[i] !== undefined && draw.next(2) === 0) draw.write(field, draw.read(other[i]) + by);
  });
};

/** Numbers of seven bits a byte that do not end, or are larger than any. */
const endless: Damage = (draw) => {
  const run = Buffer.alloc(1 + draw.next(12), draw.pick([0xff, 0x80, 0x81]));
  if (draw.next(2) === 0) run[run.length - 1] = draw.pick([0x7f, 0, 1, 0x40]);
  draw.put(draw.field().at, run);
};

const TEXTS = [
  "\x1b[31m",
  "\n",
  "\r\n",
  "\t",
  "%n%s",
  "\u202e",
  "\u200b\ufeff",
  "\xff\xfe",
  "../../x",
  "*",
  "a:b:c",
  "",
  "\0\0\0\0",
  "8@%rdi",
  "-4@$99999999999999999999",
  "16@(%rsp)",
  "8@-9223372036854775808(%rbp)",
  "8@%rsp -8@8(%rsp)",
  "8f@%xmm0",
  "4@x+4(%rip)",
  "1@(%rax,%rbx,8)",
  "stapsdt",
  "GNU",
  "@",
  " ",
  "A".repeat(200),
].map((text) => Buffer.from(text));

const text: Damage = (draw) => draw.put(draw.table.offset + draw.next(draw.table.size), draw.pick(TEXTS));

/** The file is shorter, or longer, than its headers say. */
const length: Damage = (draw) => {
  const end = draw.pick([
    draw.field().at,
    draw.table.offset + draw.table.size,
    draw.bytes.length - draw.next(64),
    draw.next(64),
  ]);
  const more = draw.next(4) === 0;
  draw.bytes = more
    ? Buffer.concat([draw.bytes, Buffer.alloc(1 + draw.next(5000), draw.next(256))])
    : draw.bytes.subarray(0, end);
  draw.changes.push(`${draw.bytes.length} bytes long`);
};

/** What can be done to a table, and how often. */
function damages({ content, name }: Table): readonly Damage[] {
  const often = [fields, fields, fields, fields, fields, fields];
  const rare = [length];
  if (content === "text") return [fields, text, text, text, text, text, text, ...rare];
  if (content === "numbers") return [...often, endless, endless, endless, text, ...rare];
  const records = [wholeElement, twice, twice, overlapping, overlapping];
  return [...often, ...records, ...rare, ...(/note|eh_frame/.test(name) ? [text, endless] : [])];
}

/**
 * What a file carries is believed only where its hashes fit: of half the mutants of such a file they do.
 * @param bytes is changed
 */
function seal(bytes: Buffer, { sh_offset, sh_size }: Section): void {
  const carry = bytes.subarray(sh_offset, sh_offset + sh_size);
  if (carry.length < 128) return;
  // The hash is of the file with the two hashes zero.
  carry.fill(0, 12, 52);
  sealCarry(carry, sh_offset, { size: bytes.length, pieces: [{ offset: 0, bytes }] });
}

/**
 * The mutant of a seed.
 * @param only damages this table
 */
export function mutantOf(file: Damageable, seed: number, only?: string): Mutant {
  const next = generator(seed);
  const tables = file.tables.filter(({ name }) => only === undefined || name === only);
  const table = tables[next(tables.length)]!;
  const draw = new Draw(file, table, Buffer.from(file.bytes), next);
  draw.pick(damages(table))(draw);
  if (file.carry !== undefined && next(2) === 0) {
    seal(draw.bytes, file.carry);
    draw.changes.push("sealed");
  }
  return { bytes: draw.bytes, table: table.name, changes: draw.changes };
}
