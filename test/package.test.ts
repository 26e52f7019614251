/** What whoever installs the package gets: the same packages each time, no scripts that run by themselves, and licence texts. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), "utf8");

interface Lock {
  readonly packages: Readonly<Record<string, { readonly version?: string; readonly hasInstallScript?: boolean }>>;
}
interface Package {
  readonly scripts: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly files: readonly string[];
}
const own = JSON.parse(read("package.json")) as Package;
const lock = JSON.parse(read("package-lock.json")) as Lock;

describe("the package", () => {
  it("has a lock file that names each dependency", () => {
    for (const name of Object.keys(own.dependencies))
      expect(lock.packages[`node_modules/${name}`]?.version, name).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it("runs nothing when it is installed, and neither does what it depends on", () => {
    for (const name of ["preinstall", "install", "postinstall"]) expect(own.scripts).not.toHaveProperty(name);
    for (const name of Object.keys(own.dependencies))
      expect(lock.packages[`node_modules/${name}`]?.hasInstallScript ?? false, name).toBe(false);
  });

  it("has the licence text of each package that is in the bundle", () => {
    expect(own.files).toContain("dist");
    const bundle = readdirSync(join(root, "dist/bundle")).filter((file) => file.endsWith(".js"));
    const inside = new Set(
      bundle.flatMap((file) =>
        [...read(`dist/bundle/${file}`).matchAll(/^\/\/ \S*node_modules\/((?:@[^/\s]+\/)?[^/\s]+)/gm)].map(
          ([, name]) => name!,
        ),
      ),
    );
    expect([...inside]).toContain("commander");
    const texts = read("dist/bundle/LICENSES.txt");
    for (const name of inside) {
      const file = readdirSync(join(root, "node_modules", name)).find((entry) => /^licen[cs]e/i.test(entry))!;
      expect(texts).toContain(`${name} `);
      expect(texts).toContain(read(`node_modules/${name}/${file}`).trim());
    }
    expect(existsSync(join(root, "LICENSE"))).toBe(true);
  });
});
