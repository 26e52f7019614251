/**
 * Probes that a kernel would take, but for where they stand: it refuses a nop10 that lies in two pages, alone or after
 * the nop that a note names, where a libbpf that knows the kernel moves on to it. Only compilers put one there.
 */
import { type Vaddr, vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { attachedTo, kernels } from "../kernel/kernels.js";
import { treatmentAt } from "../kernel/treatment.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";

/** Those of these locations, ascending, each once. */
export function refusedPlaces(image: ElfImage, locations: readonly Vaddr[]): readonly Vaddr[] {
  const refused = locations.filter((location) => {
    const code = codeFrom(image, location);
    const instruction = code === null ? null : probeInstruction(code);
    if (code === null || instruction === null) return false;
    return kernels.some((kernel) => {
      const { offset, nop } = attachedTo(kernel, instruction);
      const isTaken = kernel.treats[nop] !== "refused";
      return isTaken && treatmentAt(kernel, code.subarray(offset), vaddr(location + offset)) === "refused";
    });
  });
  return [...new Set(refused)].sort((a, b) => a - b);
}
