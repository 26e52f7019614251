/* A program with probes of the common kinds: its notes and symbols are what the tests of `list` and of bad input read. */
#define _SDT_HAS_SEMAPHORES 1
#include <stdio.h>
#include <sys/sdt.h>

#define SEMAPHORE(name) unsigned short sample_##name##_semaphore __attribute__((unused, section(".probes")))
SEMAPHORE(add);
SEMAPHORE(guarded);
SEMAPHORE(first);
SEMAPHORE(second);

__attribute__((noinline)) long add(long a, int b) {
  STAP_PROBE2(sample, add, a, b);
  return a + b;
}

__attribute__((noinline)) void guarded(const char *text) {
  if (sample_guarded_semaphore) STAP_PROBE1(sample, guarded, text);
  puts(text);
}

/* Two probes with nothing between them. */
__attribute__((noinline)) void neighbours(void) {
  STAP_PROBE(sample, first);
  STAP_PROBE1(sample, second, 7);
}

/* Probes of other layouts, written by hand as their headers write them. */
__attribute__((noinline)) void layouts(void) {
#define SITE(name, instructions, args)                                                                        \
  __asm__ volatile("990: " instructions "\n"                                                                  \
                   ".pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n.4byte 992f-991f,994f-993f,3\n"      \
                   "991: .asciz \"stapsdt\"\n992: .balign 4\n993: .8byte 990b,_.stapsdt.base,0\n"            \
                   ".asciz \"sample\"\n.asciz \"" name "\"\n.asciz \"" args "\"\n994: .balign 4\n.popsection\n" \
                   ::: "rbx")
  SITE("nop5", ".byte 0x0f,0x1f,0x44,0,0", "");
  SITE("nop10", ".byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0", "-4@$1");
  SITE("nop_nop5", ".byte 0x90,0x0f,0x1f,0x44,0,0", "8@%%rdi -4@-20(%%rbp)");
  SITE("nop_nop10", ".byte 0x90,0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0", "8@8(%%rsp,%%rax,8)");
  SITE("other", "mov %%rdi,%%rbx", "");
}

int main(void) {
  neighbours();
  layouts();
  guarded("sample");
  printf("%ld\n", add(1, 2));
  return 0;
}
