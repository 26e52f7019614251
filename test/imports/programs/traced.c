/* A site that a test traces. The parent runs it three times, then makes children as the arguments say, each of which runs it
 * twice; a word a child: "ok", or the signal that killed it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) static void hit(void) {
  __asm__ volatile(".globl traced_site\ntraced_site: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00" ::: "memory");
}

/* A mapping of one page cannot be split: its children would live and not be counted. */
__asm__(".text\n.skip 8192, 0xcc");

static int child(void *p) {
  hit();
  hit();
  return 3;
}

static void *thread(void *p) {
  hit();
  return p;
}

volatile long number;
static char stack[65536];

static int make(const char *how) {
  if (strcmp(how, "fork") == 0) return fork();
  if (strcmp(how, "_Fork") == 0) return _Fork();
  if (strcmp(how, "clone") == 0) return clone(child, stack + sizeof stack, SIGCHLD, 0);
  number = SYS_clone;
  return syscall(number, SIGCHLD, 0, 0, 0, 0);
}

int main(int argc, char **argv) {
  for (int i = 0; i < 3; i++) hit();
  for (char **how = argv + 1; *how != 0; how++) {
    pthread_t id;
    void *result;
    pthread_create(&id, 0, thread, 0);
    pthread_join(id, &result);
    int pid = make(*how), status = 0;
    if (pid < 0) return 1;
    if (pid == 0) _exit(child(0));
    waitpid(pid, &status, 0);
    if (status == 3 << 8) puts("ok");
    else printf("signal %d\n", status & 127);
  }
}
