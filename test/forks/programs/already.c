/*
 * A program, or with LIBRARY a library, whose probes were built as five-byte nops (NOP, as the assembler has it, for others).
 * It passes them, forks as many children as it is told to, one after the other, and each passes them as well; then it says
 * how many were killed.
 *
 * ROOMY: its code has several pages
 * USER: no probes; it has the library that is named do all that
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef USER
int main(int argc, char **argv) {
  int (*family)(int) = (int (*)(int))dlsym(dlopen(argv[2], RTLD_NOW), "family");
  return family(atoi(argv[1]));
}
#else
#include <sys/sdt.h>
#undef _SDT_NOP
#ifndef NOP
#define NOP .nops 5
#endif
#define _SDT_NOP NOP
#ifdef ROOMY
#define PLACE __attribute__((noinline, aligned(4096)))
#else
#define PLACE __attribute__((noinline))
#endif

static volatile long sum;

PLACE static void first(long i) {
  sum += i;
  STAP_PROBE1(already, first, i);
  getppid();
}
PLACE static void second(long i) {
  sum ^= i;
  STAP_PROBE2(already, second, i, sum);
  getppid();
}
static void pass(void) {
  for (int i = 0; i < 3; i++) {
    first(i);
    second(i);
  }
}
int family(int children) {
  int killed = 0;
  pass();
  for (int i = 0; i < children; i++) {
    pid_t child = fork();
    if (child == 0) {
      pass();
      _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    killed += WIFSIGNALED(status);
  }
  printf("%d of %d killed\n", killed, children);
  return 0;
}
#ifndef LIBRARY
int main(int argc, char **argv) { return family(atoi(argv[1])); }
#endif
#endif
