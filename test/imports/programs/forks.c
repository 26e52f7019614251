/* Forks twice; each child writes x. With OWN it has a child handler of its own, registered by a constructor, that writes h;
 * the constructor writes c. With LIBRARY there is one in a library as well (handler.c), that writes l. */
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef OWN
static void own(void) { write(2, "h", 1); }
#endif

__attribute__((constructor(101))) static void constructor(void) {
#ifdef OWN
  pthread_atfork(0, 0, own);
#endif
  write(2, "c", 1);
}

#ifdef LIBRARY
int library(void);
#define RESULT library()
#else
#define RESULT 7
#endif

#ifdef PREINIT
static void early(int argc, char **argv) { write(2, argc == 1 && argv[0] ? "p" : "?", 1); }
__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **) = early;
#endif

int main(void) {
  for (int i = 0; i < 2; i++) {
    if (fork() == 0) {
      write(2, "x", 1);
      _exit(RESULT);
    }
    int status = 0;
    wait(&status);
    if (status != 7 << 8) printf("status %x\n", status);
  }
  puts("done");
}
