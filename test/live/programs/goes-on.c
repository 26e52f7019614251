/* Passes its probe and then becomes another program, so that its memory goes while its process stays. */
#include <unistd.h>
#include <sys/sdt.h>

int main(void) {
  for (long i = 0; i < 10; i++) {
    STAP_PROBE1(live, work, i);
    __asm__ volatile("" ::: "memory");
  }
  execl("/bin/true", "true", (char *)NULL);
  return 1;
}
