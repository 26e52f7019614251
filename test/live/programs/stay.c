/* Keeps a program alive behind its main, which was compiled under another name, until its input ends: see living.ts. */
#define _DEFAULT_SOURCE
#include <stdio.h>

int work(void);

int main(void) {
  setlinebuf(stdout); /* what it says before it crashes is to be seen */
  int status = work();
  puts("ready");
  fflush(stdout);
  while (getchar() != EOF)
    ;
  return status;
}
