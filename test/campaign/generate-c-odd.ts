/**
 * Functions in C and C++ that are entered inside by other means than a table: nonlocal gotos, setjmp, asm goto, coroutines,
 * state machines that keep labels; and such as look at their frames.
 */
import type { Random } from "./random.js";

export interface Odd {
  readonly compilers: readonly ("gcc" | "clang" | "g++")[];
  /** Whether the way in is unusual, or what compilers make every day. */
  readonly unusual: 0 | 1;
  readonly selectors: number;
  /** The function's text: its head, which is not closed yet; steps, sites. */
  readonly write: (head: string, step: () => string, site: () => string, random: Random) => string;
}

export const odd: Readonly<Record<string, Odd>> = {
  "builtin setjmp": {
    compilers: ["gcc"],
    unusual: 1,
    selectors: 3,
    write: (head, step, site) => `${head}
  void *buffer[5];
  volatile int y = x;
  if (__builtin_setjmp(buffer) == 0) { ${step()} ${site()} y = x; if (s) leap(buffer); x = y + 1; ${site()} }
  else { x = y; ${site()} ${step()} }
  ${site()} return x;
}\n`,
  },
  setjmp: {
    compilers: ["gcc", "clang"],
    unusual: 0,
    selectors: 3,
    write: (head, step, site) => `${head}
  static jmp_buf buffer;
  volatile int y = x;
  if (setjmp(buffer) == 0) { ${step()} ${site()} y = x; if (s) longjmp(buffer, 1); ${site()} }
  else { x = y; ${site()} ${step()} }
  ${site()} return x;
}\n`,
  },
  "nonlocal goto": {
    compilers: ["gcc"],
    unusual: 1,
    selectors: 3,
    write: (head, step, site, random) => `${head}
  __label__ out, again;
  volatile int turns = 0;
  int y = x;
  __attribute__((noinline)) void leave(int k) { y += k; if (k == 1) goto out; if (k == 2 && turns++ == 0) goto again; }
  again: ${step()} ${site()} ${random.chance(0.5) ? step() : ""}
  y += x; leave(s); ${site()} x = y; ${step()}
  out: x ^= y; ${site()} ${step()}
  return x;
}\n`,
  },
  "asm goto": {
    compilers: ["gcc", "clang"],
    unusual: 0,
    selectors: 3,
    write: (head, step, site) => `${head}
  asm goto("test %0,%0; je %l1" : : "r"(s) : "cc" : zero);
  ${step()} ${site()}
  zero: ${step()} ${site()}
  asm goto("cmp $2,%0; jne %l1" : : "r"(s) : "cc" : other_way);
  ${step()} ${site()}
  other_way: x++;
  return x;
}\n`,
  },
  "labels that are kept": {
    compilers: ["gcc", "clang"],
    unusual: 1,
    selectors: 4,
    // A state machine that goes on where it left, by an address of its own that it stores.
    write: (head, step, site) => `${head}
  void *state = &&a; int left = 6;
  state = s == 1 ? &&b : s == 2 ? &&c : state;
  next: if (left-- == 0) return x; m[9] = (long)state; other(m); state = (void *)m[9]; m[9] = 0; goto *state;
  a: ${step()} ${site()} state = &&b; goto next;
  b: ${step()} ${site()} state = (x & 1) ? &&c : &&a; goto next;
  c: ${step()} ${site()}
  state = &&a; ${step()} goto next;
}\n`,
  },
  "calls among sites": {
    compilers: ["gcc", "clang"],
    unusual: 0,
    selectors: 3,
    write: (head, step, site) => `${head}
  for (int i = 0; i <= s; i++) { x += other(m); ${site()} x += frames(); ${site()} ${step()} }
  ${site()} x += frames(); return x;
}\n`,
  },
  coroutine: {
    compilers: ["g++"],
    unusual: 0,
    selectors: 3,
    write: (head, step, site, random) => {
      const name = /long (fn\d+)/.exec(head)![1]!;
      const part = (): string => `${step().replace("s;", "m[0];")} ${site()}`;
      return `static Turns turns_${name}(int x, long s, long *m) {
  ${part()} co_yield x; ${part()} if (s == 1) co_return; co_yield x; for (int i = 0; i < 2; i++) { ${part()} co_yield x + i; }
  ${random.chance(0.5) ? part() : ""}
}
${head} Turns turns = turns_${name}(x, s, m); x = 0;
  while (turns.next()) { x = x * 31 + turns.value(); if (s == 2 && x & 4) break; }
  return x;
}\n`;
    },
  },
  rethrown: {
    compilers: ["g++"],
    unusual: 0,
    selectors: 4,
    write: (head, step, site) => `${head}
  try { Keeper k(m); try { ${step()} raise(s, x); ${site()} } catch (int e) { x += e; ${site()} if (s == 1) throw; }
    raise(s - 2, x); ${site()} ${step()} }
  catch (...) { ${site()} ${step()} }
  ${site()} return x;
}\n`,
  },
};
