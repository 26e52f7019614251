/**
 * Certificates: what the rewriter says about code that it changed, for a checker that works it out for itself.
 *
 * One for each group of function parts that holds changed bytes. It claims where the group's parts are, where each
 * transfer goes whose target is not in the instruction, and which addresses of code its instructions make. Nobody may
 * believe it: a checker holds each claim against the code. It is neutral ground between the two, so it is plain data
 * and knows neither.
 *
 * As bytes: a version, then numbers of seven bits a byte, the lowest first; those that may be negative are zigzag. Each
 * address is a distance from the one before it in its list, the first of a certificate's lists from the start of its
 * first part.
 *
 *     version 1, count                          of certificates
 *       count, (distance, length)*              parts, ascending
 *       count, (distance, claims)*              transfers, ascending
 *         count, (kind, ...)*                   0 pointer; 1 exact: count, distance*; 2 table: flags, base, first, stride
 *       count, (distance, distance)*            addresses made: the instruction, and the address from there
 *
 * Bytes may come from anybody: whatever is damaged is undefined, nothing is allocated for more than there are bytes.
 */
import { type Interval, type Vaddr, vaddr } from "../address.js";

/** Where a transfer goes. All addresses are link-time addresses. */
export type Claim =
  /** Where a pointer leads that was handed over as it is: by a relocation, an absolute word, the caller, a callee. */
  | { readonly kind: "pointer" }
  /** One of these. */
  | { readonly kind: "exact"; readonly addresses: readonly Vaddr[] }
  | TableClaim;

/** Entry i is at first + i * stride; where it leads is base + entry, or base - entry. */
export interface TableClaim {
  readonly kind: "table";
  readonly base: Vaddr;
  /** Bytes of an entry. */
  readonly width: 1 | 2 | 4 | 8;
  readonly signed: boolean;
  readonly minus: boolean;
  readonly first: Vaddr;
  /** Bytes from one entry to the next. */
  readonly stride: number;
}

export interface Transfer {
  /** The jmp, call or ret. */
  readonly address: Vaddr;
  /** It goes where one of these says. */
  readonly claims: readonly Claim[];
}

/** An instruction that makes an address of code. */
export interface MadeAddress {
  readonly address: Vaddr;
  readonly value: Vaddr;
}

/** A group of function parts. */
export interface Certificate {
  /** [start, end) each, ascending by start. */
  readonly parts: readonly Interval<Vaddr>[];
  /**
   * Jumps and calls through a register or memory, and each ret that may return to anything but its caller; ascending.
   */
  readonly transfers: readonly Transfer[];
  /** Ascending by instruction. */
  readonly made: readonly MadeAddress[];
}

const VERSION = 1;
const WIDTHS = [1, 2, 4, 8] as const;
const SIGNED = 4;
const MINUS = 8;

/** @throws RangeError where lists do not ascend, or a number is no integer */
export function encodeCertificates(certificates: readonly Certificate[]): Uint8Array {
  const writer = new Writer();
  writer.number(VERSION);
  writer.number(certificates.length);
  for (const { parts, transfers, made } of certificates) {
    const origin = parts[0]?.start ?? 0;
    writer.number(parts.length);
    let last: number = 0;
    for (const { start, end } of parts) {
      writer.number(start - last);
      writer.number(end - start);
      last = start;
    }
    writer.number(transfers.length);
    last = origin;
    for (const { address, claims } of transfers) {
      writer.number(address - last);
      writer.number(claims.length);
      for (const claim of claims) writeClaim(writer, claim, address);
      last = address;
    }
    writer.number(made.length);
    last = origin;
    for (const { address, value } of made) {
      writer.number(address - last);
      writer.signed(value - address);
      last = address;
    }
  }
  return Uint8Array.from(writer.bytes);
}

