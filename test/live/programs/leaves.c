/* Leaves a process behind that keeps its output open for a while. */
#include <stdio.h>
#include <unistd.h>
#include <sys/sdt.h>

int main(void) {
  puts("said");
  fflush(stdout);
  if (fork() == 0) {
    sleep(20);
    _exit(0);
  }
  STAP_PROBE1(live, work, 1);
  return 0;
}
