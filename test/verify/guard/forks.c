/* Ways to fork that run no child handler: each of them leads through new code. */
#define _GNU_SOURCE
#include <sys/sdt.h>
#include <unistd.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
__attribute__((noinline)) long f(long x) { DTRACE_PROBE1(forks, f, x); return 3 * x + 1; }
static char stack[65536];
static int child(void *p) { return (int)(long)p; }
#ifdef LED
/* Calls whose number nobody knows, beside instructions that go through pointers: they move along. Away from probes. */
__attribute__((noipa, section("led_text"))) static long before(long number, long *p) {
  __asm__ volatile("mov %%rsi, 16(%%rsi)\n\tsyscall\n\tjns 1f\n\tneg %%rax\n1:"
                   : "+a"(number) : "D"(0L), "S"(p) : "rcx", "r11", "memory", "cc");
  return number;
}
__attribute__((noipa, section("led_text"))) static long behind(long number, long *p) {
  __asm__ volatile("syscall\n\tadd %%rax, 8(%%rsi)" : "+a"(number) : "D"(0L), "S"(p) : "rcx", "r11", "memory", "cc");
  return number;
}
#endif
int main(int argc, char **argv) {
  long n = f(argc);
  if (argc > 5) n += fork();
#ifdef UFORK
  extern int _Fork(void);
  if (argc > 6) n += _Fork();
#endif
#ifdef SYSC
  if (argc > 7) n += syscall(argc > 8 ? SYS_fork : SYS_clone, 17, 0, 0, 0, 0);
#endif
#ifdef CLONE
  if (argc > 9) n += clone(child, stack + sizeof stack, 17, (void *)7);
#endif
#ifdef LED
  static long words[8];
  if (argc > 10) n += before(argc, words) + behind(argc, words);
#endif
  return (int)n & 0;
}
