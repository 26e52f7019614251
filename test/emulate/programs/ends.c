/* Ways to end, by the first argument. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say_so(void) { printf("at exit\n"); }
static volatile int zero;

int main(int argc, char **argv) {
  const char *way = argc > 1 ? argv[1] : "";
  atexit(say_so);
  printf("%s\n", way);
  fflush(stdout);
  if (!strcmp(way, "abort")) abort();
  if (!strcmp(way, "null")) *(volatile int *)(long)zero = 1;
  if (!strcmp(way, "divide")) return 1 / zero;
  if (!strcmp(way, "undefined")) __asm__ volatile("ud2");
  if (!strcmp(way, "breakpoint")) __asm__ volatile("int3");
  if (!strcmp(way, "privileged")) __asm__ volatile("hlt");
  if (!strcmp(way, "noncanonical")) return *(volatile char *)0x8000000000000000ul;
  if (!strcmp(way, "misaligned")) {
    static char bytes[48] __attribute__((aligned(16)));
    __asm__ volatile("movaps %0, %%xmm0" : : "m"(bytes[1 + zero]));
  }
  if (!strcmp(way, "execute")) {
    static char code[] = {'\xc3'};
    ((void (*)(void))(void *)code)();
  }
  if (!strcmp(way, "quick")) _exit(300);
  if (!strcmp(way, "exit")) exit(-1);
  return 77;
}
