/* Runs a program that was linked as a shared library: `host LIBRARY [FIRST [LAST]]`. */
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
  int (*run)(int, char **) = (int (*)(int, char **))dlsym(library, "campaign_main");
  return run(argc - 1, argv + 1);
}
