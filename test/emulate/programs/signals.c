/* Handlers of faults and of signals that the program sends itself: masks, pending ones, another stack, registers changed. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf place;
static volatile int order[16], came;
static char other_stack[65536];

static void jump_out(int number, siginfo_t *info, void *context) {
  (void)context;
  order[came++ % 16] = number * 100 + info->si_code;
  siglongjmp(place, number);
}

static void step_over(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  order[came++ % 16] = number * 100 + info->si_code;
  registers[REG_RIP] += 2;
  registers[REG_RAX] = 4711;
}

static void count(int number) {
  order[came++ % 16] = number;
}

static void on_other_stack(int number) {
  char here;
  order[came++ % 16] = number + (&here >= other_stack && &here < other_stack + sizeof other_stack ? 1000 : 2000);
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
  struct sigaction action = {0};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, NULL);
}

int main(void) {
  handle(SIGSEGV, jump_out, 0);
  handle(SIGFPE, jump_out, 0);
  handle(SIGILL, step_over, 0);
  char *guarded = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  volatile int zero = 0, result = 0;
  switch (sigsetjmp(place, 1)) {
    case 0: *(volatile char *)guarded = 1; break;
    case SIGSEGV: printf("a page that cannot be written: %d\n", order[0]); break;
  }
  came = 0;
  if (sigsetjmp(place, 1) == 0) result = *(volatile int *)16;
  else printf("a page that is not there: %d\n", order[0]);
  came = 0;
  if (sigsetjmp(place, 1) == 0) result = 5 / zero;
  else printf("a division: %d\n", order[0]);
  came = 0;
  long value;
  __asm__ volatile("mov $1, %%eax; ud2" : "=a"(value));
  printf("ud2 stepped over: %ld, %d\n", value, order[0]);
  came = 0;
  signal(SIGUSR1, count);
  signal(SIGUSR2, count);
  raise(SIGUSR1);
  printf("raised: %d\n", order[0]);
  sigset_t set, before, pending;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, &before);
  came = 0;
  kill(getpid(), SIGUSR2);
  kill(getpid(), SIGUSR1);
  sigpending(&pending);
  printf("blocked: %d came, pending %d %d\n", came, sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2));
  sigprocmask(SIG_SETMASK, &before, NULL);
  printf("then %d came: %d %d\n", came, order[0], order[1]);
  stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
  sigaltstack(&stack, NULL);
  struct sigaction action = {.sa_handler = on_other_stack, .sa_flags = SA_ONSTACK | SA_RESETHAND};
  sigaction(SIGUSR1, &action, NULL);
  came = 0;
  raise(SIGUSR1);
  printf("on the other stack: %d\n", order[0]);
  signal(SIGCHLD, SIG_DFL);
  raise(SIGCHLD);
  fflush(stdout);
  raise(SIGUSR1);
  return result;
}
