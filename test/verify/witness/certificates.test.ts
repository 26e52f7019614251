/**
 * What a rewritten file claims of its functions: the witness finds it borne out as it is written, and notices each kind of
 * change to it. A claim that is missing leaves the function unproved, a false one makes it different.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { type Vaddr, vaddr } from "../../../src/address.js";
import { type ElfImage, parseElf, sectionNamed } from "../../../src/elf/image.js";
import { readCarry, sealCarry } from "../../../src/rewritten/carry.js";
import {
  type Certificate,
  type Claim,
  decodeCertificates,
  encodeCertificates,
  type Transfer,
} from "../../../src/rewritten/certificate.js";
import { CARRY_SECTION } from "../../../src/rewritten/section-names.js";
import { readUsdtNotes } from "../../../src/usdt/notes.js";
import { examine } from "../../../src/verify/witness/witness.js";
import { canCompile, compile } from "../../rewrite/compile.js";
import { held, rewriteFile } from "../held.js";

const folder = fileURLToPath(new URL("./programs/", import.meta.url));

/** A probe in a function with a switch, a jump to an address that it makes, and a call of a pointer. */
const source = `.include "p.inc"
FN held
 push %rbx
 mov %rsi,%rbx
 cmp $1,%edi
 ja .Lc
 lea .Lt(%rip),%rdx
 movslq (%rdx,%rdi,4),%rcx
 add %rdx,%rcx
 jmp *%rcx
.La: mov $1,%eax
 lea .Lc(%rip),%rcx
 jmp *%rcx
.Lb: mov $2,%eax
 SITE hit
 add $3,%eax
 add $4,%eax
.Lc: call *%rbx
 pop %rbx
 ret
EFN held
.section .rodata
.balign 4
.Lt: .long .La-.Lt, .Lb-.Lt
FN main
 xor %eax,%eax
 ret
EFN main
`;

let rewritten: Buffer;
let image: ElfImage;
let site: Vaddr;
let whole: Certificate;

/** The rewritten file with other claims of as many bytes, as if it had been written so. */
function carrying(claims: Uint8Array): Buffer {
  const bytes = Buffer.from(rewritten);
  const { sh_offset, sh_size } = sectionNamed(parseElf(bytes), CARRY_SECTION)!;
  const section = bytes.subarray(sh_offset, sh_offset + sh_size);
  section.set(claims, sh_size - claims.length);
  // The hash of the file is one with these bytes zero.
  const [hash, check] = [12, 44] as const;
  section.fill(0, hash, check + 8);
  sealCarry(section, sh_offset, { size: bytes.length, pieces: [{ offset: 0, bytes: Buffer.from(bytes) }] });
  return bytes;
}

function said(certificates: readonly Certificate[] | undefined) {
  const windows = [{ start: site, end: site + 5 }];
  const { failing, unknown } = examine(image, { windows, ...(certificates && { certificates }) });
  expect([...unknown]).toEqual([]);
  return failing.get(0);
}

const withTransfers = (change: (transfer: Transfer) => readonly Transfer[]): Certificate => ({
  ...whole,
  transfers: whole.transfers.flatMap(change),
});

/** Another claim in place of each table. */
const withTable = (change: (table: Extract<Claim, { kind: "table" }>) => readonly Claim[]): Certificate =>
  withTransfers((t) => [{ ...t, claims: t.claims.flatMap((c) => (c.kind === "table" ? change(c) : [c])) }]);

