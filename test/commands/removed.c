/* A function that nobody calls: lld drops it with --gc-sections, and leaves its note, whose location is 0 then. */
#include <sys/sdt.h>

void unused(int value) { STAP_PROBE1(removed, unused, value); }

int main(void) {
  STAP_PROBE(removed, used);
  return 0;
}
