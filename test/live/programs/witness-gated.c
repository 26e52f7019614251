/* The part of witness.c whose probes stand behind semaphores: they are passed while a tracer has raised them. */
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

#define JOIN(provider, name) provider##_##name##_semaphore
#define SEMAPHORE(provider, name) JOIN(provider, name)
__extension__ volatile unsigned short SEMAPHORE(PROVIDER, gate) __attribute__((section(".probes"), visibility("hidden")));
__extension__ volatile unsigned short SEMAPHORE(PROVIDER, fence) __attribute__((section(".probes"), visibility("hidden")));

int gated(int rounds) {
  volatile int sum = 0;
  for (int i = 0; i < rounds; i++) {
    if (SEMAPHORE(PROVIDER, gate)) STAP_PROBE2(PROVIDER, gate, i, i * i);
    sum += i;
    if (i % 2 && SEMAPHORE(PROVIDER, gate)) STAP_PROBE2(PROVIDER, gate, i, -i);
    if (i % 3 == 0 && __builtin_expect(SEMAPHORE(PROVIDER, fence), 0)) STAP_PROBE1(PROVIDER, fence, sum);
  }
  return sum;
}
