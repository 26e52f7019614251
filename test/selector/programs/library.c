/* A library that says what its selector is, and which arguments its initialiser got. */
#include <stdio.h>
#include <stdlib.h>
#include "selector.h"

static int argc_seen = -1;
static char **argv_seen, **envp_seen;

__attribute__((constructor)) static void begin(int argc, char **argv, char **envp) {
  argc_seen = argc;
  argv_seen = argv;
  envp_seen = envp;
}

int library_selector(void) {
  /* What needs a version of the C library's symbols. */
  if (getenv("LOUD")) puts("asked");
  return selector();
}
void library_arguments(int *argc, char ***argv, char ***envp) {
  *argc = argc_seen;
  *argv = argv_seen;
  *envp = envp_seen;
}
