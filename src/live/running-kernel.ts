/**
 * Which row of the table this kernel is. Distributions take over what later kernels do and keep their number, so it is
 * asked: the uprobe system call answers with another error on each range. A number decides where it cannot be made.
 */
import { release } from "node:os";
import { type KernelFacts, kernelOf, kernelThatAnswers, parseVersion } from "../kernel/kernels.js";
import { uprobeSystemCall } from "./kernel-tests.js";

export function runningKernel(): KernelFacts {
  const { exitCode } = uprobeSystemCall();
  const asked = exitCode === null ? undefined : kernelThatAnswers(exitCode);
  return asked ?? kernelOf(parseVersion(release()) ?? [0, 0]);
}
