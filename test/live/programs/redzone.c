/*
 * Two leaf functions that keep what they compute below rsp while they pass a probe: one says so in assembly, of the other
 * the compiler makes it (the first has no arguments: a compiler may store those below rsp, too). Each is called often, since a probe only becomes a call at its first hit.
 */
#include <stdio.h>
#include <sys/sdt.h>
#ifdef REDZONE_NOP5
#undef _SDT_NOP
#define _SDT_NOP .nops 5
#endif

__attribute__((noinline)) static unsigned long mix(unsigned long left, unsigned long right) {
  unsigned long result;
  __asm__ volatile("movq %0, -16(%%rsp); movq %1, -24(%%rsp)" ::"r"(left), "r"(right) : "memory");
  STAP_PROBE(live, mix);
  __asm__ volatile("movq -16(%%rsp), %0; xorq -24(%%rsp), %0" : "=r"(result)::"memory");
  return result;
}

__attribute__((noinline)) static long weigh(long first, int last) {
  volatile long weights[10];
  for (int i = 0; i < 10; i++) weights[i] = first * (i + 1);
  STAP_PROBE1(live, weigh, first);
  return weights[9] + weights[last];
}

int main(void) {
  long wrong = 0;
  for (long i = 0; i < 500; i++) {
    wrong += mix(i, 3 * i + 1) != (i ^ (3 * i + 1));
    wrong += weigh(i, i % 10) != 10 * i + i * (i % 10 + 1);
  }
  printf("wrong %ld of 1000\n", wrong);
  return wrong != 0;
}
