/* An interpreter with computed goto: an array in its frame, a switch that counts backwards, calls of the C library. */
#include <stdio.h>
#include <sys/sdt.h>

static long __attribute__((noinline)) run(const unsigned char *code, long a) {
  static void *const labels[] = {&&halt, &&add, &&multiply, &&mix, &&store, &&negate, &&say};
  long kept[8] = {0};
  int used = 0;
#define NEXT goto *labels[*code++]
  NEXT;
add: a += *code++; DTRACE_PROBE1(app, add, a); NEXT;
multiply: a *= *code++; DTRACE_PROBE1(app, multiply, a); NEXT;
mix: DTRACE_PROBE(app, mix); a ^= *code++; NEXT;
store: kept[used++ & 7] = a; DTRACE_PROBE2(app, store, a, used); NEXT;
negate: a = -a; DTRACE_PROBE(app, negate); NEXT;
say: if (a > 1000000) puts("much"); DTRACE_PROBE(app, say); NEXT;
halt:
  switch (a & 7) {
  case 2: return a + kept[0];
  case 3: return a - kept[1];
  case 4: return a ^ kept[2];
  case 5: return a * 3 + used;
  case 6: return a / 3;
  case 7: return ~a;
  default: return a + kept[used & 7];
  }
}

int main(void) {
  static const unsigned char code[] = {1, 5, 2, 7, 4, 3, 9, 5, 4, 6, 1, 3, 4, 6, 2, 200, 4, 6, 0};
  long sum = 0;
  for (int i = 0; i < 40; i++) sum = sum * 31 + run(code, i * 37);
  printf("%ld\n", sum);
  return 0;
}
