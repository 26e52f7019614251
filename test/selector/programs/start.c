/* Runs a program with as many arguments as are asked for, and with the environment of its own or none. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

/* start PROGRAM COUNT empty|mine */
int main(int argc, char **argv) {
  int count = atoi(argv[2]);
  char **arguments = calloc(count + 1, sizeof *arguments), *nothing[] = {0};
  for (int i = 0; i < count; i++) arguments[i] = "x";
  execve(argv[1], arguments, strcmp(argv[3], "empty") == 0 ? nothing : environ);
  return 127;
}
