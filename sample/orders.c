/*
 * The program that README's first command rewrites: a small order book with three probes, compiled as any distribution
 * would (sample/build), and committed as a finished binary, since that is what this tool works on.
 *
 * Expected output: "1000 orders, 499500 cents, 91 large".
 */
#include <stdio.h>
#include <sys/sdt.h>

struct order {
  long id, cents;
};

__attribute__((noinline)) static long price(const struct order *order) {
  long cents = order->cents + order->id;
  DTRACE_PROBE2(orders, priced, order->id, cents);
  return cents;
}

__attribute__((noinline)) static int large(long cents) {
  if (cents < 909) return 0;
  DTRACE_PROBE1(orders, large, cents);
  return 1;
}

int main(void) {
  long total = 0, big = 0;
  for (long i = 0; i < 1000; i++) {
    struct order order = {i, 0};
    long cents = price(&order);
    total += cents;
    big += large(cents);
  }
  DTRACE_PROBE2(orders, closed, total, big);
  printf("1000 orders, %ld cents, %ld large\n", total, big);
  return 0;
}
