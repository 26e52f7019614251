/**
 * A private Java runtime image: the JVM finds its home from the path of libjvm.so, so a rewritten one needs an image of its
 * own. Small files are copied, the large ones (the module image, which no test changes) are links.
 */
import {
  copyFileSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import path from "node:path";
import { javaHome, packagesRoot } from "./corpus.js";
import { mustRun } from "./scratch.js";

const LARGE = 1 << 22;

export interface JavaImage {
  readonly home: string;
  readonly java: string;
  readonly libjvm: string;
}

export function javaImage(home: string, libjvm: string): JavaImage {
  const root = packagesRoot();
  const source = path.join(root, javaHome);
  mkdirSync(home, { recursive: true });
  cpSync(path.join(source, "bin"), path.join(home, "bin"), { recursive: true });
  cpSync(path.join(source, "conf"), path.join(home, "conf"), { recursive: true, verbatimSymlinks: true });
  copyTree(path.join(source, "lib"), path.join(home, "lib"));
  // Debian keeps the configuration in /etc; here it is the one that came with the package.
  relink(home, root);
  const image = { home, java: path.join(home, "bin/java"), libjvm: path.join(home, "lib/server/libjvm.so") };
  rmSync(image.libjvm, { force: true });
  copyFileSync(libjvm, image.libjvm);
  return image;
}

function copyTree(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) copyTree(source, target);
    else if (entry.isSymbolicLink()) symlinkSync(readlinkSync(source), target);
    else if (lstatSync(source).size > LARGE) symlinkSync(source, target);
    else copyFileSync(source, target);
  }
}

/** Absolute links of the package point into the unpacked tree; those that lead out of the package stay as they are. */
function relink(folder: string, root: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const at = path.join(folder, entry.name);
    if (entry.isDirectory()) relink(at, root);
    if (!entry.isSymbolicLink()) continue;
    const target = readlinkSync(at);
    if (!path.isAbsolute(target) || !existsSync(path.join(root, target))) continue;
    rmSync(at);
    symlinkSync(path.join(root, target), at);
  }
}

/** The runtime's own module image has a compiler in it, though the package has no `javac`. */
export async function compileJava(image: JavaImage, source: string, classes: string): Promise<void> {
  await mustRun(image.java, ["-m", "jdk.compiler/com.sun.tools.javac.Main", "-nowarn", "-d", classes, source]);
}
