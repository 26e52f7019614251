/** `--kernel`: any version counts to the range of the table that it lies in, whatever follows its first two parts. */
import { release } from "node:os";
import { InvalidArgumentError } from "commander";
import { type KernelName, kernelNamed, kernelOf, kernels, parseVersion, type Version } from "../kernel/kernels.js";
import type { Kernel } from "../rewritten/contract.js";

/** A kernel that somebody named. */
export interface NamedKernel {
  readonly name: KernelName;
  readonly version: Version;
}

const RUNNING = "running";

/** x.y or x.y.z, `running`, or the name of a range. @throws InvalidArgumentError where it is something else */
export function oneKernel(value: string): NamedKernel {
  const range = kernels.find(({ name }) => name === value);
  if (range !== undefined) return { name: range.name, version: range.since };
  const version = parseVersion(value === RUNNING ? release() : value);
  if (version === null || (value !== RUNNING && !/^\d+\.\d+(?:\.\d+)?$/.test(value)))
    throw new InvalidArgumentError(`write a version such as 6.18 or 7.2.6, or ${RUNNING}`);
  return { name: kernelOf(version).name, version };
}

/** The same, or `any`. */
export const anyKernel = (value: string): Kernel => (value === "any" ? value : oneKernel(value).name);

/** For --help: what a version stands for. */
export const rangesOf = (names: readonly KernelName[]): string =>
  names.map((name) => `${name} stands for ${kernelNamed(name).range}`).join(", ");
