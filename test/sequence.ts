/**
 * In which order test files run: those that attach to the kernel, which wait for it half of the time, are dealt out among those that
 * compute, so that the processors have something to do meanwhile.
 */
import { BaseSequencer, type TestSpecification } from "vitest/node";

export class DealtOut extends BaseSequencer {
  /** Within a project the usual order: what took longest comes first. */
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const sizes = new Map<string, number>();
    // How much of its project comes before a file.
    const share = sorted.map(({ project: { name } }) => {
      const before = sizes.get(name) ?? 0;
      sizes.set(name, before + 1);
      return before;
    });
    return sorted
      .map((file, i) => ({ file, share: share[i]! / sizes.get(file.project.name)! }))
      .sort((a, b) => a.share - b.share)
      .map(({ file }) => file);
  }
}
