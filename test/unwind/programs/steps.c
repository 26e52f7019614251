/*
 * Runs functions with probes one instruction at a time. After each, a signal handler walks up the stack, and prints what it
 * finds where that changed: for each frame above the interrupted one the name of the function, where its frame is, and the
 * registers that were saved for it. Return addresses are told as distances to the function they are in, unless NAMES is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sdt.h>
#include <unwind.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))
#ifdef __clang__
#undef NOINLINE
#define NOINLINE __attribute__((noinline))
#endif

static char last[8192], text[8192];
static int depth, names, steps;
static uintptr_t base;

static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *unused) {
  (void)unused;
  int before = 0;
  uintptr_t ip = _Unwind_GetIPInfo(context, &before);
  /* 0: the handler, 1: what it returns to, 2: what was interrupted; its own address is another in new code. */
  if (depth++ < 3) return _URC_NO_REASON;
  size_t used = strlen(text);
  Dl_info info;
  const char *name = dladdr((void *)(ip - 1), &info) && info.dli_sname ? info.dli_sname : "?";
  used += snprintf(text + used, sizeof text - used, "%s", name);
  if (!names) used += snprintf(text + used, sizeof text - used, "+%lx", ip - (uintptr_t)info.dli_saddr);
  used += snprintf(text + used, sizeof text - used, " cfa %ld", (long)(base - _Unwind_GetCFA(context)));
  static const int saved[] = {3, 6, 12, 13, 14, 15};
  for (int i = 0; i < 6; i++)
    used += snprintf(text + used, sizeof text - used, " %lx",
                     saved[i] == 6 ? base - _Unwind_GetGR(context, 6) : _Unwind_GetGR(context, saved[i]));
  snprintf(text + used, sizeof text - used, "; ");
  return !strcmp(name, "main") ? _URC_NORMAL_STOP : _URC_NO_REASON;
}

static void trap(int signal) {
  (void)signal;
  depth = 0;
  text[0] = 0;
  steps++;
  _Unwind_Backtrace(frame, 0);
  if (!strcmp(text, last)) return;
  strcpy(last, text);
  printf("%s\n", text);
}

static long counter = 1;

NOINLINE long plain(long x) {
  DTRACE_PROBE1(steps, plain, x);
  return x * 3 + counter;
}

NOINLINE long zone(const long *v, long n) {
  volatile long local[8];
  for (int i = 0; i < 8; i++) local[i] = v[i] * n;
  DTRACE_PROBE1(steps, zone, n);
  long sum = 0;
  for (int i = 0; i < 8; i++) sum += local[i];
  return sum;
}

NOINLINE long framed(long a, long b, long c) {
  long x = plain(a), y = plain(b), z = plain(c);
  DTRACE_PROBE3(steps, framed, x, y, z);
  x += y * z;
  return plain(x) + y + z;
}

NOINLINE long through(long a, long b) {
  long kept = plain(a);
  DTRACE_PROBE2(steps, through, a, b);
  return plain(b) + kept;
}

NOINLINE long branch(long a) {
  if (a > 10) {
    DTRACE_PROBE1(steps, big, a);
    if (a > 20) return plain(a);
    a += plain(a);
  }
  DTRACE_PROBE1(steps, any, a);
  return a < 0 ? plain(-a) : a;
}

NOINLINE long pushed(long a, long b, long c, long d, long e, long f, long g, long h) {
  DTRACE_PROBE2(steps, pushed, g, h);
  return plain(a + b) + c + d + e + f + g * h;
}

NOINLINE long many(long a) {
  long sum = 0;
  for (long i = 0; i < 3; i++) {
    DTRACE_PROBE1(steps, loop, i);
    sum += pushed(a, i, sum, a, i, sum, a, i);
    DTRACE_PROBE1(steps, behind, sum);
  }
  return sum;
}

NOINLINE long aligned(long a) {
  long room[8] __attribute__((aligned(64)));
  for (int i = 0; i < 8; i++) room[i] = a + i;
  __asm__ volatile("" ::"r"(room) : "memory");
  DTRACE_PROBE1(steps, aligned, a);
  return zone(room, plain(a));
}

NOINLINE long sized(long n) {
  long *room = __builtin_alloca(8 * (n + 8));
  for (int i = 0; i < 8; i++) room[i] = n + i;
  DTRACE_PROBE1(steps, sized, n);
  return zone(room, n);
}

/* hops.S, where it is linked in. */
__attribute__((weak)) long hops(long), relays(long);

int main(int argc, char **argv) {
  names = getenv("NAMES") != 0;
  (void)argv;
  setvbuf(stdout, 0, _IOFBF, 1 << 20);
  base = (uintptr_t)__builtin_frame_address(0);
  struct sigaction action = {.sa_handler = trap};
  sigaction(SIGTRAP, &action, 0);
  static const long v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  volatile long sum = 0;
  if (argc < 2) __asm__ volatile("pushf; orl $0x100,(%%rsp); popf" ::: "memory", "cc");
  sum += plain(1);
  sum += zone(v, 5);
  sum += framed(1, 2, 3);
  sum += through(1, 2);
  sum += branch(5) + branch(15) + branch(25) + branch(-5);
  sum += many(2);
  sum += aligned(7);
  sum += sized(9);
  for (long i = 0; hops && i < 3; i++) sum += hops(i) + relays(i);
  if (argc < 2) __asm__ volatile("pushf; andl $~0x100,(%%rsp); popf" ::: "memory", "cc");
  printf("sum %ld\n", (long)sum);
  fprintf(stderr, "%d\n", steps);
  return 0;
}
