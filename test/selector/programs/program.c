/* Says what the selector is, and that main got what the kernel handed over. */
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include "selector.h"

extern char **environ;
static int exits;
static void at_exit(void) { printf("exits=%d\n", ++exits); }

int main(int argc, char **argv, char **envp) {
  int variables = 0;
  while (envp[variables]) variables++;
  atexit(at_exit);
  printf("selector=%d argc=%d last=%s env=%d same=%d secure=%ld ", selector(), argc, argc ? argv[argc - 1] : "", variables,
         envp == environ && argv[argc] == 0, getauxval(23));
  return 0;
}
