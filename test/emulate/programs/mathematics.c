/* The C library's mathematical functions; all results as bits. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "check.h"

static uint64_t bits(double value) {
  uint64_t word;
  memcpy(&word, &value, sizeof word);
  return word;
}

int main(void) {
  uint64_t sum = 0;
  for (int i = 0; i < 150; i++) {
    double x = (double)(int32_t)next_random() / 1e7;
    sum = mix(sum, bits(floor(x)) ^ bits(ceil(x)) ^ bits(trunc(x)) ^ bits(round(x)) ^ bits(ldexp(x, i - 70)));
    sum = mix(sum, bits(sqrt(fabs(x))) ^ bits(fmax(x, 1)) ^ bits(rint(x)) ^ (uint64_t)lrint(x) ^ bits(cbrt(x)));
  }
  printf("simple %016llx\n", (unsigned long long)sum);
  fflush(stdout);
  for (int i = 0; i < 150; i++) {
    double x = (double)(int32_t)next_random() / 1e7;
    sum = mix(sum, bits(exp(x / 30)) ^ bits(log(fabs(x) + 1)) ^ bits(pow(fabs(x), 1.37)));
    sum = mix(sum, bits(sin(x)) ^ bits(cos(x)) ^ bits(atan2(x, 3)) ^ bits(fmod(x, 0.7)) ^ bits(hypot(x, 2)));
  }
  printf("all %016llx\n", (unsigned long long)sum);
  return 0;
}
