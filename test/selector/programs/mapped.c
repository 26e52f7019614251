/* mapped NAME=ADDRESS...: what the byte at a link-time address of each library is, whose file has that name, in hexadecimal. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The lowest address of a library: where the loader has put its first segment, which begins at 0. */
static unsigned char *mapping(const char *name) {
  static char line[8192];
  FILE *maps = fopen("/proc/self/maps", "r");
  unsigned char *found = 0;
  while (found == 0 && fgets(line, sizeof line, maps)) {
    char *base = strrchr(line, '/');
    if (base == 0) continue;
    base[strcspn(base, "\n")] = 0;
    if (strcmp(base + 1, name) == 0) found = (unsigned char *)strtoul(line, 0, 16);
  }
  fclose(maps);
  return found;
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    char *equals = strchr(argv[i], '=');
    *equals = 0;
    if (dlopen(argv[i], RTLD_NOW) == 0) printf("%s\n", dlerror());
    unsigned char *at = mapping(argv[i]);
    printf("%s=%d\n", argv[i], at == 0 ? -1 : at[strtoul(equals + 1, 0, 16)]);
  }
  return sqrt(argc) < 0;
}
