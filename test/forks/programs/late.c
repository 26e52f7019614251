/* A library whose destructor does what those that need it have asked for: theirs have run by then. */
#include <stddef.h>

static void (*wanted)(void);

void late(void (*what)(void)) { wanted = what; }

__attribute__((destructor)) static void finish(void) {
  if (wanted != NULL) wanted();
}
