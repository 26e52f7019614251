/*
 * Preloaded into a program, it takes its place: forks as often as it is told on standard input, and says what each fork took
 * until the child had ended and been waited for. Ends with its input.
 *
 *   in:  20
 *   out: PAGE-FAULTS-OF-THE-CHILDREN NANOSECONDS NANOSECONDS ...
 *
 * The program's own start has not come yet: its handlers are there if they were registered before any constructor.
 *
 *   FORK_CLOCK_CPU      the processor for parent and child
 *   FORK_CLOCK_OPENS    a library to open first
 *   FORK_CLOCK_PAGES    so many pages each child looks at, and each is a page fault
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

static volatile char *pages;
static int page_count;

static long fork_once(void) {
  long start = now();
  pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < page_count; i++) pages[i * 4096L];
    _exit(0);
  }
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) _exit(3);
  return now() - start;
}

__attribute__((constructor)) static void clock_forks(void) {
  cpu_set_t processor;
  CPU_ZERO(&processor);
  CPU_SET(atoi(getenv("FORK_CLOCK_CPU")), &processor);
  if (sched_setaffinity(0, sizeof processor, &processor)) _exit(5);
  const char *library = getenv("FORK_CLOCK_OPENS");
  if (library != NULL && dlopen(library, RTLD_NOW) == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    _exit(4);
  }
  if (getenv("FORK_CLOCK_PAGES") != NULL) page_count = atoi(getenv("FORK_CLOCK_PAGES"));
  pages = mmap(NULL, (page_count + 1) * 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char line[32];
  static long took[4096];
  while (fgets(line, sizeof line, stdin) != NULL) {
    int count = atoi(line);
    struct rusage before, after;
    getrusage(RUSAGE_CHILDREN, &before);
    for (int i = 0; i < count; i++) took[i] = fork_once();
    getrusage(RUSAGE_CHILDREN, &after);
    printf("%ld", after.ru_minflt - before.ru_minflt);
    for (int i = 0; i < count; i++) printf(" %ld", took[i]);
    puts("");
    fflush(stdout);
  }
  _exit(0);
}
