/* Forks before, while and after the library of argv[1] is loaded, twice; its own child handlers write h, and later H. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void first(void) { write(2, "h", 1); }
static void second(void) { write(2, "H", 1); }

static void forks(void) {
  if (fork() == 0) {
    write(2, "x", 1);
    _exit(7);
  }
  int status = 0;
  wait(&status);
  if (status != 7 << 8) dprintf(2, "(status %x)", status);
  write(2, " ", 1);
}

int main(int argc, char **argv) {
  pthread_atfork(0, 0, first);
  forks();
  for (int i = 0; i < 2; i++) {
    void *library = dlopen(argv[argc - 1], RTLD_NOW);
    if (library == NULL) return puts(dlerror()), 1;
    int (*value)(void) = (int (*)(void))dlsym(library, "value");
    if (value == NULL || value() != 42) return puts("value is not found"), 1;
    if (i == 0) pthread_atfork(0, 0, second);
    forks();
    dlclose(library);
    if (dlopen(argv[argc - 1], RTLD_NOW | RTLD_NOLOAD) != NULL) return puts("it is still loaded"), 1;
    forks();
  }
  puts("done");
}
