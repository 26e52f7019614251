/**
 * Which versions of other libraries' symbols a file asks for: .gnu.version_r.
 *
 *     Verneed { u16 vn_version, u16 vn_cnt, u32 vn_file, u32 vn_aux, u32 vn_next }       one for each library
 *       Vernaux { u32 vna_hash, u16 vna_flags, u16 vna_other, u32 vna_name, u32 vna_next } one for each version of it
 *
 * The entries of both kinds are linked by distances. The loader follows them anywhere; checkers such as eu-elflint want
 * the versions of a library right after it, so that is where one is added. A symbol's entry in .gnu.version is the
 * vna_other of the version that it wants; 0 and 1 mean none.
 *
 * Specification: LSB Core, "Symbol Versioning".
 */
import { hex } from "../address.js";
import { InputError } from "../errors.js";

const VERNEED_SIZE = 16;
export const VERNAUX_SIZE = 16;
/** What remains of an entry of .gnu.version without the bit that hides a definition. */
export const VERSYM_INDEX = 0x7fff;

interface NeededVersion {
  /** Where the Vernaux stands, in bytes from the section's start. */
  readonly at: number;
  readonly vna_other: number;
  readonly vna_name: number;
}

interface NeededFile {
  /** Where the Verneed stands, in bytes from the section's start. */
  readonly at: number;
  readonly vn_file: number;
  readonly versions: readonly NeededVersion[];
}

/** The content of .gnu.version_r. @throws InputError where it is damaged */
export function readNeededVersions(bytes: Buffer): readonly NeededFile[] {
  const damaged = (at: number): InputError => new InputError("damaged .gnu.version_r", `${hex(at)} bytes in`);
  const files: NeededFile[] = [];
  for (let at = 0; ; ) {
    if (at + VERNEED_SIZE > bytes.length) throw damaged(at);
    const versions: NeededVersion[] = [];
    let aux = at + bytes.readUInt32LE(at + 8);
    for (let left = bytes.readUInt16LE(at + 2); left > 0; left--) {
      if (aux + VERNAUX_SIZE > bytes.length) throw damaged(aux);
      versions.push({ at: aux, vna_other: bytes.readUInt16LE(aux + 6), vna_name: bytes.readUInt32LE(aux + 8) });
      const vna_next = bytes.readUInt32LE(aux + 12);
      if (vna_next === 0 && left > 1) throw damaged(aux);
      aux += vna_next;
    }
    files.push({ at, vn_file: bytes.readUInt32LE(at + 4), versions });
    const vn_next = bytes.readUInt32LE(at + 12);
    if (vn_next === 0) return files;
    at += vn_next;
  }
}

/**
 * The content of .gnu.version_r with one more version after those that a library has.
 * @param entry the new Vernaux, whose vna_next is filled in here
 */
export function addNeededVersion(
  bytes: Buffer,
  files: readonly NeededFile[],
  library: NeededFile,
  entry: Buffer,
): Buffer {
  const last = library.versions.at(-1);
  const at = last === undefined ? library.at + VERNEED_SIZE : last.at + VERNAUX_SIZE;
  const moved = (old: number): number => (old >= at ? old + VERNAUX_SIZE : old);
  const out = Buffer.concat([bytes.subarray(0, at), entry, bytes.subarray(at)]);
  files.forEach((file, i) => {
    const versions = file.versions.map((v) => moved(v.at));
    if (file === library) versions.push(at);
    const own = moved(file.at);
    out.writeUInt16LE(versions.length, own + 2);
    out.writeUInt32LE((versions[0] ?? own) - own, own + 8);
    const next = files[i + 1];
    out.writeUInt32LE(next === undefined ? 0 : moved(next.at) - own, own + 12);
    versions.forEach((version, k) => {
      out.writeUInt32LE(k + 1 < versions.length ? versions[k + 1]! - version : 0, version + 12);
    });
  });
  return out;
}

/** The hash of a name in DT_HASH and in vna_hash (gABI "Hash Table"). */
export function sysvHash(name: string): number {
  let hash = 0;
  for (const byte of Buffer.from(name, "latin1")) {
    hash = (hash << 4) + byte;
    const high = hash & 0xf0000000;
    hash = (hash ^ (high >>> 24)) & ~high;
  }
  return hash >>> 0;
}

interface DefinedVersion {
  readonly vd_ndx: number;
  /** Offsets in the string table: the version's own name, then those of the versions that it inherits from. */
  readonly names: readonly number[];
}

const VERDEF_SIZE = 20;
const VERDAUX_SIZE = 8;

/** The content of .gnu.version_d: Verdefs, linked as Verneeds are. @throws InputError where it is damaged */
export function readDefinedVersions(bytes: Buffer): readonly DefinedVersion[] {
  const damaged = (at: number): InputError => new InputError("damaged .gnu.version_d", `${hex(at)} bytes in`);
  const defined: DefinedVersion[] = [];
  for (let at = 0; ; ) {
    if (at + VERDEF_SIZE > bytes.length) throw damaged(at);
    const names: number[] = [];
    let aux = at + bytes.readUInt32LE(at + 12);
    for (let left = bytes.readUInt16LE(at + 6); left > 0; left--) {
      if (aux + VERDAUX_SIZE > bytes.length) throw damaged(aux);
      names.push(bytes.readUInt32LE(aux));
      const vda_next = bytes.readUInt32LE(aux + 4);
      if (vda_next === 0 && left > 1) throw damaged(aux);
      aux += vda_next;
    }
    defined.push({ vd_ndx: bytes.readUInt16LE(at + 4) & VERSYM_INDEX, names });
    const vd_next = bytes.readUInt32LE(at + 16);
    if (vd_next === 0) return defined;
    at += vd_next;
  }
}
