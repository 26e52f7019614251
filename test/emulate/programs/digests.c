/* SHA-256, SHA-512, CRC-32 and Adler-32 of generated data. "abc" gives the digests of FIPS 180-2. */
#include <stdio.h>
#include <string.h>
#include "check.h"

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }
static uint64_t turn64(uint64_t x, int n) { return x >> n | x << (64 - n); }

/* The constants are fractional parts of cube and square roots of primes: computed, in integers. */
static uint64_t constants[80], roots[8];

/* floor of the k-th root of n, times 2^64, without its integer part */
static uint64_t fraction(unsigned n, int k) {
  unsigned whole = 1;
  while ((k == 2 ? (whole + 1) * (whole + 1) : (whole + 1) * (whole + 1) * (whole + 1)) <= n) whole++;
  /* Finds the largest x = whole + f / 2^64 with x^k <= n, bit by bit, with 32-bit limbs. */
  uint64_t result = 0;
  for (int bit = 63; bit >= 0; bit--) {
    uint64_t f = result | 1ull << bit;
    uint32_t x[3] = {(uint32_t)f, (uint32_t)(f >> 32), whole}, product[9] = {1};
    for (int round = 0; round < k; round++) {
      uint32_t next[9] = {0};
      for (int i = 0; i < 3; i++) {
        uint64_t carry = 0;
        for (int j = 0; i + j < 9; j++) {
          uint64_t sum = (uint64_t)x[i] * product[j] + next[i + j] + carry;
          next[i + j] = (uint32_t)sum;
          carry = sum >> 32;
        }
      }
      memcpy(product, next, sizeof next);
    }
    if (product[2 * k] < n) result = f;
  }
  return result;
}

static void make_constants(void) {
  int count = 0;
  for (unsigned n = 2; count < 80; n++) {
    int prime = 1;
    for (unsigned d = 2; d * d <= n; d++)
      if (n % d == 0) prime = 0;
    if (!prime) continue;
    if (count < 8) roots[count] = fraction(n, 2);
    constants[count++] = fraction(n, 3);
  }
}

static void sha256(const unsigned char *data, size_t size, unsigned char *digest) {
  uint32_t h[8];
  for (int i = 0; i < 8; i++) h[i] = (uint32_t)(roots[i] >> 32);
  unsigned char block[64];
  int done = 0;
  for (size_t at = 0; !done; at += 64) {
    size_t left = at <= size ? size - at : 0;
    memset(block, 0, 64);
    if (at <= size) {
      memcpy(block, data + at, left < 64 ? left : 64);
      if (left < 64) block[left] = 0x80;
    }
    if (left < 56) {
      for (int i = 0; i < 8; i++) block[63 - i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
      done = 1;
    }
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
      w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++)
      w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    uint32_t s[8];
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
      uint32_t one = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                     (uint32_t)(constants[i] >> 32) + w[i];
      uint32_t two = (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      memmove(s + 1, s, 7 * sizeof *s);
      s[4] += one;
      s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
  }
  for (int i = 0; i < 32; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void sha512_block(uint64_t h[8], const unsigned char *block) {
  uint64_t w[80], s[8];
  for (int i = 0; i < 16; i++) {
    w[i] = 0;
    for (int k = 0; k < 8; k++) w[i] = w[i] << 8 | block[8 * i + k];
  }
  for (int i = 16; i < 80; i++)
    w[i] = w[i - 16] + w[i - 7] + (turn64(w[i - 15], 1) ^ turn64(w[i - 15], 8) ^ w[i - 15] >> 7) +
           (turn64(w[i - 2], 19) ^ turn64(w[i - 2], 61) ^ w[i - 2] >> 6);
  memcpy(s, h, sizeof s);
  for (int i = 0; i < 80; i++) {
    uint64_t one = s[7] + (turn64(s[4], 14) ^ turn64(s[4], 18) ^ turn64(s[4], 41)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                   constants[i] + w[i];
    uint64_t two = (turn64(s[0], 28) ^ turn64(s[0], 34) ^ turn64(s[0], 39)) +
                   ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += one;
    s[0] = one + two;
  }
  for (int i = 0; i < 8; i++) h[i] += s[i];
}

static uint32_t crc32(const unsigned char *data, size_t size) {
  static uint32_t table[256];
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
    table[i] = c;
  }
  uint32_t crc = ~0u;
  while (size--) crc = table[(crc ^ *data++) & 255] ^ crc >> 8;
  return ~crc;
}

static uint32_t adler32(const unsigned char *data, size_t size) {
  uint32_t a = 1, b = 0;
  while (size--) {
    a = (a + *data++) % 65521;
    b = (b + a) % 65521;
  }
  return b << 16 | a;
}

static void show(const char *name, const unsigned char *digest, int size) {
  printf("%s ", name);
  for (int i = 0; i < size; i++) printf("%02x", digest[i]);
  printf("\n");
}

int main(void) {
  make_constants();
  unsigned char digest[32];
  sha256((const unsigned char *)"abc", 3, digest);
  show("abc", digest, 32);
  static unsigned char data[4000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)next_random();
  for (size_t size = 0; size < 300; size += 59) {
    sha256(data, size, digest);
    show("sha256", digest, 32);
  }
  sha256(data, sizeof data, digest);
  show("sha256", digest, 32);
  uint64_t h[8];
  memcpy(h, roots, sizeof h);
  for (size_t at = 0; at + 128 <= sizeof data; at += 128) sha512_block(h, data + at);
  printf("sha512 blocks %016llx %016llx\n", (unsigned long long)h[0], (unsigned long long)h[7]);
  printf("crc32 %08x %08x adler32 %08x\n", crc32((const unsigned char *)"123456789", 9), crc32(data, sizeof data),
         adler32(data, sizeof data));
  return 0;
}