function writeClaim(writer: Writer, claim: Claim, from: number): void {
  switch (claim.kind) {
    case "pointer":
      writer.number(0);
      return;
    case "exact":
      writer.number(1);
      writer.number(claim.addresses.length);
      for (const address of claim.addresses) writer.signed(address - from);
      return;
    case "table":
      writer.number(2);
      writer.number(WIDTHS.indexOf(claim.width) | (claim.signed ? SIGNED : 0) | (claim.minus ? MINUS : 0));
      writer.signed(claim.base - from);
      writer.signed(claim.first - from);
      writer.signed(claim.stride);
  }
}

/** The certificates, or undefined where the bytes are none. */
export function decodeCertificates(bytes: Uint8Array): readonly Certificate[] | undefined {
  const reader = new Reader(bytes);
  if (reader.number() !== VERSION) return undefined;
  const certificates = reader.list((): Certificate => {
    let last = 0;
    const parts = reader.list(() => {
      const start = reader.address(last + reader.number());
      const end = reader.address(start + reader.number());
      if (end === start) reader.fail();
      last = start;
      return { start, end };
    });
    const origin = parts[0]?.start ?? 0;
    last = origin;
    const transfers = reader.list((): Transfer => {
      const address = reader.address(last + reader.number());
      last = address;
      return { address, claims: reader.list(() => readClaim(reader, address)) };
    });
    last = origin;
    const made = reader.list((): MadeAddress => {
      const address = reader.address(last + reader.number());
      last = address;
      return { address, value: reader.address(address + reader.signed()) };
    });
    return { parts, transfers, made };
  });
  return reader.isSound() ? certificates : undefined;
}

function readClaim(reader: Reader, from: number): Claim {
  switch (reader.number()) {
    case 0:
      return { kind: "pointer" };
    case 1:
      return { kind: "exact", addresses: reader.list(() => reader.address(from + reader.signed())) };
    case 2: {
      const flags = reader.number();
      if (flags > (SIGNED | MINUS | 3)) reader.fail();
      return {
        kind: "table",
        width: WIDTHS[flags & 3]!,
        signed: (flags & SIGNED) !== 0,
        minus: (flags & MINUS) !== 0,
        base: reader.address(from + reader.signed()),
        first: reader.address(from + reader.signed()),
        stride: reader.signed(),
      };
    }
    default:
      reader.fail();
      return { kind: "pointer" };
  }
}

class Writer {
  readonly bytes: number[] = [];

  number(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`a certificate with ${value}`);
    let rest = value;
    for (; rest >= 128; rest = Math.floor(rest / 128)) this.bytes.push((rest % 128) | 128);
    this.bytes.push(rest);
  }

  signed(value: number): void {
    this.number(value < 0 ? -value * 2 - 1 : value * 2);
  }
}

/** After a failure it reads nothing but zeros, so that every list ends. */
class Reader {
  private at = 0;
  private failed = false;

  constructor(private readonly bytes: Uint8Array) {}

  fail(): void {
    this.failed = true;
  }

  isSound(): boolean {
    return !this.failed && this.at === this.bytes.length;
  }

  number(): number {
    let value = 0;
    for (let scale = 1; !this.failed; scale *= 128) {
      const byte = this.bytes[this.at++];
      if (byte === undefined || scale > 2 ** 49) break;
      value += (byte & 127) * scale;
      if (byte >= 128) continue;
      // One way to write a number, and only numbers that a double holds exactly.
      if ((byte === 0 && scale > 1) || !Number.isSafeInteger(value)) break;
      return value;
    }
    this.failed = true;
    return 0;
  }

  signed(): number {
    const value = this.number();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  address(value: number): Vaddr {
    if (value < 0 || !Number.isSafeInteger(value)) this.failed = true;
    return vaddr(value);
  }

  /** Each element takes a byte at least. */
  list<T>(element: () => T): T[] {
    const count = this.number();
    if (count > this.bytes.length - this.at) this.failed = true;
    const all: T[] = [];
    for (let i = 0; i < count && !this.failed; i++) all.push(element());
    return all;
  }
}
