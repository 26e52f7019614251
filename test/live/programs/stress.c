/*
 * Eight threads pass twenty probes, round after round, while somebody attaches and detaches tracers.
 *
 *     stress FILE
 *
 * FILE is mapped and shared with the one who watches (little-endian words of 8 bytes):
 *
 *     0                  written by him: 0 go on, 1 pause at the end of a round, 2 end
 *     1                  threads that are paused
 *     64 + 64 * thread   rounds begun, and one further, rounds done: each round passes every probe once
 *
 * In the end it prints for each thread its rounds and what it has computed in them. Values live in registers, in flags, on the stack
 * and below it across the probes: whoever overwrites them is found out by the sum.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sdt.h>
#include <unistd.h>
#ifdef STRESS_NOP5
#undef _SDT_NOP
#define _SDT_NOP .nops 5
#endif

#define THREADS 8
#define NOINLINE __attribute__((noinline))

static volatile uint64_t *board;

/* In the middle of arithmetic: what follows the probe is moved. */
#define PLAIN(n)                                                             \
  NOINLINE static uint32_t plain##n(uint32_t value) {                        \
    value = value * 1664525u + n;                                            \
    STAP_PROBE2(stress, plain##n, value, n);                                 \
    return value ^ value >> 13;                                              \
  }
PLAIN(1) PLAIN(2) PLAIN(3) PLAIN(4) PLAIN(5)

/* Calls nothing and keeps its values below rsp: a guard. */
#define LEAF(n)                                                              \
  NOINLINE static uint32_t leaf##n(uint32_t value) {                         \
    volatile uint32_t kept[8];                                               \
    for (uint32_t i = 0; i < 8; i++) kept[i] = value + i * n;                \
    STAP_PROBE1(stress, leaf##n, value);                                     \
    return (kept[0] ^ kept[7]) + kept[value & 7];                            \
  }
LEAF(1) LEAF(2) LEAF(3) LEAF(4) LEAF(5)

/* The carry lives across the probe. */
#define FLAGS(n)                                                             \
  NOINLINE static uint32_t flags##n(uint32_t value) {                        \
    uint32_t carry = 0;                                                      \
    __asm__ volatile(                                                        \
        "addl %2, %0\n" _SDT_PROBE_NOW(n)                                    \
        "adcl $0, %1"                                                        \
        : "+r"(value), "+r"(carry) : "r"(0x9e3779b9u * n) : "cc");           \
    return value + carry;                                                    \
  }
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define _SDT_PROBE_NOW(n)                                                    \
  "990: " TEXT(_SDT_NOP) "\n"                                                        \
  ".pushsection .note.stapsdt, \"\", \"note\"\n.balign 4\n"                  \
  ".4byte 992f-991f, 994f-993f, 3\n991: .asciz \"stapsdt\"\n992: .balign 4\n" \
  "993: .8byte 990b, _.stapsdt.base, 0\n.asciz \"stress\"\n.asciz \"flags" TEXT(n) "\"\n.asciz \"-4@$" TEXT(n) "\"\n" \
  "994: .balign 4\n.popsection\n"
FLAGS(1) FLAGS(2) FLAGS(3) FLAGS(4) FLAGS(5)

/* Before a call, after one, in a loop's end, and four of one name. */
NOINLINE static uint32_t calls(uint32_t value) {
  STAP_PROBE1(stress, before, value);
  value = plain1(value);
  STAP_PROBE1(stress, after, value);
  return value + 1;
}
__attribute__((always_inline)) static inline uint32_t same(uint32_t value, uint32_t add) {
  STAP_PROBE2(stress, same, value, add);
  return value * 3 + add;
}
NOINLINE static uint32_t several(uint32_t value) { return same(same(same(value, 1), 2), 3); }

static uint32_t round_of(uint32_t value) {
  value = calls(value);
  value = plain2(plain3(plain4(plain5(value))));
  value = leaf1(leaf2(leaf3(leaf4(leaf5(value)))));
  value = flags1(flags2(flags3(flags4(flags5(value)))));
  return several(value);
}

struct result {
  uint64_t rounds;
  uint32_t value;
};
static struct result results[THREADS];

static void *thread(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  volatile uint64_t *begun = board + 64 + 64 * me, *done = begun + 1;
  uint32_t value = me + 1;
  for (;;) {
    uint64_t order = __atomic_load_n(&board[0], __ATOMIC_SEQ_CST);
    if (order == 2) break;
    if (order == 1) {
      __atomic_fetch_add(&board[1], 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&board[0], __ATOMIC_SEQ_CST) == 1) usleep(200);
      __atomic_fetch_sub(&board[1], 1, __ATOMIC_SEQ_CST);
      continue;
    }
    __atomic_store_n(begun, *begun + 1, __ATOMIC_SEQ_CST);
    value = round_of(value);
    __atomic_store_n(done, *done + 1, __ATOMIC_SEQ_CST);
    sched_yield();
  }
  results[me] = (struct result){*done, value};
  return NULL;
}

int main(int count, char **words) {
  int file = count > 1 ? open(words[1], O_RDWR) : -1;
  board = mmap(NULL, 8 * 64 * (THREADS + 1), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (board == MAP_FAILED) return 1;
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, thread, (void *)i)) return 1;
  puts("ready");
  fflush(stdout);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < THREADS; i++)
    printf("thread %d: %lu rounds, %08x\n", i, (unsigned long)results[i].rounds, results[i].value);
  return 42;
}
