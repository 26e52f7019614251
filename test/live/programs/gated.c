/* Two probes behind semaphores, one of which has two sites: they are passed while a tracer has raised them. */
#define SDT_USE_VARIADIC
#define _SDT_HAS_SEMAPHORES 1
#include <stdio.h>
#include <sys/sdt.h>

__extension__ unsigned short live_open_semaphore __attribute__((section(".probes"), used));
__extension__ unsigned short live_shut_semaphore __attribute__((section(".probes"), used));

int main(void) {
  int opened = 0;
  for (int i = 0; i < 7; i++) {
    if (__builtin_expect(*(volatile unsigned short *)&live_open_semaphore, 0)) {
      opened++;
      STAP_PROBE1(live, open, i);
    }
    if (i % 2 && *(volatile unsigned short *)&live_open_semaphore) STAP_PROBE2(live, open, i, opened);
    if (i < 3 && *(volatile unsigned short *)&live_shut_semaphore) STAP_PROBE(live, shut);
  }
  printf("opened %d\n", opened);
  return 0;
}
