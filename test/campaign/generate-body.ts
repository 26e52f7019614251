/**
 * The part of a function that is entered at its labels: small steps on eax between sites. What follows a site is short, so
 * that the next label often lies within the five bytes that a careless rewriter overwrites.
 *
 *     .L0:  add $100,%eax
 *           SITE
 *     .L1:  inc %eax            one byte behind the site's nop
 */
import type { Writer } from "./writer.js";

export interface BodyOptions {
  /** Steps are few and short: distances have to fit a byte. */
  readonly small?: boolean;
  /** Something may be called: not where values lie below rsp. */
  readonly calls?: boolean;
  /** A step that every block may have once more, before one of its sites. */
  readonly extra?: () => void;
}

/** A step: its bytes and its text. */
type Step = readonly [number, string];

function steps(w: Writer): readonly Step[] {
  const k = w.random.between(1, 100);
  return [
    [2, "inc %eax"],
    [2, "xor %esi,%eax"],
    [3, `add $${k},%eax`],
    [3, `imul $${k | 1},%eax,%eax`],
    [3, `rol $${1 + (k % 30)},%eax`],
    [2, "add %eax,(%rdx)"],
    [3, "addl $3,8(%rdx)"],
    [4, `lea ${k}(%rax,%rsi),%eax`],
    [2, "not %eax"],
    [3, "mov 16(%rdx),%r8d"],
    [5, `add $${k * 1000},%eax`],
    [2, "add (%rdx),%eax"],
    [3, "bswap %eax; nop"],
  ];
}

const step = (w: Writer, most = 5): Step => w.random.pick(steps(w).filter(([bytes]) => bytes <= most));

/** Something with a branch of its own, which may stand where instructions are moved. */
function branch(w: Writer): void {
  const [skip, again] = [w.fresh(), w.fresh()];
  if (w.random.chance(0.6)) {
    w.emit("test $1,%sil", `${w.random.pick(["je", "jne"])} ${skip}`, step(w)[1], `${skip}:`);
  } else {
    w.emit("mov $3,%r10d", `${again}:`, step(w, 3)[1]);
    if (w.random.chance(0.5)) w.site();
    w.emit("dec %r10d", `jne ${again}`);
  }
}

/** Writes the blocks, each with its label, and the function's end behind them. */
export function body(w: Writer, labels: readonly string[], options: BodyOptions = {}): void {
  const end = w.label("end");
  const most = options.small ? 3 : 5;
  for (const [i, label] of labels.entries()) {
    w.emit(`${label}:`, step(w, most)[1]);
    if (w.random.chance(0.4)) w.emit(step(w, most)[1]);
    if (!options.small && w.random.chance(0.25)) branch(w);
    if (!options.small && options.calls && w.random.chance(0.2)) w.emit("call campaign_helper");
    options.extra?.();
    if (i === 0 || w.random.chance(0.8)) w.site();
    else continue;
    if (w.random.chance(0.05)) w.site();
    if (w.random.chance(0.12)) w.emit(`jmp ${end}`);
    else if (w.random.chance(0.5)) w.emit(step(w, 4)[1]);
    else if (w.random.chance(0.2)) for (let k = 0; k < 3; k++) w.emit(step(w)[1]);
  }
  w.emit(`${end}:`, step(w)[1]);
  if (w.random.chance(0.2)) w.site();
  w.close();
}

/** Something for eax to begin with. */
export const seed = (w: Writer): void => w.emit(w.random.pick(["lea 1(%rsi),%eax", "xor %eax,%eax", "mov $7,%eax"]));
