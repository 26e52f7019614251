import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type Vaddr, vaddr } from "../../src/address.js";
import { SHDR_SIZE, STT_FUNC } from "../../src/elf/constants.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { dynsym, forEachSymbol, functionAt, functionsAt, symbolName, symtab } from "../../src/elf/symbols.js";
import { InputError } from "../../src/errors.js";
import { must } from "../run.js";
import { sample } from "../sample/sample.js";

interface ReadelfSymbol {
  readonly value: number;
  readonly size: number;
  readonly type: string;
  readonly bind: string;
  readonly defined: boolean;
  readonly name: string;
}

/** `readelf -sW`: Num: Value Size Type Bind Vis Ndx Name. */
async function readelfSymbols(path: string, table: string): Promise<ReadelfSymbol[]> {
  const text = (await must("readelf", ["-sW", path]))
    .split("Symbol table ")
    .find((part) => part.startsWith(`'${table}'`));
  const row = /^ +\d+: ([0-9a-f]+) +(\w+) (\w+) +(\w+) +\w+ +(\w+) ?(\S*)/gm;
  return [...text!.matchAll(row)].slice(1).map(([, value, size, type, bind, ndx, name]) => ({
    value: Number.parseInt(value!, 16),
    size: Number(size),
    type: type!,
    bind: bind!,
    defined: ndx !== "UND",
    name: name!,
  }));
}

describe("forEachSymbol", () => {
  it.each([".symtab", ".dynsym"])("walks %s as readelf does", async (name) => {
    const path = await sample();
    const image = parseElf(readFileSync(path));
    const table = (name === ".symtab" ? symtab : dynsym)(image)!;
    const ours: unknown[] = [];
    forEachSymbol(table, (st_value, st_size, st_info, st_shndx, index) => {
      // readelf prints section symbols with their section's name, and versions behind those of .dynsym.
      ours.push([
        st_value,
        st_size,
        st_shndx !== 0,
        (st_info & 0xf) === STT_FUNC && symbolName(table, index).replace(/@.*/, ""),
      ]);
    });
    const truth = await readelfSymbols(path, name);
    expect(ours).toEqual(
      truth.map((s) => [s.value, s.size, s.defined, s.type === "FUNC" && s.name.replace(/@.*/, "")]),
    );
  });
});

describe("functionsAt", () => {
  it("finds what a search through readelf's table finds, at every start, middle and end", async () => {
    const path = await sample("-static");
    const image = parseElf(readFileSync(path));
    const functions = (await readelfSymbols(path, ".symtab")).filter(
      (s) => s.defined && (s.type === "FUNC" || s.type === "IFUNC"),
    );
    const rank = (bind: string): number => ["LOCAL", "WEAK", "GLOBAL"].indexOf(bind);
    const addresses: Vaddr[] = [];
    for (const { value, size } of functions.slice(0, 400))
      addresses.push(...[value - 1, value, value + (size >> 1), value + size - 1, value + size].map(vaddr));
    const expected = addresses.map((address) => {
      let best: ReadelfSymbol | undefined;
      for (const f of functions) {
        if (address < f.value || address >= f.value + Math.max(f.size, 1)) continue;
        if (best === undefined || f.value > best.value || (f.value === best.value && rank(f.bind) > rank(best.bind)))
          best = f;
      }
      return best?.name ?? null;
    });
    expect(functionsAt(image, addresses)).toEqual(expected);
  });

  it("asks .dynsym where .symtab knows nothing", async () => {
    const bytes = readFileSync(await sample("-rdynamic"));
    const image = parseElf(bytes);
    const table = symtab(image)!;
    let add = vaddr(0);
    forEachSymbol(table, (st_value, _size, _info, _shndx, index) => {
      if (symbolName(table, index) === "add") {
        add = vaddr(st_value);
        bytes[table.section.sh_offset + index * 24 + 4] = 0;
      }
    });
    expect(functionAt(image, add)).toBe("add");
    const without = parseElf(readFileSync(await sample()));
    expect(functionAt(without, vaddr(0x10))).toBeNull();
  });

  it("takes no addresses", async () => {
    expect(functionsAt(parseElf(readFileSync(await sample())), [])).toEqual([]);
  });
});

describe("damaged symbol tables", () => {
  const damage = async (change: (bytes: Buffer, header: number, offset: number) => void) => {
    const bytes = readFileSync(await sample());
    const image = parseElf(bytes);
    const section = sectionNamed(image, ".symtab")!;
    change(bytes, image.header.e_shoff + section.index * SHDR_SIZE, section.sh_offset);
    return parseElf(bytes);
  };

  it.each<[string, (bytes: Buffer, header: number) => void, RegExp]>([
    ["entries of another size", (b, h) => b.writeBigUInt64LE(16n, h + 56), /has entries of 16 bytes/],
    ["half a symbol", (b, h) => b.writeBigUInt64LE(100n, h + 32), /not a whole number of symbols/],
    ["a string table that is none", (b, h) => b.writeUInt32LE(1, h + 40), /names no string table/],
    ["a string table that does not exist", (b, h) => b.writeUInt32LE(9999, h + 40), /names no string table/],
  ])("%s", async (_name, change, words) => {
    const image = await damage(change);
    expect(() => symtab(image)).toThrow(InputError);
    expect(() => symtab(image)).toThrow(words);
  });

  it("a name outside of the string table", async () => {
    const image = await damage((b, _h, offset) => b.writeUInt32LE(0x7fffffff, offset + 24));
    expect(() => symbolName(symtab(image)!, 1)).toThrow(/name of symbol 1 in \.symtab is outside of its string table/);
    // As a damaged relocation may ask for.
    for (const index of [1000, 2 ** 32 - 1])
      expect(() => symbolName(symtab(image)!, index)).toThrow(new RegExp(`\\.symtab has no symbol ${index}`));
  });
});
