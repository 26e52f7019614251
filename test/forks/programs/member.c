/*
 * A library with probes, for family.c to open.
 *
 *   MEMBER_FORKS=constructor|destructor|late    when it forks by itself: late is in a destructor of a library that it needs
 *                                               (late.c), which runs behind all of its own
 *
 * CARELESS: it registers a child handler of its own in a way that dlclose does not know of.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/sdt.h>
#include "board.h"

static volatile long sum;

__attribute__((noinline, aligned(4096))) static void one(long i) {
  sum += i;
  STAP_PROBE1(member, one, i);
}
__attribute__((noinline, aligned(4096))) static long leaf(long i) {
  volatile long below[4];
  for (int k = 0; k < 4; k++) below[k] = i * (k + 1);
  STAP_PROBE1(member, leaf, i);
  return below[0] + below[3];
}

void member_pass(void) {
  for (int i = 0; i < 3; i++) {
    one(i);
    if (leaf(5) != 25) count(&board()->wrong);
    count(&board()->library_passes);
  }
}

void member_fork(void) {
  pid_t child = fork();
  if (child == 0) {
    count(&board()->begun);
    member_pass();
    count(&board()->ended);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) count(&board()->killed[WTERMSIG(status)]);
  else if (WEXITSTATUS(status) != 0) count(&board()->wrong);
}

static void pass_and_fork(void) {
  member_pass();
  member_fork();
}
static int forks_at(const char *when) {
  const char *wanted = getenv("MEMBER_FORKS");
  return wanted != NULL && strcmp(wanted, when) == 0;
}

#ifdef LATE
void late(void (*what)(void));
#endif
#ifdef CARELESS
int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
static void after_fork(void) { sum++; }
#endif

__attribute__((constructor)) static void start(void) {
  if (forks_at("constructor")) pass_and_fork();
#ifdef LATE
  if (forks_at("late")) late(pass_and_fork);
#endif
#ifdef CARELESS
  __register_atfork(NULL, NULL, after_fork, NULL);
#endif
}
__attribute__((destructor)) static void finish(void) {
  if (forks_at("destructor")) pass_and_fork();
}
