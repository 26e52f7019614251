/**
 * The rules about who may import whom are checked by the linter: here files that break each of them are held before it, and
 * files that break none.
 */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The complaints of the linter about a tree of files, each as "file rule", sorted. */
function complaints(files: Readonly<Record<string, string>>): string[] {
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-house-"));
  try {
    symlinkSync(path.join(root, "node_modules"), path.join(folder, "node_modules"));
    copyFileSync(path.join(root, "biome.json"), path.join(folder, "biome.json"));
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
      writeFileSync(path.join(folder, file), content);
    }
    const biome = path.join(root, "node_modules/.bin/biome");
    const r = spawnSync(biome, ["lint", "--max-diagnostics=none", "--colors=off", "."], {
      cwd: folder,
      encoding: "utf8",
    });
    const found = `${r.stdout}${r.stderr}`.matchAll(/^(\S+\.ts):\d+:\d+ lint\/\w+\/(\w+)/gm);
    return [...found].map(([, file, rule]) => `${file} ${rule}`).sort();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Who, what is forbidden, what is allowed. */
const rules = [
  ["src/verify", "../rewrite/plan.js", "../facts/program.js"],
  ["src/verify/rest", "../../rewrite/plan.js", "../../rewritten/contract.js"],
  ["src/verify/witness", "../../facts/program.js", "../../elf/image.js"],
  ["src/verify/witness", "../../x86/decode.js", "../../rewritten/certificate.js"],
  ["src/verify/witness", "../../rewrite/plan.js", "./values.js"],
  ["src/verify/witness", "../windows.js", "../../address.js"],
  ["src/rewrite", "../verify/windows.js", "../facts/program.js"],
  ["src/rewrite", "./fork-guard/install/stubs.js", "./fork-guard/fork-guard.js"],
  ["src/rewrite", "./selector/select-code.js", "./selector/selector.js"],
  ["src/files", "../rewritten/contract.js", "../sparse-content.js"],
  ["src/patching", "../verify/same-code.js", "../verify/evidence.js"],
  ["src/patching", "../rewrite/plan.js", "../emulate/cpu.js"],
  ["src/explore", "../emulate/cpu.js", "./search.js"],
  ["src/facts/values", "../../usdt/notes.js", "../../elf/image.js"],
  ["src/x86", "../elf/image.js", "../address.js"],
] as const;

it("imports that the design forbids are found, and no others", () => {
  const files = rules.flatMap(([folder, forbidden, allowed], i) =>
    [`forbidden-${i}`, `allowed-${i}`].map((name, n): [string, string] => [
      `${folder}/${name}.ts`,
      `import { x } from "${[forbidden, allowed][n]}";\nconsole.log(x);\n`,
    ]),
  );
  const expected = rules.map(([folder], i) => `${folder}/forbidden-${i}.ts noRestrictedImports`);
  expect(complaints(Object.fromEntries(files))).toEqual(expected.sort());
});

it("import cycles are found, those of types as well", () => {
  const a = 'import type { B } from "./b.js";\nexport interface A {\n  readonly b: B;\n}\n';
  const back = 'import type { A } from "./a.js";\nexport interface B {\n  readonly a: A;\n}\n';
  expect(complaints({ "a.ts": a, "b.ts": back })).toEqual(["a.ts noImportCycles", "b.ts noImportCycles"]);
  expect(complaints({ "a.ts": a, "b.ts": "export interface B {\n  readonly a: number;\n}\n" })).toEqual([]);
});

it("nothing is exported that nobody else imports", () => {
  const texts = new Map<string, string>();
  const collect = (folder: string): void => {
    for (const entry of readdirSync(path.join(root, folder), { withFileTypes: true })) {
      const at = path.join(folder, entry.name);
      if (entry.isDirectory()) collect(at);
      else if (/\.[jt]s$/.test(entry.name)) texts.set(at, readFileSync(path.join(root, at), "utf8"));
    }
  };
  for (const folder of ["src", "test", "bench", "scripts"]) collect(folder);
  const words = new Map([...texts].map(([at, text]) => [at, new Set(text.match(/\w+/g))]));
  const idle = [...texts].flatMap(([at, text]) => {
    if (!at.startsWith("src")) return [];
    const names = text.matchAll(/^export (?:async )?(?:function|const|class|interface|type)\*? (\w+)/gm);
    return [...names].flatMap(([, name]) =>
      [...words].some(([other, all]) => other !== at && all.has(name!)) ? [] : [`${at}: ${name}`],
    );
  });
  expect(idle).toEqual([]);
});

it("files that the documents name are there", () => {
  const names = (folder: string): string[] =>
    readdirSync(path.join(root, folder))
      .filter((name) => name.endsWith(".md"))
      .map((name) => path.join(folder, name));
  const gone = [...names("."), ...names("docs"), ...names("docs/decisions")].flatMap((document) => {
    const text = readFileSync(path.join(root, document), "utf8");
    const paths = text.matchAll(/(?:^|[\s`(])((?:src|test|scripts|bench|docs)\/[\w./-]*\w)/g);
    return [...paths].flatMap(([, at]) => (existsSync(path.join(root, at!)) ? [] : [`${document}: ${at}`]));
  });
  expect(gone).toEqual([]);
});
