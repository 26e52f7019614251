/*
 * Passes its probes once for each byte of its input, and says so; at the end of the input it ends. Beside the plain nop of
 * the header it has probes of the longer kinds, as their headers write them, none of which lies in two pages.
 */
#include <stdio.h>
#include <sys/sdt.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

NOINLINE static long plain(long value) {
  STAP_PROBE1(states, plain, value);
  return value * 3 + 1;
}

NOINLINE static void longer(void) {
#define SITE(name, instructions)                                                                                    \
  __asm__ volatile(".balign 16\n990: " instructions "\n"                                                            \
                   ".pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n.4byte 992f-991f,994f-993f,3\n"            \
                   "991: .asciz \"stapsdt\"\n992: .balign 4\n993: .8byte 990b,_.stapsdt.base,0\n"                  \
                   ".asciz \"states\"\n.asciz \"" name "\"\n.asciz \"\"\n994: .balign 4\n.popsection\n" ::: "memory")
  SITE("five", ".byte 0x0f,0x1f,0x44,0,0");
  SITE("ten", ".byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0");
  SITE("nop_five", ".byte 0x90,0x0f,0x1f,0x44,0,0");
  puts("passed");
}

int main(void) {
  long value = 1;
  char byte;
  puts("ready");
  fflush(stdout);
  while (read(0, &byte, 1) == 1) {
    value = plain(value);
    longer();
    fflush(stdout);
  }
  return value == 0;
}
