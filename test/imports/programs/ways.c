/* Makes children in every way that a C library has. A letter is written before each, x by each child that is a fork, t by a
 * thread, c by a child that begins with a function. A guard that writes G so has its place: behind the letter, before x or c,
 * and never with t, V (memory is shared), or v (vfork, system). */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(char c) {
  if (write(2, &c, 1) != 1) abort();
}

static void *thread(void *p) {
  say('t');
  return p;
}

static int function(void *p) {
  say('c');
  return *(int *)p;
}

static void expect(int status, int line) {
  int actual = -1;
  if (wait(&actual) < 0 || actual != status << 8) printf("line %d: status %x, not %x, errno %d\n", line, actual, status, errno);
}

#ifdef POINTER
#if POINTER == 1
#define STORAGE static
#else
#define STORAGE
#endif
#endif

#define FORK(letter, how)                                                                                                          \
  do {                                                                                                                             \
    say(letter);                                                                                                                   \
    if ((how) == 0) {                                                                                                              \
      say('x');                                                                                                                    \
      _exit(__LINE__ & 127);                                                                                                       \
    }                                                                                                                              \
    expect(__LINE__ & 127, __LINE__);                                                                                              \
  } while (0)

/* A number that nobody can see in the code. */
volatile long unknown = SYS_fork;

static long raw(long number, long a, long b) {
  long result;
  register long r10 __asm__("r10") = 0;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(0L), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

int main(void) {
  static char stack[65536];
  int seven = 7;
  pthread_t id;
  if (pthread_create(&id, 0, thread, 0) != 0) return 1;
  pthread_join(id, 0);
  FORK('F', fork());
#ifdef POINTER
  STORAGE pid_t (*volatile pointer)(void) = _Fork;
  FORK('P', pointer());
#endif
  FORK('_', _Fork());
  FORK('S', syscall(unknown));
  FORK('S', syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  unsigned long arguments[11] = {[4] = SIGCHLD};
  FORK('3', syscall(SYS_clone3, arguments, sizeof arguments));
  if (syscall(SYS_clone3, 0, sizeof arguments) != -1 || errno != EFAULT) puts("clone3 takes no arguments at all");
  if (syscall(SYS_getppid, 0, 0) != getppid()) puts("another system call is wrong");
  FORK('R', raw(unknown, 0, 0));
  FORK('r', raw(SYS_clone, SIGCHLD, 0));
  say('C');
  clone(function, stack + sizeof stack - 8, SIGCHLD, &seven);
  expect(7, __LINE__);
  say('V');
  clone(function, stack + sizeof stack, CLONE_VM | SIGCHLD, &seven);
  expect(7, __LINE__);
#ifdef __GLIBC__
  if (clone(0, stack + sizeof stack, SIGCHLD, 0) != -1 || errno != EINVAL) puts("clone takes no function");
  if (clone(function, 0, SIGCHLD, 0) != -1 || errno != EINVAL) puts("clone takes no stack");
#endif
  say('v');
  if (vfork() == 0) _exit(3);
  expect(3, __LINE__);
  if (system("exit 3") != 3 << 8) puts("system");
  puts("done");
}
