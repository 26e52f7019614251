/* Says something else each time. */
#include <stdio.h>
#include <unistd.h>
#include <sys/sdt.h>

int main(void) {
  STAP_PROBE1(live, work, 1);
  printf("%d\n", (int)getpid());
  return 0;
}
