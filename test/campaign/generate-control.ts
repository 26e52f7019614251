/** Functions without anything unusual: what a careful rewriter rewrites. */
import { type Flavour, type GeneratedFunction, plain } from "./function.js";
import { body, seed } from "./generate-body.js";
import { dispatch } from "./generate-dispatch.js";
import type { Random } from "./random.js";
import { type Frame, Writer } from "./writer.js";

type Control = (w: Writer) => number;

const controls: Readonly<Record<string, Control>> = {
  /** No labels at all but the way in. */
  straight: (w) => {
    w.open(w.random.pick<Frame>(["none", "sub", "rbp"]));
    seed(w);
    const blocks = w.random.between(1, 3);
    body(
      w,
      Array.from({ length: blocks }, (_, i) => w.label(`${i}`)),
      { calls: w.frame !== "none" },
    );
    return 2;
  },
  /** Labels that branches lead to, as every compiler writes them. */
  branches: (w) => {
    w.open(w.random.pick<Frame>(["none", "sub", "rbp"]));
    seed(w);
    const count = w.random.between(2, 5);
    const labels = Array.from({ length: count }, (_, i) => w.label(`${i}`));
    for (const [i, label] of labels.entries()) if (i > 0) w.emit(`cmp $${i},%edi`, `je ${label}`);
    body(w, labels, { calls: w.frame !== "none" });
    return count;
  },
  /** Values below rsp that live across sites: nothing may be written there while a probe is hit. */
  "red zone": (w) => {
    w.open("none");
    seed(w);
    w.emit("mov %rsi,-8(%rsp)", "mov %edi,-16(%rsp)", "movl $77,-100(%rsp)");
    const count = w.random.between(1, 3);
    body(
      w,
      Array.from({ length: count }, (_, i) => w.label(`${i}`)),
      {
        extra: () => w.emit(w.random.pick(["add -8(%rsp),%eax", "add -16(%rsp),%eax", "xor -100(%rsp),%eax"])),
      },
    );
    return 3;
  },
  loop: (w) => {
    w.open(w.random.pick<Frame>(["none", "sub"]));
    seed(w);
    const [again, out] = [w.fresh(), w.fresh()];
    w.emit("lea 2(%rdi),%r10d", `${again}:`, "add %r10d,%eax");
    w.site();
    w.emit(w.random.pick(["inc %eax", "lea 3(%rax,%rsi),%eax", "test $1,%al", "add (%rdx),%eax"]));
    if (w.random.chance(0.4)) w.emit("cmp $0x1000000,%eax", `ja ${out}`);
    w.emit("dec %r10d", `jne ${again}`, `${out}:`);
    body(w, [w.label("0")], { calls: false });
    return 3;
  },
  /** Calls before and behind sites. */
  calls: (w) => {
    w.open(w.random.pick<Frame>(["sub", "rbp"]));
    seed(w);
    for (let i = w.random.between(1, 3); i > 0; i--) {
      w.emit("call campaign_helper");
      w.site();
      w.emit(w.random.pick(["call campaign_helper", "add $5,%eax", "mov %eax,%r8d"]));
    }
    body(w, [w.label("0")], { calls: true });
    return 2;
  },
};

/** Callees that unwind, as profilers and exceptions do; where there is nothing to unwind by, plain calls. */
const unwound: Control = (w) => {
  const call = w.flavour.cfi ? "call campaign_frames" : "call campaign_helper";
  w.open(w.random.pick<Frame>(["none", "sub", "rbp"]));
  seed(w);
  for (let i = w.random.between(1, 3); i > 0; i--) {
    if (w.random.chance(0.5)) w.emit(call);
    w.site();
    if (w.random.chance(0.5)) w.emit(w.random.pick(["inc %eax", "add $5,%eax", "neg %eax"]));
    w.emit(call);
  }
  body(w, [w.label("0")]);
  return 2;
};

export function control(name: string, random: Random, flavour: Flavour): GeneratedFunction {
  const kind = random.pick([...Object.keys(controls), "unwound", "table"]);
  if (kind === "table") return dispatch(name, random, flavour, 0);
  const w = new Writer(name, random, flavour);
  const selectors = (kind === "unwound" ? unwound : controls[kind]!)(w);
  return { name, kinds: { ...plain, special: kind }, unusual: 0, assumption: null, selectors, text: w.text(selectors) };
}
