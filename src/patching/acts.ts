/**
 * What a program may do to what the kernel has put into it, without knowing of it: each once, where its loop begins.
 *
 * - unmap: munmap of the trampoline's page. Nothing forbids it (arch/x86/kernel/uprobes.c has mremap refused,
 *   tramp_mremap).
 * - clear: zero in its semaphore, which is its own memory.
 * - overwrite: the nop written over whatever is there, by a program that has made its code writable. It stops its
 *   other threads for that. No lock of the kernel's keeps it out, so it comes between two phases of patching as well.
 * - crowd: every free page within reach of the probes is mapped.
 */
import type { Change, Situation } from "./change.js";
import { ipOf } from "./machine.js";
import { equal } from "./setup.js";
import type { Act, Space } from "./state.js";

export const actLabels: Readonly<Record<Act, string>> = {
  unmap: "unmaps its trampolines",
  clear: "clears its semaphore",
  overwrite: "writes its nops back",
  crowd: "maps all pages around",
};

/** Whether a thread is where it acts, be it that it has to wait: its next instruction is no step of its own then. */
export function mayAct({ setup, thread }: Situation): boolean {
  if (thread.acts.length === 0 || thread.expected >= 0 || thread.pass.site >= 0 || thread.frames.length > 0)
    return false;
  return setup.program.begins.has(ipOf(setup.machine.valueOf(thread.snapshot)));
}

/** The acts that a thread can take now. */
export function actSteps(situation: Situation): Change[] {
  const { thread } = situation;
  if (!mayAct(situation)) return [];
  return thread.acts.flatMap((act): Change[] => {
    const done = take(situation, act);
    if (done === null) return [];
    const acts = thread.acts.filter((other) => other !== act);
    return [{ ...done, label: actLabels[act], thread: { ...thread, acts } }];
  });
}

/** What an act leaves; null where it has to wait for the lock. */
function take({ setup, space }: Situation, act: Act): Omit<Change, "label"> | null {
  const waits = space.lock >= 0;
  switch (act) {
    case "unmap":
      return waits ? null : { space: { ...space, trampolines: unmapped(space, setup.protocol.listsTrampolines) } };
    case "crowd":
      return waits ? null : { space: { ...space, isCrowded: true } };
    case "clear":
      return { space: { ...space, semaphore: 0 } };
    default: {
      const { code } = setup.firstSpace();
      if (equal(code, space.code)) return {};
      return { space: { ...space, code, isOverwritten: true }, syncs: true, syncsAfter: true, bytes: code };
    }
  }
}

const unmapped = ({ trampolines }: Space, staysListed: boolean): Space["trampolines"] =>
  trampolines.map((t) => ({ ...t, isMapped: false, isKnown: staysListed && t.isKnown }));
