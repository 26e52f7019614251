/**
 * vDSOs for a selector's code to look at: those of kernels, and damaged ones. Two pages, as Linux maps them: the headers,
 * tables that do not matter here, notes, code.
 *
 * A kernel's own note has the owner "Linux", the type 0, and LINUX_VERSION_CODE: major << 16, minor << 8, and the
 * sublevel, 255 where that is more. The selector is 1 from 6.18.0 on and before 7.2.0.
 */
import { PAGE_SIZE } from "../../address.js";
import * as elf from "../../elf/constants.js";

export interface Vdso {
  readonly name: string;
  readonly bytes: Buffer;
  /** What a selector has to be where the code can find it. */
  readonly selector: 0 | 1;
}

interface Note {
  readonly owner: string;
  readonly type: number;
  readonly description: Uint8Array;
}

const NOTES_AT = 0x5a8;
const SIZE = 2 * PAGE_SIZE;
/** e_phoff, e_phentsize, e_phnum, and where the program header of the notes stands. */
const E_PHOFF = 32;
const E_PHENTSIZE = 54;
const E_PHNUM = 56;
const NOTE_HEADER = elf.EHDR_SIZE + 2 * elf.PHDR_SIZE;
const P_OFFSET = NOTE_HEADER + 8;
const P_FILESZ = NOTE_HEADER + 32;

const dword = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

const padded = (bytes: Uint8Array): Buffer => Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);

function encodeNote({ owner, type, description }: Note): Buffer {
  const name = Buffer.from(`${owner}\0`, "latin1");
  return Buffer.concat([dword(name.length), dword(description.length), dword(type), padded(name), padded(description)]);
}

function withNotes(notes: Uint8Array): Buffer {
  const bytes = Buffer.alloc(SIZE);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  bytes.writeUInt16LE(elf.ET_DYN, 16);
  bytes.writeUInt16LE(elf.EM_X86_64, 18);
  bytes.writeUInt32LE(1, 20);
  bytes.writeBigUInt64LE(BigInt(elf.EHDR_SIZE), E_PHOFF);
  bytes.writeUInt16LE(elf.EHDR_SIZE, 52);
  bytes.writeUInt16LE(elf.PHDR_SIZE, E_PHENTSIZE);
  bytes.writeUInt16LE(4, E_PHNUM);
  const headers = [
    [elf.PT_LOAD, 0, 0x1522],
    [elf.PT_DYNAMIC, 0x440, 0x140],
    [elf.PT_NOTE, NOTES_AT, notes.length],
    [elf.PT_GNU_EH_FRAME, 0x660, 0x44],
  ] as const;
  headers.forEach(([type, offset, size], i) => {
    const at = elf.EHDR_SIZE + i * elf.PHDR_SIZE;
    bytes.writeUInt32LE(type, at);
    for (const field of [8, 16, 24]) bytes.writeBigUInt64LE(BigInt(offset), at + field);
    for (const field of [32, 40]) bytes.writeBigUInt64LE(BigInt(size), at + field);
  });
  bytes.set(notes, NOTES_AT);
  return bytes;
}

const salt: Note = { owner: "Linux", type: 0x100, description: Buffer.from("6.18.44-generic.x86_64\0") };
const buildId: Note = { owner: "GNU", type: 3, description: Buffer.alloc(20, 0xab) };
/** The same owner's length, type and size as the kernel's note. */
const another: Note = { owner: "Lanux", type: 0, description: dword(0x061200) };

const versionNote = (code: number): Note => ({ owner: "Linux", type: 0, description: dword(code) });

const notesOf = (code: number, order: "first" | "last" = "first"): Buffer => {
  const own = versionNote(code);
  const notes = order === "first" ? [own, salt, buildId] : [buildId, another, salt, own];
  return Buffer.concat(notes.map(encodeNote));
};

const versionCode = (major: number, minor: number, sublevel: number): number =>
  (major << 16) | (minor << 8) | Math.min(sublevel, 255);

const versions = [
  [4, 19, 0, 0],
  [5, 10, 252, 0],
  [6, 12, 30, 0],
  [6, 17, 0, 0],
  [6, 17, 255, 0],
  [6, 18, 0, 1],
  [6, 18, 300, 1],
  [6, 19, 0, 1],
  [7, 0, 3, 1],
  [7, 1, 0, 1],
  [7, 1, 255, 1],
  [7, 2, 0, 0],
  [7, 3, 4, 0],
  [8, 0, 0, 0],
  [6, 255, 255, 1],
] as const;

const ofVersion = (
  [major, minor, sublevel, selector]: (typeof versions)[number],
  order: "first" | "last" = "first",
): Vdso => ({
  name: `${major}.${minor}.${sublevel}${order === "last" ? ", after other notes" : ""}`,
  bytes: withNotes(notesOf(versionCode(major, minor, sublevel), order)),
  selector,
});

