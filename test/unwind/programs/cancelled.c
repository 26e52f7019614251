/*
 * A thread with probes runs one instruction at a time, and is cancelled at one of them: the first run at the first, the next at
 * the second, and so on. Cancellation is asynchronous, so that the stack is unwound from there. What is cleaned up is printed
 * where it is another list than in the run before.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sdt.h>

#define NOINLINE __attribute__((noinline))

static int steps, until, done;
static char last[256], text[256];
static volatile long values[4] = {1, 2, 3, 4};

static void say(const char *what) { strcat(text, what); }
static void left(int *which) { say(*which == 1 ? " inner" : " outer"); }
static void ended(void *name) { say((const char *)name); }

static void trap(int signal) {
  (void)signal;
  if (steps++ == until) pthread_cancel(pthread_self());
}

NOINLINE long leaf(long x) {
  volatile long local[4];
  for (int i = 0; i < 4; i++) local[i] = values[i] + x;
  DTRACE_PROBE1(cancelled, leaf, x);
  return local[0] + local[3];
}

NOINLINE long inner(long x) {
  __attribute__((cleanup(left))) int which = 1;
  DTRACE_PROBE1(cancelled, inner, x);
  values[1] = x;
  x += leaf(x) + values[2];
  DTRACE_PROBE1(cancelled, behind, x);
  return x + values[0];
}

NOINLINE long outer(long x) {
  __attribute__((cleanup(left))) int which = 2;
  long y = inner(x);
  DTRACE_PROBE2(cancelled, outer, x, y);
  return inner(y) + values[3];
}

static void *thread(void *argument) {
  (void)argument;
  int old;
  pthread_cleanup_push(ended, " thread");
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
  __asm__ volatile("pushf; orl $0x100,(%%rsp); popf" ::: "memory", "cc");
  outer(5);
  __asm__ volatile("pushf; andl $~0x100,(%%rsp); popf" ::: "memory", "cc");
  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &old);
  pthread_cleanup_pop(0);
  done = 1;
  return 0;
}

int main(void) {
  struct sigaction action = {.sa_handler = trap};
  sigaction(SIGTRAP, &action, 0);
  for (until = 0; !done; until++) {
    pthread_t id;
    void *result;
    text[0] = 0;
    steps = 0;
    pthread_create(&id, 0, thread, 0);
    pthread_join(id, &result);
    strcat(text, result == PTHREAD_CANCELED ? " cancelled" : " returned");
    if (strcmp(text, last)) printf("%s\n", text);
    strcpy(last, text);
  }
  fprintf(stderr, "%d\n", until);
}
