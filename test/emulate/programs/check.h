/* What the programs share: a generator with a fixed seed, and a checksum that says where two runs part. */
#include <stddef.h>
#include <stdint.h>

static uint64_t seed_state = 0x9e3779b97f4a7c15u;

static inline uint64_t next_random(void) {
  seed_state ^= seed_state << 13;
  seed_state ^= seed_state >> 7;
  seed_state ^= seed_state << 17;
  return seed_state;
}

static inline uint64_t mix(uint64_t sum, uint64_t value) {
  sum ^= value;
  sum *= 0x100000001b3u;
  return sum ^ (sum >> 29);
}

static inline uint64_t mix_bytes(uint64_t sum, const void *data, size_t size) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++) sum = mix(sum, bytes[i]);
  return sum;
}
