/*
 * Calls every function of a program with every selector and several values, and prints a line a function: its name and a
 * hash of all that it gave back. A function that crashes ends the program behind its name; then it is started again with the
 * number of the next one. `driver FIRST [LAST]`.
 *
 * A fault at an instruction that a table names goes on where the table says, as in programs that probe memory.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

typedef long function(long selector, long x, long *memory);
struct entry { const char *name; function *call; long selectors; };
extern struct entry __start_campaign[] __attribute__((visibility("hidden"))), __stop_campaign[] __attribute__((visibility("hidden")));

struct relative { int32_t at, go; };
struct absolute { uint64_t at, go; };
extern struct relative __start_faults_relative[] __attribute__((weak, visibility("hidden"))), __stop_faults_relative[] __attribute__((weak, visibility("hidden")));
extern struct absolute __start_faults_absolute[] __attribute__((weak, visibility("hidden"))), __stop_faults_absolute[] __attribute__((weak, visibility("hidden")));

static uint64_t hash;
static void mix(uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; hash ^= hash >> 29; }

/* Fills the registers that a function has to keep, calls it, and tells whether they are as they were. */
__asm__(".text\n.p2align 4\n.type campaign_call,@function\ncampaign_call:\n"
        ".cfi_startproc\n"
        "push %rbx\n.cfi_adjust_cfa_offset 8\npush %rbp\n.cfi_adjust_cfa_offset 8\npush %r12\n.cfi_adjust_cfa_offset 8\n"
        "push %r13\n.cfi_adjust_cfa_offset 8\npush %r14\n.cfi_adjust_cfa_offset 8\npush %r15\n.cfi_adjust_cfa_offset 8\n"
        "push %r8\n.cfi_adjust_cfa_offset 8\n"
        "mov %rdi,%rax\nmov %rsi,%rdi\nmov %rdx,%rsi\nmov %rcx,%rdx\n"
        "mov $0x11,%ebx\nmov $0x22,%r12d\nmov $0x33,%r13d\nmov $0x44,%r14d\nmov $0x55,%r15d\nmov %rsp,%rbp\n"
        "call *%rax\n"
        "mov (%rsp),%r8\n"
        "xor %rsp,%rbp\nlea -0x11(%rbp,%rbx),%rbp\nlea -0x22(%rbp,%r12),%rbp\nlea -0x33(%rbp,%r13),%rbp\n"
        "lea -0x44(%rbp,%r14),%rbp\nlea -0x55(%rbp,%r15),%rbp\nmov %rbp,(%r8)\n"
        "add $8,%rsp\n.cfi_adjust_cfa_offset -8\npop %r15\n.cfi_adjust_cfa_offset -8\npop %r14\n.cfi_adjust_cfa_offset -8\n"
        "pop %r13\n.cfi_adjust_cfa_offset -8\npop %r12\n.cfi_adjust_cfa_offset -8\npop %rbp\n.cfi_adjust_cfa_offset -8\n"
        "pop %rbx\n.cfi_adjust_cfa_offset -8\nret\n.cfi_endproc\n.size campaign_call,.-campaign_call\n");
extern long campaign_call(function *, long selector, long x, long *memory, long *changed) __attribute__((visibility("hidden")));

/* How many callers an unwinder finds: fewer or more where what it reads does not fit the code. */
static _Unwind_Reason_Code count(struct _Unwind_Context *context, void *number) {
  (void)context;
  return ++*(int *)number < 100 ? _URC_NO_REASON : _URC_END_OF_STACK;
}
__attribute__((visibility("hidden"), noinline)) int campaign_depth(void) {
  int number = 0;
  _Unwind_Backtrace(count, &number);
  return number;
}

/* The same for generated assembly, which keeps more registers: eax grows by it. */
__asm__(".text\n.p2align 4\n.globl campaign_frames\n.hidden campaign_frames\n.type campaign_frames,@function\ncampaign_frames:\n"
        ".cfi_startproc\npush %rbp\n.cfi_def_cfa_offset 16\n.cfi_offset 6,-16\nmov %rsp,%rbp\n.cfi_def_cfa_register 6\n"
        "push %rax\npush %rcx\npush %rdx\npush %rsi\npush %rdi\npush %r8\npush %r9\npush %r10\npush %r11\n"
        "and $-16,%rsp\ncall campaign_depth\nlea -72(%rbp),%rsp\n"
        "pop %r11\npop %r10\npop %r9\npop %r8\npop %rdi\npop %rsi\npop %rdx\npop %rcx\n"
        "add (%rsp),%eax\nlea 8(%rsp),%rsp\npop %rbp\n.cfi_def_cfa 7,8\nret\n.cfi_endproc\n.size campaign_frames,.-campaign_frames\n");

static void fault(int number, siginfo_t *info, void *context) {
  greg_t *at = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
  for (struct relative *e = __start_faults_relative; e < __stop_faults_relative; e++)
    if ((greg_t)&e->at + e->at == *at) { *at = (greg_t)&e->go + e->go; return; }
  for (struct absolute *e = __start_faults_absolute; e < __stop_faults_absolute; e++)
    if ((greg_t)e->at == *at) { *at = e->go; return; }
  (void)info;
  signal(number, SIG_DFL);
}

static const long values[] = {0, 1, 2, 3, 7, -1, -6, 100, 0x7fffffff};

static void examine(const struct entry *e) {
  hash = 0xcbf29ce484222325u;
  for (int round = 0; round < 2; round++)
    for (long selector = 0; selector < e->selectors; selector++)
      for (unsigned i = 0; i < sizeof values / sizeof *values; i++) {
        long memory[16], changed = 0;
        for (int k = 0; k < 16; k++) memory[k] = k + 1;
        long result = campaign_call(e->call, selector, values[i], memory, &changed);
        mix((uint32_t)result);
        mix(changed);
        for (int k = 0; k < 16; k++) mix(memory[k]);
      }
  char line[32];
  write(1, line, snprintf(line, sizeof line, "%016lx\n", hash));
}

/* Whoever hangs is ended by the time it takes, however busy the machine is. */
static void limit(void) {
  struct itimerval timer = {{0, 0}, {1, 0}};
  setitimer(ITIMER_VIRTUAL, &timer, 0);
}

__attribute__((visibility("default"))) int campaign_main(int argc, char **argv) {
  static char stack[65536];
  stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternative, 0);
  struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &action, 0);
  long all = __stop_campaign - __start_campaign;
  long first = argc > 1 ? atol(argv[1]) : 0, last = argc > 2 ? atol(argv[2]) : all;
  for (long i = first; i < last && i < all; i++) {
    const struct entry *e = &__start_campaign[i];
    char line[64];
    write(1, line, snprintf(line, sizeof line, "%s ", e->name));
#ifdef FORKS
    int status;
    pid_t child = fork();
    if (child == 0) { limit(); examine(e); _exit(0); }
    waitpid(child, &status, 0);
    if (status != 0) write(1, line, snprintf(line, sizeof line, "died %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status)));
#else
    limit();
    examine(e);
#endif
  }
  return 0;
}
