/* What a program finds when it starts, and what it reads: arguments, environment, auxiliary vector, standard input. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char data = 1;

int main(int argc, char **argv) {
  char aligned[16] __attribute__((aligned(16)));
  printf("%d arguments, aligned %d\n", argc, (int)((unsigned long)aligned % 16));
  for (int i = 1; i < argc; i++) printf("argv[%d] %s\n", i, argv[i]);
  for (char **at = environ; *at != NULL; at++) printf("%s\n", *at);
  printf("page %lu, clock %lu, secure %lu, platform %s\n", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_SECURE),
         (const char *)getauxval(AT_PLATFORM));
  printf("name %d, random %d, entry %d, headers %d of %lu\n", strcmp((const char *)getauxval(AT_EXECFN), argv[0]) == 0,
         getauxval(AT_RANDOM) != 0, getauxval(AT_ENTRY) != 0, getauxval(AT_PHDR) % 4096 == 64, getauxval(AT_PHENT));
  char path[4096];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  path[size < 0 ? 0 : size] = 0;
  printf("exe %d\n", strcmp(path, argv[0]) == 0);
  char word[64];
  int words = 0, letters = 0;
  while (scanf("%63s", word) == 1) words++, letters += (int)strlen(word);
  printf("%d words, %d letters, end of input %d\n", words, letters, feof(stdin) != 0);
  errno = 0;
  ssize_t written = write(7, "x", 1);
  printf("write to nothing: %d, %d\n", (int)written, errno == EBADF);
  errno = 0;
  written = write(1, (void *)8, 5);
  printf("write of nothing: %d, %d\n", (int)written, errno == EFAULT);
  struct timespec one, two;
  clock_gettime(CLOCK_MONOTONIC, &one);
  clock_gettime(CLOCK_MONOTONIC, &two);
  printf("time goes on: %d\n", two.tv_sec > one.tv_sec || (two.tv_sec == one.tv_sec && two.tv_nsec > one.tv_nsec));
  struct utsname name;
  printf("uname %d %s %s, a terminal %d\n", uname(&name), name.sysname, name.machine, isatty(1));
  char *before = sbrk(0);
  char *block = sbrk(100000);
  memset(block, 7, 100000);
  printf("break %d %d %d\n", before == block, (char *)sbrk(0) == block + 100000, block[99999] + data);
  return 0;
}
