/*
 * Passes a probe over values that it keeps below rsp, and forks a child that does the same, again and again, while
 * tracers come and go. A character of input makes it pause, say what came of it until then, and wait for another one
 * to go on:
 *
 *     passed PASSES killed CHILDREN of CHILDREN wrong RESULTS
 *
 * PASSES are its own and those of children that lived. The end of its input ends it.
 */
#include <poll.h>
#include <stdio.h>
#include <sys/sdt.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 20

__attribute__((noinline)) static unsigned long mix(unsigned long left, unsigned long right) {
  unsigned long result;
  __asm__ volatile("movq %0, -16(%%rsp); movq %1, -24(%%rsp)" ::"r"(left), "r"(right) : "memory");
  STAP_PROBE(kernels, mix);
  __asm__ volatile("movq -16(%%rsp), %0; xorq -24(%%rsp), %0" : "=r"(result)::"memory");
  return result;
}

static long wrongly_mixed(void) {
  long wrong = 0;
  for (unsigned long i = 0; i < ROUNDS; i++) wrong += mix(i, 3 * i + 1) != (i ^ (3 * i + 1));
  return wrong;
}

int main(void) {
  long passed = 0, killed = 0, children = 0, wrong = 0;
  setlinebuf(stdout);
  for (;;) {
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, 0) > 0) {
      char order;
      if (read(0, &order, 1) != 1) return 0;
      printf("passed %ld killed %ld of %ld wrong %ld\n", passed, killed, children, wrong);
      if (read(0, &order, 1) != 1) return 0;
    }
    wrong += wrongly_mixed();
    passed += ROUNDS;
    pid_t child = fork();
    if (child == 0) _exit(wrongly_mixed() != 0);
    int status = 0;
    waitpid(child, &status, 0);
    children++;
    if (WIFSIGNALED(status))
      killed++;
    else
      passed += ROUNDS, wrong += WEXITSTATUS(status);
  }
}
