/* For LD_PRELOAD: says what its selector is when the program ends. */
#include <stdio.h>
#include "selector.h"

__attribute__((destructor)) static void end(void) { printf("preloaded=%d\n", selector()); }
