/** Systems whose answers are in textbooks. Each is a program counter per actor and a few shared words. */
import type { Step, System } from "../../src/explore/system.js";

interface ToyStep extends Step {
  readonly effect: (state: Int32Array) => void;
}

/** The steps of one actor in a state: label, effect, and whether it is private or wrong. */
type Rule = (
  state: Int32Array,
  actor: number,
) => readonly { label: string; effect?: (s: Int32Array) => void; isPrivate?: boolean; wrong?: string }[];

export function toy(actors: number, initial: readonly number[], rule: Rule, isEnd: System["isEnd"]): System<ToyStep> {
  return {
    width: initial.length,
    actors,
    initial: () => Int32Array.from(initial),
    steps: (state, actor) =>
      rule(state, actor).map(({ label, effect = () => {}, isPrivate = false, wrong }) => ({
        label,
        effect,
        isPrivate,
        violation: wrong === undefined ? null : { property: wrong, message: wrong },
      })),
    apply: (state, _actor, step, into) => {
      into.set(state);
      step.effect(into);
    },
    isEnd,
  };
}

const set = (...pairs: number[]) => {
  return (s: Int32Array): void => {
    for (let i = 0; i < pairs.length; i += 2) s[pairs[i]!] = pairs[i + 1]!;
  };
};

/**
 * Peterson's mutual exclusion, once each: raise the flag, give way, wait, enter, leave. `mutilated` does not give way:
 * then both wait for each other. `hasty` does not wait: then both are inside.
 */
export function peterson(kind: "right" | "mutilated" | "hasty"): System {
  const [FLAG, TURN] = [2, 4];
  return toy(
    2,
    [0, 0, 0, 0, 0],
    (s, a) => {
      const other = 1 - a;
      const mayEnter = s[FLAG + other] === 0 || (kind !== "mutilated" && s[TURN] === a);
      switch (s[a]) {
        case 0:
          return [{ label: "raise flag", effect: set(FLAG + a, 1, a, 1) }];
        case 1:
          return kind === "mutilated"
            ? [{ label: "think", effect: set(a, 2), isPrivate: true }]
            : [{ label: "give way", effect: set(TURN, other, a, 2) }];
        case 2:
          if (!mayEnter && kind !== "hasty") return [];
          return [{ label: "enter", effect: set(a, 3), ...(s[other] === 3 ? { wrong: "both inside" } : {}) }];
        case 3:
          return [{ label: "leave", effect: set(FLAG + a, 0, a, 4) }];
        case 4:
          return [{ label: "rest", effect: set(a, 5), isPrivate: true }];
        default:
          return [];
      }
    },
    (s) => s[0] === 5 && s[1] === 5,
  );
}

/** Dining philosophers, each eats once. All take the left fork first, or one takes the right one first. */
export function philosophers(n: number, oneIsLeftHanded: boolean): System {
  const fork = (i: number): number => n + (i % n);
  return toy(
    n,
    new Array(2 * n).fill(0),
    (s, a) => {
      const swap = oneIsLeftHanded && a === 0;
      const [first, second] = swap ? [fork(a + 1), fork(a)] : [fork(a), fork(a + 1)];
      switch (s[a]) {
        case 0:
          return [{ label: "think", effect: set(a, 1), isPrivate: true }];
        case 1:
          return s[first] === 0 ? [{ label: "first fork", effect: set(first, 1, a, 2) }] : [];
        case 2:
          return s[second] === 0 ? [{ label: "second fork", effect: set(second, 1, a, 3) }] : [];
        case 3:
          return [{ label: "eat", effect: set(a, 4), isPrivate: true }];
        case 4:
          return [{ label: "put down", effect: set(first, 0, second, 0, a, 5) }];
        default:
          return [];
      }
    },
    (s) => s.subarray(0, n).every((pc) => pc === 5),
  );
}

/** A writer changes two words one after the other, a reader reads both: with a lock, or without. */
export function tornWrite(locked: boolean): System {
  const [LOW, HIGH, LOCK, SEEN] = [2, 3, 4, 5];
  return toy(
    2,
    [0, 0, 0, 0, 0, 0],
    (s, a) => {
      const pc = s[a]!;
      const lock = { label: "lock", effect: set(LOCK, 1, a, pc + 1) };
      const skip = { label: "go on", effect: set(a, pc + 1), isPrivate: true };
      const unlock = { label: "unlock", effect: set(LOCK, 0, a, pc + 1) };
      if (pc === 0) return locked ? (s[LOCK] === 0 ? [lock] : []) : [skip];
      if (pc === 3) return [locked ? unlock : skip];
      if (pc > 3) return [];
      if (a === 0)
        return [{ label: pc === 1 ? "write low" : "write high", effect: set(pc === 1 ? LOW : HIGH, 1, a, pc + 1) }];
      if (pc === 1) return [{ label: "read low", effect: (t) => set(SEEN, t[LOW]!, a, 2)(t) }];
      const torn = s[SEEN] !== s[HIGH];
      return [{ label: "read high", effect: set(a, 3), ...(torn ? { wrong: "torn" } : {}) }];
    },
    (s) => s[0] === 4 && s[1] === 4,
  );
}

/** One actor may fall into a loop of its own; the other one ends. */
export function trap(isPrivate: boolean): System {
  return toy(
    2,
    [0, 0],
    (s, a) => {
      if (a === 1) return s[1] === 0 ? [{ label: "done", effect: set(1, 1) }] : [];
      if (s[0] === 0)
        return [
          { label: "end", effect: set(0, 9) },
          { label: "fall", effect: set(0, 1) },
        ];
      if (s[0] === 9) return [];
      return [{ label: "turn", effect: set(0, s[0] === 1 ? 2 : 1), isPrivate }];
    },
    (s) => s[0] === 9 && s[1] === 1,
  );
}
