/* malloc, calloc, realloc and free: small and large, in random order, each block filled and checked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

struct block {
  unsigned char *at;
  size_t size;
  unsigned char fill;
};

struct tree {
  struct tree *left, *right;
  uint64_t key;
};

static struct tree *insert(struct tree *tree, uint64_t key) {
  if (tree == NULL) {
    tree = calloc(1, sizeof *tree);
    tree->key = key;
  } else if (key < tree->key) tree->left = insert(tree->left, key);
  else tree->right = insert(tree->right, key);
  return tree;
}

static uint64_t take_down(struct tree *tree, uint64_t sum) {
  if (tree == NULL) return sum;
  sum = take_down(tree->left, sum);
  sum = mix(sum, tree->key);
  sum = take_down(tree->right, sum);
  free(tree);
  return sum;
}

int main(void) {
  static struct block blocks[128];
  uint64_t sum = 0;
  for (int round = 0; round < 1500; round++) {
    struct block *block = &blocks[next_random() % 128];
    for (size_t i = 0; i < block->size; i += 97)
      if (block->at[i] != block->fill) {
        printf("round %d: byte %zu was changed\n", round, i);
        return 1;
      }
    size_t size = next_random() % (round % 100 == 0 ? 300000 : 400);
    if (round % 3 == 0) {
      free(block->at);
      block->at = NULL;
      size = 0;
    } else if (round % 3 == 1) {
      block->at = realloc(block->at, size + 1);
    } else {
      free(block->at);
      block->at = round % 2 ? malloc(size + 1) : calloc(1, size + 1);
    }
    block->size = size;
    block->fill = (unsigned char)round;
    if (size > 0) memset(block->at, block->fill, size);
    sum = mix(sum, size);
  }
  for (int i = 0; i < 128; i++) free(blocks[i].at);
  struct tree *tree = NULL;
  for (int i = 0; i < 1500; i++) tree = insert(tree, next_random() >> 20);
  sum = take_down(tree, sum);
  char *large = malloc(40 << 20);
  large[0] = 1;
  large[(40 << 20) - 1] = 2;
  sum = mix(sum, (uint64_t)(large[0] + large[12345678] + large[(40 << 20) - 1]));
  large = realloc(large, 50 << 20);
  sum = mix(sum, (uint64_t)(large[0] + large[(40 << 20) - 1]));
  free(large);
  printf("%016llx\n", (unsigned long long)sum);
  return 0;
}
