/**
 * Programs that do something to what the kernel has put into them, and tracers that come to where one is already: what
 * kernels answer to bytes that they did not write, and to what cannot be done.
 */
import { makeProgram, type Program } from "../../../src/patching/programs.js";
import type { Act } from "../../../src/patching/state.js";
import { attach, type Case, child, detach, fork, make, pass } from "./cases.js";
import type { Step } from "./observation.js";

const join: Step = { do: "join" };
const act = (what: Act): Step => ({ do: "act", act: what, who: "program" });
const childAct = (what: Act): Step => ({ do: "act", act: what, who: "child" });

/** @param probe the nop at each probe */
export function meddling(probe: Uint8Array): readonly Case[] {
  const acting = (name: "plain" | "fork", own: readonly Act[], inChild: readonly Act[] = []): Program =>
    makeProgram(name, { probe, acts: { own, child: inChild } });
  const counted = (own: readonly Act[]): Program => ({
    ...acting("plain", own),
    semaphore: makeProgram("semaphore").semaphore,
  });
  const crowded = acting("fork", [], ["crowd"]);
  return [
    make("another tracer comes", acting("plain", []), [
      ...[attach, pass(2), join, pass(3), detach, pass(2)],
      ...[attach, join, pass(2), detach, pass()],
    ]),
    make("a semaphore that nobody asks, and another tracer", counted([]), [
      attach,
      pass(2),
      join,
      pass(),
      detach,
      pass(),
    ]),
    make("a call is overwritten", acting("plain", ["overwrite"]), [
      ...[attach, pass(2), act("overwrite"), pass(2), detach, pass()],
      ...[attach, pass(3), detach, pass()],
    ]),
    make("int3 is overwritten", acting("plain", ["overwrite"]), [
      ...[attach, act("overwrite"), pass(2), detach, attach, pass(2), detach, pass()],
    ]),
    make("a counted call is overwritten", counted(["overwrite"]), [
      ...[attach, pass(2), act("overwrite"), pass(), detach, pass(), attach, pass(), detach],
    ]),
    make("the trampoline is unmapped", acting("plain", ["unmap"]), [attach, pass(2), act("unmap"), pass()]),
    make("the trampoline is unmapped, and the tracer goes", acting("plain", ["unmap"]), [
      ...[attach, pass(2), act("unmap"), detach, attach, pass(3), detach, pass()],
    ]),
    make("the trampoline is unmapped, the tracer goes, comes and goes", acting("plain", ["unmap"]), [
      ...[attach, pass(2), act("unmap"), detach, attach, detach, pass()],
    ]),
    make("no room for a trampoline", acting("plain", ["crowd"]), [
      ...[act("crowd"), attach, pass(3), detach, pass(), attach, pass(2), detach],
    ]),
    make("no room in the child, so nobody gets a call", crowded, [
      ...[fork, childAct("crowd"), attach, child(2), pass(3), child(), detach, pass(), child()],
      ...[attach, pass(2), detach, pass()],
    ]),
    make("no room in the child, where the program has a call", crowded, [
      ...[fork, childAct("crowd"), attach, pass(2), child(2), pass(2), detach, pass(2), child()],
    ]),
    // Who comes second does not look for calls any more.
    make("no room in the child, and another tracer comes", crowded, [
      ...[fork, childAct("crowd"), attach, pass(2), child(2), join, pass(2), detach, pass()],
    ]),
    make(
      "a semaphore is cleared",
      counted(["clear"]),
      [attach, pass(2), act("clear"), detach, pass(2), attach, pass(2), detach, pass()],
      { warns: true },
    ),
  ];
}
