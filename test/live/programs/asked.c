/*
 * For each line of input: passes its probe, if somebody has raised the semaphore, and says what that is.
 */
#define _SDT_HAS_SEMAPHORES 1
#include <stdio.h>
#include <sys/sdt.h>

unsigned short asked_line_semaphore __attribute__((section(".probes")));

__attribute__((noinline)) static int pass(int line) {
  STAP_PROBE1(asked, line, line);
  return line * 3 / 2 + 1;
}

int main(void) {
  int line = 0;
  for (int c; (c = getchar()) != EOF;) {
    if (c != '\n') continue;
    unsigned short raised = *(volatile unsigned short *)&asked_line_semaphore;
    if (raised) line = pass(line);
    printf("%u\n", raised);
    fflush(stdout);
  }
  return 0;
}
