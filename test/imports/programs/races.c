/* One thread loads and unloads the library of argv[1] all along, the other forks; prints how many children did not exit by themselves. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int stop;
static unsigned loads;

static void *opens(void *name) {
  while (!stop) {
    void *library = dlopen(name, RTLD_NOW);
    if (library == NULL) abort();
    dlclose(library);
    loads++;
  }
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t thread;
  pthread_create(&thread, NULL, opens, argv[1]);
  int dead = 0;
  for (int i = atoi(argv[2]); i > 0; i--) {
    pid_t child = fork();
    if (child == 0) _exit(7);
    int status = 0;
    waitpid(child, &status, 0);
    dead += status != 7 << 8;
  }
  stop = 1;
  pthread_join(thread, NULL);
  printf("%d dead\n", dead);
  return loads < 10;
}