/** Those of kernels. */
export const kernels: readonly Vdso[] = [
  ...versions.map((version) => ofVersion(version)),
  ...versions.filter(([major]) => major >= 6).map((version) => ofVersion(version, "last")),
];

/** The first on which the selector is 1, and the first on which it is not any more. */
export const SELECTED: Vdso = ofVersion([6, 18, 0, 1]);
export const NOT_SELECTED: Vdso = ofVersion([7, 2, 0, 0]);

const YES = versionCode(6, 18, 0);

/** A vDSO of 6.18 that was damaged, from which nothing may be taken. */
function damaged(name: string, damage: (bytes: Buffer) => void, notes: Uint8Array = notesOf(YES)): Vdso {
  const bytes = withNotes(notes);
  damage(bytes);
  return { name, bytes, selector: 0 };
}

const none = (): void => {};
const notes = (name: string, ...parts: readonly Uint8Array[]): Vdso => damaged(name, none, Buffer.concat(parts));
const header = (namesz: number, descsz: number, type: number): Buffer =>
  Buffer.concat([dword(namesz), dword(descsz), dword(type)]);
const HUGE = 2n ** 63n;

/** From which nothing may be taken, and at which nobody may stumble. */
export const damagedOnes: readonly Vdso[] = [
  damaged("no ELF file", (b) => b.set([0x7f, 0x45, 0x4c, 0x47])),
  damaged("nothing but zeros", (b) => b.fill(0)),
  damaged("nothing but ones", (b) => b.fill(0xff)),
  damaged("program headers of another size", (b) => b.writeUInt16LE(32, E_PHENTSIZE)),
  damaged("no program headers", (b) => b.writeUInt16LE(0, E_PHNUM)),
  damaged("65,535 program headers, none of notes", (b) => {
    b.writeUInt16LE(0xffff, E_PHNUM);
    b.writeUInt32LE(elf.PT_LOAD, NOTE_HEADER);
  }),
  damaged("program headers after its end", (b) => b.writeBigUInt64LE(BigInt(SIZE), E_PHOFF)),
  damaged("program headers far away", (b) => b.writeBigUInt64LE(HUGE, E_PHOFF)),
  damaged("program headers before its start", (b) => b.writeBigUInt64LE(2n ** 64n - 4096n, E_PHOFF)),
  damaged("no notes", (b) => b.writeUInt32LE(elf.PT_LOAD, NOTE_HEADER)),
  damaged("notes after its end", (b) => b.writeBigUInt64LE(BigInt(SIZE), P_OFFSET)),
  damaged("notes that begin at its last bytes", (b) => b.writeBigUInt64LE(BigInt(SIZE - 4), P_OFFSET)),
  damaged("notes far away", (b) => b.writeBigUInt64LE(HUGE, P_OFFSET)),
  damaged("notes before its start", (b) => b.writeBigUInt64LE(2n ** 64n - 4096n, P_OFFSET)),
  damaged("notes without an end", (b) => b.writeBigUInt64LE(HUGE, P_FILESZ), encodeNote(buildId)),
  damaged(
    "notes that end before they begin",
    (b) => b.writeBigUInt64LE(2n ** 64n - 16n, P_FILESZ),
    encodeNote(buildId),
  ),
  damaged("no bytes of notes", (b) => b.writeBigUInt64LE(0n, P_FILESZ)),
  damaged("notes that end within the kernel's", (b) => b.writeBigUInt64LE(20n, P_FILESZ)),
  damaged("notes that end within a header", (b) => b.writeBigUInt64LE(11n, P_FILESZ)),
  notes("a name of 4 GiB", header(0xffffffff, 4, 0), Buffer.from("Linux\0\0\0"), dword(YES)),
  notes("a note of 4 GiB", header(6, 0xfffffffc, 0), Buffer.from("Linux\0\0\0"), dword(YES)),
  notes("a note whose size is none", header(0xfffffffc, 0xfffffff8, 1), encodeNote(versionNote(YES))),
  notes("notes that lead back", header(0xfffffff0, 4, 1), encodeNote(versionNote(YES))),
  notes("empty notes without an end", Buffer.alloc(600)),
  notes("another owner", encodeNote({ ...versionNote(YES), owner: "Linuz" })),
  notes("an owner without a NUL", header(6, 4, 0), Buffer.from("Linuxx\0\0"), dword(YES)),
  notes("an owner that goes on", encodeNote({ ...versionNote(YES), owner: "Linux kernel" })),
  notes("another type", encodeNote({ ...versionNote(YES), type: 1 })),
  notes("another size", encodeNote({ ...versionNote(YES), description: Buffer.concat([dword(YES), dword(YES)]) })),
];
