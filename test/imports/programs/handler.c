/* A library whose constructor registers a child handler before the program's constructors run. */
#include <pthread.h>
#include <unistd.h>
static void child(void) { write(2, "l", 1); }
__attribute__((constructor)) static void constructor(void) { pthread_atfork(0, 0, child); }
int library(void) { return 7; }
