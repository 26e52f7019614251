/* setjmp and longjmp, switch tables, computed goto, function pointers, variable arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include "check.h"

static jmp_buf place;

__attribute__((noinline)) static int deeper(int depth, int value) {
  volatile int local = depth * 3;
  if (depth == 0) longjmp(place, value);
  return deeper(depth - 1, value) + local;
}

__attribute__((noinline)) static unsigned dense(unsigned what, unsigned x) {
  switch (what) {
    case 0: return x + 1;
    case 1: return x * 3;
    case 2: x ^= 0x55; /* fall through */
    case 3: return x << 3;
    case 4: return x >> 2;
    case 5: return ~x;
    case 6: return x / 7;
    case 7: return x % 1001;
    case 8: return x - 77;
    case 9: return x | 0x1010;
    default: return x;
  }
}

__attribute__((noinline)) static int sparse(int what) {
  switch (what) {
    case -100000: return 1;
    case -3: return 2;
    case 0: return 3;
    case 17: return 4;
    case 1000: return 5;
    case 0x7fffffff: return 6;
    default: return 7;
  }
}

static unsigned interpret(const unsigned char *code, unsigned value) {
  static void *const table[] = {&&add, &&twice, &&turn, &&stop};
  goto *table[*code++];
add:
  value += 13;
  goto *table[*code++];
twice:
  value *= 2;
  goto *table[*code++];
turn:
  value = value >> 5 | value << 27;
  goto *table[*code++];
stop:
  return value;
}

static double sum_of(int count, ...) {
  va_list list;
  va_start(list, count);
  double sum = 0;
  for (int i = 0; i < count; i++) sum += i % 2 ? va_arg(list, double) : (double)va_arg(list, long);
  va_end(list);
  return sum;
}

static int plus(int a, int b) { return a + b; }
static int minus(int a, int b) { return a - b; }
static int times(int a, int b) { return (int)((unsigned)a * (unsigned)b); }

int main(void) {
  volatile int rounds = 0;
  int came = setjmp(place);
  rounds++;
  if (came < 20) deeper(came % 7 + 1, came + 1);
  printf("%d rounds, last value %d\n", rounds, came);
  uint64_t sum = 0;
  unsigned x = 1;
  for (unsigned i = 0; i < 20000; i++) sum = mix(sum, x = dense((unsigned)(next_random() % 12), x + i));
  static const int numbers[] = {-100000, -3, 0, 17, 1000, 0x7fffffff, 5};
  for (int i = 0; i < 7; i++) sum = mix(sum, (uint64_t)sparse(numbers[i]));
  static const unsigned char code[] = {0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 3};
  for (unsigned i = 0; i < 500; i++) sum = mix(sum, interpret(code, i));
  static int (*const operations[])(int, int) = {plus, minus, times};
  int value = 1;
  for (int i = 0; i < 3000; i++) value = operations[next_random() % 3](value, i);
  printf("%016llx %d %d\n", (unsigned long long)sum, value, (int)sum_of(9, 1L, 2.5, 3L, 4.5, 5L, 6.25, 7L, 8.75, 9L));
  return came;
}
