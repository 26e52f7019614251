/* 128-bit and 64-bit arithmetic, bits, overflow, atomics, bit fields. */
#include <stdatomic.h>
#include <stdio.h>
#include "check.h"

typedef unsigned __int128 u128;
typedef __int128 i128;

struct fields {
  unsigned a : 3, b : 7, c : 22;
  long long d : 35;
  int e : 5;
};

static u128 random128(void) { return ((u128)next_random() << 64 | next_random()) >> (next_random() % 127); }
static uint64_t fold(uint64_t sum, u128 value) { return mix(mix(sum, (uint64_t)value), (uint64_t)(value >> 64)); }

int main(void) {
  uint64_t sum = 0;
  for (int i = 0; i < 1200; i++) {
    u128 a = random128(), b = random128() | 1;
    sum = fold(sum, a + b);
    sum = fold(sum, a - b);
    sum = fold(sum, a * b);
    sum = fold(sum, a / b);
    sum = fold(sum, a % b);
    sum = fold(sum, a << (i % 128));
    sum = fold(sum, a >> (i % 128));
    sum = fold(sum, (u128)((i128)a >> (i % 128)));
    sum = fold(sum, (u128)((i128)a / ((i128)b | 1)));
    sum = mix(sum, a < b);
    uint64_t x = (uint64_t)a, y = (uint64_t)b;
    sum = mix(sum, (x << (i & 63) | x >> (-i & 63)) ^ __builtin_bswap64(y));
    sum = mix(sum, (uint64_t)(__builtin_clzll(y) * 64 + __builtin_ctzll(y) + __builtin_popcountll(x) + __builtin_parityll(x)));
    long long product;
    sum = mix(sum, (uint64_t)__builtin_mul_overflow((long long)x, (long long)y, &product) + (uint64_t)product);
    int total;
    sum = mix(sum, (uint64_t)__builtin_add_overflow((int)x, (int)y, &total) + (uint64_t)(unsigned)total);
    short narrow;
    sum = mix(sum, (uint64_t)__builtin_sub_overflow((short)x, (short)y, &narrow) + (uint64_t)(unsigned short)narrow);
    sum = mix(sum, (uint64_t)((int)x / (int)((y & 0xffff) | 1)) + (uint32_t)x % (uint32_t)y);
    sum = mix(sum, (uint64_t)((int64_t)x % (int64_t)y));
    sum = mix(sum, (uint64_t)(((short)x * (signed char)y) >> 3) + (uint16_t)x / ((uint8_t)y | 1u));
  }
  struct fields fields = {5, 100, 4000000, -17000000000LL, -16};
  for (int i = 0; i < 200; i++) {
    fields.a += 3, fields.b *= 5, fields.c ^= (unsigned)i << 9, fields.d -= 123456789, fields.e++;
    sum = mix(sum, fields.a + fields.b + fields.c + (uint64_t)fields.d + (uint64_t)fields.e);
  }
  static _Atomic uint64_t counter;
  static _Atomic int small;
  for (int i = 0; i < 500; i++) {
    atomic_fetch_add(&counter, next_random());
    atomic_fetch_xor(&counter, 0x1234567);
    atomic_fetch_or(&small, i), atomic_fetch_and(&small, ~(i >> 1)), atomic_fetch_sub(&small, 3);
    uint64_t expected = i % 2 ? counter : 1;
    sum = mix(sum, atomic_compare_exchange_strong(&counter, &expected, counter + 1) + expected);
    sum = mix(sum, (uint64_t)atomic_exchange(&small, i * 5));
  }
  printf("%016llx %016llx\n", (unsigned long long)sum, (unsigned long long)counter);
  return (int)(sum & 63);
}
