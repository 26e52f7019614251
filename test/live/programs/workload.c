/*
 * Does what its first argument says, and passes its probe on the way: live:work, with what it counts as the argument. No
 * process passes it both before and after it forks, since Linux 6.18 to 7.1 do not let a child live that does.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/sdt.h>

static volatile long passed;

__attribute__((noinline)) static void pass(long times) {
  for (long i = 0; i < times; i++) {
    passed++;
    STAP_PROBE1(live, work, i);
    __asm__ volatile("" ::: "memory");
  }
}

static void *thread(void *times) {
  pass((long)times);
  return NULL;
}

static void threads(void) {
  pthread_t all[8];
  for (int i = 0; i < 8; i++) pthread_create(&all[i], NULL, thread, (void *)1000);
  for (int i = 0; i < 8; i++) pthread_join(all[i], NULL);
}

/* The first thread ends long before the process does. */
static void leave(void) {
  pthread_t one;
  pthread_create(&one, NULL, thread, (void *)3000);
  pthread_exit(NULL);
}

static int forks(void) {
  for (int i = 0; i < 5; i++) {
    pid_t child = i % 2 ? fork() : vfork();
    if (child == 0) {
      if (i % 2) pass(10);
      else execl("/proc/self/exe", "workload", "quick", (char *)NULL);
      _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) return 1;
  }
  return 0;
}

/* A child that stops itself, as a shell sees it. */
static int stops(void) {
  pid_t child = fork();
  if (child == 0) {
    pass(10);
    raise(SIGSTOP);
    pass(10);
    _exit(9);
  }
  int status;
  if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP) return 1;
  usleep(50000);
  if (waitpid(child, &status, WNOHANG) != 0) return 2;
  kill(child, SIGCONT);
  if (waitpid(child, &status, WCONTINUED) != child) return 3;
  if (WIFCONTINUED(status) && waitpid(child, &status, 0) != child) return 4;
  return WIFEXITED(status) && WEXITSTATUS(status) == 9 ? 0 : 5;
}

static volatile sig_atomic_t caught;
static void handler(int signal) { caught += signal; }

/* A thousand signals, and then whichever comes from outside. */
static int signals(void) {
  signal(SIGUSR1, handler);
  for (int i = 0; i < 1000; i++) raise(SIGUSR1);
  return caught == 1000 * SIGUSR1 ? 0 : 1;
}

static int waits(void) {
  sigset_t set;
  int signal;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  pass(10);
  puts("ready");
  fflush(stdout);
  sigwait(&set, &signal);
  printf("got %d\n", signal);
  return 5;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "quick";
  if (!strcmp(what, "quick")) pass(10);
  if (!strcmp(what, "threads")) threads();
  if (!strcmp(what, "leave")) leave();
  if (!strcmp(what, "forks")) return forks();
  if (!strcmp(what, "stops")) return stops();
  if (!strcmp(what, "signals")) return signals();
  if (!strcmp(what, "waits")) return waits();
  if (!strcmp(what, "execs")) {
    int left = atoi(argv[2]);
    pass(10);
    char next[16];
    snprintf(next, sizeof next, "%d", left - 1);
    if (left > 0) execl("/proc/self/exe", argv[0], "execs", next, (char *)NULL);
    return 6;
  }
  if (!strcmp(what, "killed")) {
    pass(10);
    kill(getpid(), atoi(argv[2]));
  }
  if (!strcmp(what, "copies"))
    for (int c; (c = getchar()) != EOF; putchar(c)) pass(1);
  return 0;
}
