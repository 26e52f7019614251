/* Recursion: Ackermann, Fibonacci, queens, permutations, mutual recursion, a deep stack. */
#include <stdio.h>
#include "check.h"

static unsigned ackermann(unsigned m, unsigned n) { return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1)); }
static unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static int queens(int n, unsigned columns, unsigned left, unsigned right) {
  unsigned all = (1u << n) - 1;
  if (columns == all) return 1;
  int count = 0;
  for (unsigned open = all & ~(columns | left | right); open != 0; open &= open - 1) {
    unsigned bit = open & -open;
    count += queens(n, columns | bit, (left | bit) << 1, (right | bit) >> 1);
  }
  return count;
}
static uint64_t permute(char *text, int from, int to, uint64_t sum) {
  if (from == to) return mix_bytes(sum, text, (size_t)to);
  for (int i = from; i < to; i++) {
    char swapped = text[from];
    text[from] = text[i], text[i] = swapped;
    sum = permute(text, from + 1, to, sum);
    swapped = text[from];
    text[from] = text[i], text[i] = swapped;
  }
  return sum;
}
static int odd(unsigned n);
static int even(unsigned n) { return n == 0 ? 1 : odd(n - 1); }
static int odd(unsigned n) { return n == 0 ? 0 : even(n - 1); }
__attribute__((noinline)) static unsigned deep(unsigned n, volatile unsigned *before) {
  volatile unsigned here[64];
  here[n % 64] = n;
  return n == 0 ? *before : deep(n - 1, here) + here[n % 64];
}

int main(void) {
  char text[] = "abcdef";
  printf("%u %u %d %016llx %d\n", ackermann(2, 40), fibonacci(19), queens(7, 0, 0, 0),
         (unsigned long long)permute(text, 0, 6, 0), even(10001));
  volatile unsigned first = 9;
  printf("%u\n", deep(8000, &first));
  return 0;
}
