/* The same with a probe that is a nop5 already: for a fork guard. */
#include <unistd.h>
#include <sys/wait.h>
#include "library.c"

int library_forks(void) {
  int status;
  if (fork() == 0) _exit(5);
  wait(&status);
  return status >> 8;
}

int library_probe(int x) {
  __asm__ volatile(
      "990: .byte 0x0f, 0x1f, 0x44, 0, 0\n"
      ".pushsection .note.stapsdt,\"\",\"note\"\n"
      ".balign 4\n"
      ".4byte 992f-991f, 994f-993f, 3\n"
      "991: .asciz \"stapsdt\"\n"
      "992: .balign 4\n"
      "993: .8byte 990b\n"
      ".8byte _.stapsdt.base\n"
      ".8byte 0\n"
      ".asciz \"selected\"\n"
      ".asciz \"probe\"\n"
      ".asciz \"-4@%%edi\"\n"
      "994: .balign 4\n"
      ".popsection\n"
      ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
      ".weak _.stapsdt.base\n"
      ".hidden _.stapsdt.base\n"
      "_.stapsdt.base: .space 1\n"
      ".size _.stapsdt.base, 1\n"
      ".popsection\n" ::"D"(x));
  return x + 1;
}
