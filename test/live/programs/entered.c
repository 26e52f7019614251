/*
 * Functions whose first instruction is a probe: there the return address stands at rsp, and a return probe can be had.
 *
 * Says `here`, and answers each letter on its input:
 *
 *     s    10 passes of tripled: the sum of 3 n + 1 from 0 on
 *     r    a pass of patterned, with known registers: rax, rcx, r11 and 3 rdi + 1 behind it, and the carry flag
 *     3    makes system call 335, which return trampolines make
 *     6    makes system call 336, which trampolines of probes make: its error
 */
#include <errno.h>
#include <stdio.h>
#include <sys/sdt.h>
#include <unistd.h>

unsigned long after[4];
unsigned char carry;

/* 3 n + 1 */
__attribute__((naked, noinline)) static unsigned long tripled(unsigned long n) {
  STAP_PROBE(entered, tripled);
  __asm__("lea 1(%rdi,%rdi,2), %rax\n\tret");
}

/* 3 rdi + 1 in r8; 77 where somebody sends the thread to rdx. */
__attribute__((naked, noinline, used)) static void patterned(void) {
  STAP_PROBE(entered, patterned);
  __asm__("lea 1(%rdi,%rdi,2), %r8\n\tret\nelsewhere: mov $77, %r8d\n\tret");
}

/* Calls patterned: every register has its number in each of its bytes, but for rdx; the carry flag is set. */
__attribute__((naked, noinline)) static void pass(void) {
  __asm__(
      "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\tsub $8, %rsp\n"
      "\tmovabs $0x0101010101010101, %rax\n"
      "\tlea (%rax,%rax), %rcx\n\tlea (%rax,%rcx), %rbx\n\tlea (%rax,%rbx), %rbp\n\tlea (%rax,%rbp), %rsi\n"
      "\tlea (%rax,%rsi), %rdi\n\tlea (%rax,%rdi), %r8\n\tlea (%rax,%r8), %r9\n\tlea (%rax,%r9), %r10\n"
      "\tlea (%rax,%r10), %r11\n\tlea (%rax,%r11), %r12\n\tlea (%rax,%r12), %r13\n\tlea (%rax,%r13), %r14\n"
      "\tlea (%rax,%r14), %r15\n\tlea elsewhere(%rip), %rdx\n"
      "\tstc\n\tcall patterned\n\tsetc carry(%rip)\n"
      "\tmov %rax, after(%rip)\n\tmov %rcx, 8+after(%rip)\n\tmov %r11, 16+after(%rip)\n\tmov %r8, 24+after(%rip)\n"
      "\tadd $8, %rsp\n\tpop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret");
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  puts("here");
  for (int letter; (letter = getchar()) != EOF;) {
    unsigned long sum = 0;
    if (letter == 's') {
      for (unsigned long n = 0; n < 10; n++) sum += tripled(n);
      printf("%lu\n", sum);
    } else if (letter == 'r') {
      pass();
      printf("%lx %lx %lx %lx %d\n", after[0], after[1], after[2], after[3], carry);
    } else if (letter == '3' || letter == '6') {
      errno = 0;
      syscall(letter == '3' ? 335 : 336);
      printf("%d\n", errno);
    }
  }
  return 0;
}
