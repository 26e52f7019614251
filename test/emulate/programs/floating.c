/* Floating point: kernels in double and float, conversions, comparisons with NaN; all results as bits. */
#include <stdio.h>
#include <string.h>
#include "check.h"

enum { N = 24 };
static double a[N][N], b[N][N], c[N][N];
static float fa[256], fb[256], fc[256];

static uint64_t bits(double value) {
  uint64_t word;
  memcpy(&word, &value, sizeof word);
  return word;
}
static uint32_t bits32(float value) {
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  return word;
}
static double root(double value) { return __builtin_sqrt(value); }

struct body {
  double x, y, z, vx, vy, vz, mass;
};

static void advance(struct body *bodies, int count, double step) {
  for (int i = 0; i < count; i++)
    for (int j = i + 1; j < count; j++) {
      double dx = bodies[i].x - bodies[j].x, dy = bodies[i].y - bodies[j].y, dz = bodies[i].z - bodies[j].z;
      double square = dx * dx + dy * dy + dz * dz + 0.01, magnitude = step / (square * root(square));
      bodies[i].vx -= dx * bodies[j].mass * magnitude;
      bodies[i].vy -= dy * bodies[j].mass * magnitude;
      bodies[i].vz -= dz * bodies[j].mass * magnitude;
      bodies[j].vx += dx * bodies[i].mass * magnitude;
      bodies[j].vy += dy * bodies[i].mass * magnitude;
      bodies[j].vz += dz * bodies[i].mass * magnitude;
    }
  for (int i = 0; i < count; i++) {
    bodies[i].x += step * bodies[i].vx;
    bodies[i].y += step * bodies[i].vy;
    bodies[i].z += step * bodies[i].vz;
  }
}

int main(void) {
  uint64_t sum = 0;
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) a[i][j] = (double)(int32_t)next_random() / 1e6, b[i][j] = (double)next_random() * 1e-12;
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++)
      for (int k = 0; k < N; k++) c[i][j] += a[i][k] * b[k][j];
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) sum = mix(sum, bits(c[i][j]));
  printf("matrix %016llx\n", (unsigned long long)sum);

  struct body bodies[5];
  for (int i = 0; i < 5; i++) bodies[i] = (struct body){i * 1.5, i * i * 0.7 - 3, 4 - i, 0.1 * i, -0.2, 0.05 * i, 1 + i};
  for (int i = 0; i < 400; i++) advance(bodies, 5, 0.01);
  sum = 0;
  for (int i = 0; i < 5; i++) sum = mix(mix(sum, bits(bodies[i].x)), bits(bodies[i].vz));
  printf("bodies %016llx\n", (unsigned long long)sum);

  for (int i = 0; i < 256; i++) fa[i] = (float)(int32_t)next_random() / 7, fb[i] = (float)(next_random() >> 40) * 0.001f;
  for (int round = 0; round < 20; round++)
    for (int i = 0; i < 256; i++) {
      fc[i] = fc[i] * 0.75f + fa[i] / (fb[i] + 1) - fa[255 - i];
      if (fc[i] > 1e6f) fc[i] = 1e6f;
      if (fc[i] < fb[i]) fc[i] += __builtin_sqrtf(fb[i]);
    }
  for (int i = 0; i < 256; i++) sum = mix(sum, bits32(fc[i]));
  printf("floats %016llx\n", (unsigned long long)sum);

  for (int i = 0; i < 3000; i++) {
    uint64_t word = next_random();
    int64_t shifted = (int64_t)word >> (i % 64);
    sum = mix(sum, bits((double)shifted) ^ bits((double)(uint64_t)shifted));
    sum = mix(sum, bits32((float)shifted) + bits32((float)(uint64_t)word) + bits32((float)(int)word));
    double value = (double)shifted / 1024;
    sum = mix(sum, (uint64_t)(int64_t)value + (uint64_t)(int)(value / 4e9) + (unsigned)(value < 0 ? -value / 9e9 : value / 9e9));
    double x, y;
    memcpy(&x, &word, sizeof x);
    uint64_t other = next_random();
    memcpy(&y, &other, sizeof y);
    sum = mix(sum, (uint64_t)((x < y) | (x <= y) << 1 | (x == y) << 2 | (x != x) << 3 | (x > y) << 4 | (y >= x) << 5));
    if (x == x && y == y) {
      sum = mix(sum, bits(x > y ? x : y) ^ bits32((float)x) ^ bits(x + y == x + y ? x + y : 0));
      sum = mix(sum, bits(__builtin_fabs(x)) ^ bits(__builtin_copysign(x, y)));
    }
  }
  printf("conversions %016llx\n", (unsigned long long)sum);
  return 0;
}
