/*
 * A program, or a library, for tracers to agree upon: PROVIDER names its probes, and all that they see follows from the round.
 *
 *     entered   -4@ and 8@         once a round
 *     shared    two arguments      four sites of one name, three of them inlined
 *     leaf      red zone           calls nothing, and keeps its bytes below rsp
 *     wide      six arguments      of every size, with sign and without
 *     last      none               once, at the end
 */
#include <stdio.h>
#include <sys/sdt.h>

#define ROUNDS 12
#define NOINLINE __attribute__((noinline))

static int total;
static short narrow;

__attribute__((always_inline)) static inline unsigned shared(unsigned value, unsigned add) {
  STAP_PROBE2(PROVIDER, shared, value, add);
  return value * 3 + add;
}

NOINLINE static unsigned three(unsigned round, unsigned add) {
  return shared(shared(shared(round, add), add + 1), add + 2);
}

NOINLINE static unsigned one(unsigned round) {
  return shared(round + 1000, round) ^ 0x55;
}

NOINLINE static long leaf(long first, int last) {
  volatile long kept[10];
  for (int i = 0; i < 10; i++) kept[i] = first * (i + 1);
  STAP_PROBE2(PROVIDER, leaf, first, last);
  return kept[9] + kept[last];
}

/* Its bytes are in registers whose byte has a name that gdb knows, too. */
NOINLINE static long wide(unsigned char f, int b, short c, signed char d, unsigned long e, long a) {
  narrow = c;
  STAP_PROBE6(PROVIDER, wide, a, b, c, d, e, f);
  return a + b + c + d + (long)e + f + narrow;
}

NOINLINE static int entered(int round) {
  long far = -3L * round;
  STAP_PROBE2(PROVIDER, entered, round, far);
  return round + (int)far;
}

#ifdef GATED
int gated(int rounds);
#endif

int witness(void) {
  long sum = 0;
  for (int round = 0; round < ROUNDS; round++) {
    sum += entered(round);
    sum += three(round, round * 7) + one(round);
    sum += leaf(round * 100L, round % 10);
    sum += wide(200 + round, -round, -5 * round, -round, ~0UL - round, 1L << round);
  }
#ifdef GATED
  sum += gated(ROUNDS);
#endif
  STAP_PROBE(PROVIDER, last);
  total = (int)(sum ^ (sum >> 32));
  printf("witness %08x\n", total);
  return 0;
}

#ifndef LIBRARY
int main(void) { return witness(); }
#endif