const faults: readonly (readonly [
  what: string,
  certificates: () => readonly Certificate[],
  verdict: string,
  why: RegExp,
])[] = [
  ["nothing", () => [], "unproved", /nothing is claimed of the code/],
  [
    "less than the function",
    () => [{ ...whole, parts: whole.parts.map(({ start, end }) => ({ start, end: vaddr(end - 4) })) }],
    "unproved",
    /nothing is claimed of the transfer/,
  ],
  [
    "parts where no code is",
    () => [{ ...whole, parts: [{ start: vaddr(1), end: vaddr(2) }, ...whole.parts] }],
    "different",
    /is none/,
  ],
  [
    "nothing of a jump by a table",
    () => [withTransfers((t) => (t.claims.some((c) => c.kind === "table") ? [] : [t]))],
    "unproved",
    /nothing is claimed of the transfer/,
  ],
  [
    "nothing of a call",
    () => [withTransfers((t) => (t.claims.some((c) => c.kind === "pointer") ? [] : [t]))],
    "unproved",
    /nothing is claimed of the transfer/,
  ],
  ["a pointer for a table", () => [withTable(() => [{ kind: "pointer" }])], "unproved", /may go by more/],
  [
    "nothing for an address",
    () => [withTransfers((t) => [{ ...t, claims: t.claims.filter((c) => c.kind !== "exact") }])],
    "unproved",
    /may go by more/,
  ],
  [
    "another address",
    () => [
      withTransfers((t) => [
        {
          ...t,
          claims: t.claims.map((c) =>
            c.kind === "exact" ? { ...c, addresses: c.addresses.map((a) => vaddr(a + 1)) } : c,
          ),
        },
      ]),
    ],
    "unproved",
    /may go by more/,
  ],
  ["another base", () => [withTable((t) => [{ ...t, base: vaddr(t.base + 4) }])], "different", /is another/],
  ["a second table", () => [withTable((t) => [t, { ...t, base: vaddr(t.base - 8) }])], "different", /is another/],
  ["a later first entry", () => [withTable((t) => [{ ...t, first: vaddr(t.first + 4) }])], "different", /is another/],
  ["other entries", () => [withTable((t) => [{ ...t, signed: !t.signed }])], "different", /is another/],
  ["another stride", () => [withTable((t) => [{ ...t, stride: 8 }])], "different", /is another/],
  [
    "a transfer that is none",
    () => [withTransfers((t) => [t, { address: vaddr(site + 1), claims: [] }])],
    "different",
    /there is no transfer/,
  ],
  ["nothing of an address", () => [{ ...whole, made: [] }], "unproved", /which the instruction at .* makes/],
  [
    "an address that is not made",
    () => [{ ...whole, made: [...whole.made, { address: site, value: vaddr(site + 1) }] }],
    "different",
    /does not make/,
  ],
];

describe.skipIf(!canCompile)("claims about a function that changed", () => {
  beforeAll(async () => {
    const path = await compile(source, "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, "-pie");
    const { bytes, report } = rewriteFile(path)!;
    expect(report.sites.map(({ status }) => status)).toEqual(["rewritten"]);
    rewritten = bytes;
    image = parseElf(readFileSync(path));
    site = readUsdtNotes(image)[0]!.location;
    const certificates = decodeCertificates(readCarry(parseElf(rewritten))!.certificates)!;
    expect(certificates.length).toBe(1);
    whole = certificates[0]!;
    expect(whole.transfers.map(({ claims }) => claims.map(({ kind }) => kind))).toEqual([
      ["table"],
      ["exact"],
      ["pointer"],
    ]);
    expect(whole.made.length).toBe(1);
  });

  it("hold as they are written, and are not asked for where nobody gives any", () => {
    expect(said([whole])).toBeUndefined();
    expect(said(undefined)).toBeUndefined();
  });

  it("are asked for in the file that is verified", () => {
    const verdictOf = (claims: Uint8Array) =>
      held(carrying(claims)).sites.map(({ verdict, reason }) => [verdict, reason]);
    const claims = encodeCertificates([whole]);
    expect(verdictOf(claims)).toEqual([["equivalent", null]]);
    const [, later] = faults.find(([what]) => what === "a later first entry")!;
    expect(verdictOf(encodeCertificates(later()))).toEqual([["different", expect.stringMatching(/is another/)]]);
    expect(verdictOf(Buffer.alloc(claims.length))).toEqual([
      ["unproved", expect.stringMatching(/nothing is claimed of the code/)],
    ]);
  });

  it.each(faults)("claim %s", (_, certificates, verdict, why) => {
    expect(said(certificates())).toEqual({ verdict, why: expect.stringMatching(why) });
  });
});
