/* printf and scanf of integers and strings, and of doubles where DOUBLES says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

int main(void) {
  printf("%d %i %u %x %X %o %c %%\n", -1, 2147483647, 4294967295u, 0xbeefu, 0xcafeu, 0777u, 'c');
  printf("[%5d] [%-5d] [%05d] [%+d] [% d] [%#x] [%#o] [%.3d] [%8.3d]\n", 42, 42, 42, 42, 42, 42u, 42u, 7, 7);
  printf("%ld %lu %llx %hhd %hu %zu\n", -9223372036854775807L - 1, 18446744073709551615ul, 0x123456789abcdefull, (signed char)-3,
         (unsigned short)65535, sizeof(long));
  printf("[%s] [%10s] [%-10s] [%.2s] [%*s]\n", "text", "right", "left", "cut", 7, "star");
  uint64_t sum = 0;
  char line[128];
  for (int i = 0; i < 300; i++) {
    uint64_t value = next_random() >> (i % 64);
    int size = snprintf(line, sizeof line, "%llu/%lld/%llx", (unsigned long long)value, (long long)value, (unsigned long long)value);
    sum = mix_bytes(sum, line, (size_t)size);
    unsigned long long a, c;
    long long b;
    if (sscanf(line, "%llu/%lld/%llx", &a, &b, &c) != 3 || a != value || (uint64_t)b != value || c != value) printf("lost %s\n", line);
  }
  printf("%016llx\n", (unsigned long long)sum);
#ifdef DOUBLES
  static const double values[] = {0, -0.0, 1, 0.1, 3.141592653589793, 1e300, 5e-324, 1e-5, 123456789.125, 1.0 / 3, 2.5, 1e22, 0x1p1023};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    printf("%g %.17g %f %e %a %.0f %10.3f|%-12.4e|\n", values[i], values[i], i == 5 || i == 12 ? 0 : values[i], values[i], values[i],
           i == 5 || i == 12 ? 0 : values[i], values[i] < 1e20 ? values[i] : 0, values[i]);
  printf("%f %g %e\n", 1.0 / (values[0] + 0.0), -1.0 / (values[0] + 0.0), 0.0 / 0.5);
  for (int i = 0; i < 100; i++) {
    union { uint64_t bits; double value; } x = {next_random()};
    if (x.value != x.value) continue;
    snprintf(line, sizeof line, "%.17g", x.value);
    double back = strtod(line, NULL);
    if (memcmp(&back, &x.value, sizeof back) != 0) printf("%s comes back as %.17g\n", line, back);
    sum = mix_bytes(sum, line, strlen(line));
  }
  printf("%016llx %g %g\n", (unsigned long long)sum, atof("1e-310"), strtod("0x1.8p3", NULL));
#endif
  fprintf(stderr, "on standard error: %d\n", 17);
  return 3;
}
