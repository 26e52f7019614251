/* The C library's memory and string functions, of all sizes and alignments, against plain loops. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>
#include "check.h"

static unsigned char from[4096 + 64], to[4096 + 64], model[4096 + 64];
static int failures;

static void check(const char *what, size_t size, size_t a, size_t b) {
  if (memcmp(to, model, sizeof to) != 0) {
    printf("%s differs: size %zu, alignments %zu %zu\n", what, size, a, b);
    failures++;
  }
}

static void copying(size_t size, size_t a, size_t b) {
  for (size_t i = 0; i < sizeof to; i++) to[i] = model[i] = (unsigned char)(i * 7);
  memcpy(to + a, from + b, size);
  for (size_t i = 0; i < size; i++) model[a + i] = from[b + i];
  check("memcpy", size, a, b);
  memset(to + b, (int)size, size);
  for (size_t i = 0; i < size; i++) model[b + i] = (unsigned char)size;
  check("memset", size, a, b);
  memmove(to + a, to + b, size);
  if (a < b) for (size_t i = 0; i < size; i++) model[a + i] = model[b + i];
  else for (size_t i = size; i-- > 0;) model[a + i] = model[b + i];
  check("memmove", size, a, b);
}

static uint64_t searching(size_t size, size_t a, size_t b) {
  char *x = (char *)to + a, *y = (char *)model + b;
  uint64_t sum = size;
  for (size_t i = 0; i < size; i++) x[i] = y[i] = (char)('a' + (i * 11 + size) % 23);
  x[size] = y[size] = 0;
  sum = mix(sum, strlen(x));
  sum = mix(sum, strnlen(y, size / 2 + 1));
  char *hit = strchr(x, 'q'), *last = strrchr(y, 'q');
  sum = mix(sum, hit == NULL ? 999 : (uint64_t)(hit - x));
  sum = mix(sum, last == NULL ? 999 : (uint64_t)(last - y));
  void *byte = memchr(x, 'z', size), *behind = memrchr(x, 'b', size);
  sum = mix(sum, byte == NULL ? 998 : (uint64_t)((char *)byte - x));
  sum = mix(sum, behind == NULL ? 998 : (uint64_t)((char *)behind - x));
  sum = mix(sum, strcmp(x, y) == 0);
  if (size > 3) {
    y[size - 2]++;
    sum = mix(sum, (strcmp(x, y) > 0) * 2 + (strncmp(x, y, size - 2) == 0));
    sum = mix(sum, (memcmp(x, y, size) < 0) + 2 * (strcasecmp(x, y) < 0));
    char *part = strstr(x, "lw");
    sum = mix(sum, part == NULL ? 997 : (uint64_t)(part - x));
    sum = mix(sum, strspn(x, "abcdefghijklmnopqrstuvw") + strcspn(y, "xyz"));
    char *any = strpbrk(x, "tuvw");
    sum = mix(sum, any == NULL ? 996 : (uint64_t)(any - x));
  }
  return sum;
}

int main(void) {
  for (size_t i = 0; i < sizeof from; i++) from[i] = (unsigned char)next_random();
  static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 63, 64, 65, 96, 127, 128, 129, 200, 255, 257, 512, 1000, 2049};
  uint64_t sum = 0;
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t turn = 0; turn < 3; turn++) {
      size_t a = (s * 5 + turn * 3) % 17, b = (s * 3 + turn * 7) % 33;
      if (turn == 0 || sizes[s] < 300) copying(sizes[s], a, b);
      sum = mix(sum, searching(sizes[s], a, b));
    }
  printf("%d failures, %016llx\n", failures, (unsigned long long)sum);

  char text[256] = "", *rest, *saved = NULL;
  for (int i = 0; i < 12; i++) {
    strcat(text, i % 2 ? "odd " : "even,");
    strncat(text, "0123456789", (size_t)i % 5);
  }
  printf("%s %zu\n", text, strlen(text));
  for (rest = strtok_r(text, ", ", &saved); rest != NULL; rest = strtok_r(NULL, ", ", &saved)) printf("[%s]", rest);
  printf("\n");
  char *copy = strdup("Duplicate Me");
  for (char *at = copy; *at; at++) *at = (char)(isupper((unsigned char)*at) ? tolower((unsigned char)*at) : toupper((unsigned char)*at));
  printf("%s %ld %lu %llx\n", copy, strtol("-12345 rest", NULL, 10), strtoul("0xffeeddcc", NULL, 0), strtoull("777", NULL, 8));
  free(copy);
  wchar_t wide[40];
  for (int i = 0; i < 39; i++) wide[i] = L'A' + i;
  wide[39] = 0;
  printf("%zu %ld\n", wcslen(wide), (long)(wcschr(wide, L'Q') - wide));
  return failures != 0;
}
