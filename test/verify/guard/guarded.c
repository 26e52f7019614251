/* Probes for a fork guard to look at: in new code, on two pages, and in place, where each of two pages has some. */
#include <sys/sdt.h>
#define AT_ONCE(n) \
  asm volatile("990: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" \
               ".pushsection .note.stapsdt, \"\", \"note\"\n" \
               ".balign 4\n.4byte 992f-991f, 994f-993f, 3\n991: .asciz \"stapsdt\"\n992: .balign 4\n" \
               "993: .8byte 990b\n.8byte _.stapsdt.base\n.8byte 0\n.asciz \"guarded\"\n.asciz \"" #n "\"\n.asciz \"\"\n" \
               "994: .balign 4\n.popsection\n")
#define FUNCTION(n) \
  __attribute__((noinline)) long moved##n(long x) { DTRACE_PROBE1(guarded, moved##n, x); return 3 * x + n; }
#define TEN(n) \
  FUNCTION(n##0) FUNCTION(n##1) FUNCTION(n##2) FUNCTION(n##3) FUNCTION(n##4) \
  FUNCTION(n##5) FUNCTION(n##6) FUNCTION(n##7) FUNCTION(n##8) FUNCTION(n##9)
extern void *malloc(unsigned long);
void *uses_libc(long x) { return malloc(x); }
__attribute__((noinline)) long early(long x) { AT_ONCE(early); return x + 1; }
#ifdef MANY
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9)
TEN(11) TEN(12) TEN(13) TEN(14) TEN(15) TEN(16) TEN(17) TEN(18) TEN(19)
#else
TEN(1)
#endif

__attribute__((noinline, aligned(4096))) long late(long x) { AT_ONCE(late1); AT_ONCE(late2); return x + 2; }
#ifdef TEXTREL
/* The loader writes to the page of early(). */
asm(".text\n.balign 8\n.8byte uses_libc\n");
#endif
#ifndef LIBRARY
int main(void) { return (int)(early(1) + late(2) + moved10(-1)) & 0; }
#endif
