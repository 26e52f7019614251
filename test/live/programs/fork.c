/*
 * The parent passes its probe until the kernel has optimized it; then a child, which shares nothing but what fork copies,
 * passes the same probe. Prints how the child ended.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/sdt.h>

static long passed;

__attribute__((noinline)) static void pass(long i) {
  passed += i;
  STAP_PROBE1(live, pass, i);
  __asm__ volatile("" ::: "memory");
}

int main(void) {
  for (long i = 0; i < 20; i++) pass(i);
  pid_t child = fork();
  if (child == 0) {
    for (long i = 0; i < 20; i++) pass(i);
    _exit(passed == 380 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status))
    printf("child killed by signal %d\n", WTERMSIG(status));
  else
    printf("child exit %d\n", WEXITSTATUS(status));
  puts("ready");
  fflush(stdout);
  getchar();
  return 0;
}
