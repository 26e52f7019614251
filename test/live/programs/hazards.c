/*
 * A leaf function that keeps its array below rsp, and one that keeps nothing there. With -DHAZARD_NOP5 their probes are
 * five-byte nops from the start, which rewriting leaves as they are.
 */
#include <stdio.h>
#include <sys/sdt.h>
#ifdef HAZARD_NOP5
#undef _SDT_NOP
#define _SDT_NOP .nops 5
#endif

__attribute__((noinline)) long leaf(long first, int last) {
  volatile long list[5];
  for (int i = 0; i < 5; i++) list[i] = first * i;
  STAP_PROBE1(hazard, leaf, first);
  return list[last] + list[4];
}

__attribute__((noinline)) long calls(long value) {
  puts("calls");
  STAP_PROBE1(hazard, calls, value);
  return value + getchar();
}

int main(void) {
  printf("%ld\n", leaf(7, 2) + calls(1));
  return 0;
}
