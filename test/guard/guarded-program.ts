/**
 * The driver program with sites and a guard: both are made here and linked at addresses that are known beforehand, so that
 * the guard can be encoded for them.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { alignUp, PAGE_SIZE, type Vaddr, vaddr } from "../../src/address.js";
import type { CfaRows } from "../../src/elf/cfa-rows.js";
import { childGuard } from "../../src/rewrite/fork-guard/handler/child-guard.js";
import type { GuardedMapping } from "../../src/rewrite/fork-guard/handler/guarded-pages.js";
import type { SignalSlots } from "../../src/rewrite/fork-guard/handler/signal-slots.js";
import { namedCode } from "../../src/rewrite/start/named-code.js";
import { NOP5 } from "../../src/x86/bytes.js";
import { linkOne } from "../../src/x86/link.js";
import { behindFile } from "../behind.js";
import { fileOffset, readSections, readSegments } from "../judges/headers.js";
import { must } from "../run.js";

const SITES = 0x10000000;
const GUARD = 0x20000000;
const RET = 0xc3;
const DRIVER = fileURLToPath(new URL("programs/driver.c", import.meta.url));

export interface Layout {
  readonly sites: number;
  /** Bytes from one site to the next. */
  readonly stride: number;
  /** Where in its page the first site is: 16 where nothing is said. The bytes before it are for the driver to mark. */
  readonly first?: number;
  /** Pages behind the last site, which belong to the same mapping. */
  readonly morePages?: number;
  /** Tells the guard that every page differs from the file. */
  readonly isPrivate?: boolean;
}

interface LinkedGuard {
  readonly bytes: Uint8Array;
  readonly codeEnd: Vaddr;
  readonly unwind: CfaRows;
  readonly pageCount: number;
}

/** A guard alone, at an address. */
export function linkedGuard(mappings: readonly GuardedMapping[], at: number, slots?: SignalSlots): LinkedGuard {
  const { code, pageCount } = childGuard("guard", mappings, slots);
  const linked = linkOne(code, at);
  const { end, unwind } = namedCode(code, linked);
  return { bytes: linked.bytes, codeEnd: end, unwind: unwind!, pageCount };
}

export interface GuardedProgram {
  readonly path: string;
  readonly guard: LinkedGuard;
  /** File offsets of the sites. */
  readonly offsets: readonly number[];
  readonly addresses: readonly Vaddr[];
  /** File offset of the driver's semaphore. */
  readonly semaphore: number;
}

let folder: string | undefined;
let programs = 0;

const addressesOf = ({ sites, stride, first = 16 }: Layout): Vaddr[] => {
  const addresses: Vaddr[] = [];
  for (let at = SITES + first; addresses.length < sites; at += stride) {
    // A nop5 lies in one page.
    if ((at % PAGE_SIZE) + NOP5.length > PAGE_SIZE) at = alignUp(at, PAGE_SIZE);
    addresses.push(vaddr(at));
  }
  return addresses;
};

export async function guardedProgram(layout: Layout): Promise<GuardedProgram> {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), "usdt-guard-"));
    folder = made;
    behindFile(() => {
      rmSync(made, { recursive: true, force: true });
      folder = undefined;
    });
  }
  const here = join(folder, `${programs++}`);
  const addresses = addressesOf(layout);
  const pages = new Set(addresses.map((a) => vaddr(a - (a % PAGE_SIZE))));
  const guard = linkedGuard([{ sites: addresses, privatePages: layout.isPrivate === true ? pages : new Set() }], GUARD);
  const size = alignUp(addresses.at(-1)! + 6 - SITES, PAGE_SIZE) + (layout.morePages ?? 1) * PAGE_SIZE;
  const code = new Uint8Array(size).fill(RET);
  for (const address of addresses) code.set(NOP5, address - SITES);

  await must("mkdir", [here]);
  writeFileSync(join(here, "sites.bin"), code);
  writeFileSync(join(here, "guard.bin"), guard.bytes);
  writeFileSync(
    join(here, "layout.h"),
    `static const unsigned long link_time_sites[] = {${addresses.map((a) => `0x${a.toString(16)}`).join(", ")}};
#define SITES_AT ${SITES}ul
#define SIZE ${size}ul
#define GUARD_AT ${GUARD}ul
#define GUARD_END_AT ${guard.codeEnd}ul
`,
  );
  const path = join(here, "program");
  const place = [
    `--section-start=.nop5sites=0x${SITES.toString(16)}`,
    `--section-start=.nop5guard=0x${GUARD.toString(16)}`,
  ];
  await must("gcc", ["-O1", "-w", "-fPIE", "-pie", "-pthread", `-Wl,${place.join(",")}`, "-I.", DRIVER, "-o", path], {
    cwd: here,
  });
  const segments = await readSegments(path);
  const offsets = addresses.map((address) => {
    const offset = fileOffset(segments, BigInt(address), "E");
    if (offset === null) throw new Error(`${path}: no segment has the sites`);
    return Number(offset);
  });
  const probes = (await readSections(path)).find((section) => section.name === ".probes");
  if (probes === undefined) throw new Error(`${path}: no semaphore`);
  return { path, guard, offsets, addresses, semaphore: Number(probes.offset) };
}
