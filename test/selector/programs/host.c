/*
 * Does something to its environment, then loads a library, and says what the library's selector is.
 * host LIBRARY WHAT
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef LINKED
int library_selector(void);
void library_arguments(int *argc, char ***argv, char ***envp);
#endif

#ifdef REGISTER
/* In place of the C library's: says that a fork guard was registered, and by whom. */
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *handle) {
  printf("registered ");
  return 0;
}
#endif

extern char **environ;
static char **begin;
static int count;

static int load(const char *name) {
#ifdef LINKED
  int (*selector)(void) = library_selector;
  void (*arguments)(int *, char ***, char ***) = library_arguments;
#else
  void *library = dlopen(name, RTLD_NOW);
  if (library == 0) {
    printf("%s\n", dlerror());
    return 1;
  }
  int (*selector)(void) = (int (*)(void))dlsym(library, "library_selector");
  void (*arguments)(int *, char ***, char ***) = (void (*)(int *, char ***, char ***))dlsym(library, "library_arguments");
#endif
  int argc;
  char **argv, **envp;
  arguments(&argc, &argv, &envp);
#ifdef MUSL
  printf("selector=%d\n", selector());
#else
  printf("selector=%d argc=%d argv=%d envp=%d\n", selector(), argc == count, argv == begin, envp == environ);
#endif
  return 0;
}

static void *in_thread(void *name) {
  load(name);
  return 0;
}

/* What would be taken for a pair of AT_SYSINFO_EHDR and an address, were it read as one. */
static void fill(char **to, int n) {
  for (int i = 0; i < n; i++) to[i] = (i & 1) ? (char *)"FOOBARX=" : (char *)33;
}

int main(int argc, char **argv) {
  const char *what = argc > 2 ? argv[2] : "plain";
  begin = argv;
  count = argc;
  int variables = 0;
  while (environ[variables]) variables++;
#define IS(word) (strcmp(what, word) == 0)
  if (IS("setenv")) for (int i = 0; i < 40; i++) {
    char name[16];
    snprintf(name, sizeof name, "NEW%d", i);
    setenv(name, "x", 1);
  }
  else if (IS("unsetenv")) while (environ[0]) {
    char *name = strndup(environ[0], strcspn(environ[0], "="));
    unsetenv(name);
  }
  else if (IS("unset-one")) unsetenv("PATH");
  else if (IS("putenv")) putenv("FOOBARX=");
  else if (IS("clearenv")) clearenv();
  else if (IS("null")) environ = 0;
  else if (IS("moved")) {
    char **mine = malloc(sizeof *mine * (variables + 1));
    memcpy(mine, environ, sizeof *mine * (variables + 1));
    environ = mine;
  } else if (IS("moved-and-cleared")) { /* as postgres and others that show their state in ps do */
    char **mine = calloc(variables + 1, sizeof *mine);
    for (int i = 0; i < variables; i++) mine[i] = strdup(environ[i]);
    char *from = argv[0], *end = environ[variables - 1] + strlen(environ[variables - 1]);
    environ = mine;
    static char library[4096];
    strcpy(library, argv[1]);
    memset(from, 0, end - from);
    for (int i = 1; i < argc; i++) argv[i] = from;
    return load(library);
  } else if (IS("first-gone")) environ[0] = 0;
  else if (IS("own")) { /* odd in number, so that pairs of it are no pairs */
    static char *mine[8] = {"FOOBARX=", "FOOBARX=", "FOOBARX="};
    environ = mine;
  } else if (IS("on-the-stack") || IS("after-a-null")) { /* where the kernel's array stands */
    static char *none[1];
    char **from = environ;
    environ = none;
    if (IS("after-a-null") && variables > 0) {
      from[0] = 0;
      fill(from + 1, variables - 1);
    } else fill(from, variables);
  } else if (IS("all-empty")) memset(environ, 0, variables * sizeof *environ);
  else if (IS("thread")) {
    pthread_t thread;
    pthread_create(&thread, 0, in_thread, argv[1]);
    pthread_join(thread, 0);
    return 0;
  }
  return load(argv[1]);
}
