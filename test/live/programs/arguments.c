/* Runs every function of arguments.S several times, since a probe is optimized at its first hit, and prints what they return. */
#include <stdio.h>

extern long (*const functions[])(long round);

int main(void) {
  for (long round = 0; round < 6; round++)
    for (int i = 0; functions[i] != 0; i++) printf("%ld %d: %ld\n", round, i, functions[i](round));
  return 0;
}
