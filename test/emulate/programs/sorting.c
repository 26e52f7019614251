/* qsort, bsearch, and sorts of our own, of integers, structures and strings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

struct item {
  char name[12];
  int key;
  double weight;
};

static int by_int(const void *a, const void *b) { return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b); }
static int by_name(const void *a, const void *b) { return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name); }
static int by_weight(const void *a, const void *b) {
  double x = ((const struct item *)a)->weight, y = ((const struct item *)b)->weight;
  return (x > y) - (x < y);
}

static void heap_sort(uint64_t *values, size_t count) {
  for (size_t end = count, start = count / 2; end > 1;) {
    if (start > 0) start--;
    else {
      end--;
      uint64_t top = values[0];
      values[0] = values[end];
      values[end] = top;
    }
    size_t root = start;
    for (size_t child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && values[child] < values[child + 1]) child++;
      if (values[root] >= values[child]) break;
      uint64_t other = values[root];
      values[root] = values[child];
      values[child] = other;
    }
  }
}

int main(void) {
  enum { N = 1500 };
  static int ints[N];
  static struct item items[N];
  static uint64_t longs[N];
  for (int i = 0; i < N; i++) {
    ints[i] = (int)next_random();
    longs[i] = next_random();
    items[i].key = i;
    items[i].weight = (double)(int64_t)next_random() / 1e9;
    for (int k = 0; k < 11; k++) items[i].name[k] = (char)('a' + next_random() % 26);
  }
  qsort(ints, N, sizeof *ints, by_int);
  printf("ints %016llx %d %d\n", (unsigned long long)mix_bytes(1, ints, sizeof ints), ints[0], ints[N - 1]);
  int wanted = ints[N / 3];
  int *found = bsearch(&wanted, ints, N, sizeof *ints, by_int);
  printf("found at %ld\n", found == NULL ? -1L : (long)(found - ints));
  qsort(items, N, sizeof *items, by_name);
  printf("%s %d ... %s %d\n", items[0].name, items[0].key, items[N - 1].name, items[N - 1].key);
  qsort(items, N, sizeof *items, by_weight);
  uint64_t sum = 2;
  for (int i = 0; i < N; i++) sum = mix(sum, (uint64_t)items[i].key);
  printf("weights %016llx\n", (unsigned long long)sum);
  heap_sort(longs, N);
  for (int i = 1; i < N; i++)
    if (longs[i - 1] > longs[i]) printf("out of order at %d\n", i);
  printf("longs %016llx\n", (unsigned long long)mix_bytes(3, longs, sizeof longs));
  return 0;
}
