/*
 * Ways to leave a frame whose call moved into new code, other than to return: longjmp as interpreters use it, with handlers that
 * run on the way; siglongjmp out of a signal handler that interrupted the callee, or any instruction of the frame; and an exception
 * that nobody catches.
 *   leaving jumps | signals | steps | uncaught | nothrow | nested
 * Or they are not left, and tracers look at the stack: stay, which waits for the end of its input.
 */
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <stdexcept>
#include <sys/sdt.h>
#include <ucontext.h>

#define NOINLINE __attribute__((noinline))
using Function = void (*)();

/* A call moves only where its callee is known, and seen not to look at its return address. */
static Function volatile callee;
NOINLINE static void invoke() {
  Function mine = callee;
  mine();
  callee = mine;
}

/*
 * A probe at an address that data names, and behind it an instruction of three bytes, which needs rsp, and the call: there is room
 * for a jump only if the call moves.
 */
#define CALLS(name)                                             \
  static const void *const next[] = {&&done, &&again, &&again}; \
  callee = call;                                                \
  again:                                                        \
  STAP_PROBE(leaving, name);                                    \
  __asm__ volatile("mov (%%rsp), %%eax" ::: "eax");             \
  invoke();                                                     \
  goto *next[--times];                                          \
  done:;

NOINLINE long plain(Function call, long times) {
  CALLS(plain)
  return times + 1;
}

NOINLINE long nothrow(Function call, long times) noexcept {
  CALLS(nothrow)
  return times + 2;
}

/* Values in registers that the callee saves. */
NOINLINE long full(Function call, long times, long a, long b, long c, long d) {
  CALLS(full)
  return a * b + c * d + a + b + c + d + times;
}

/* protect, ensure and raise as Ruby has them: the innermost setjmp is jumped to, and jumps further out. */
struct Tag {
  sigjmp_buf buffer;
  Tag *outer;
};
static Tag *tags;
static int raised;

static void raise_tag(int value) {
  raised = value;
  siglongjmp(tags->buffer, value);
}

NOINLINE static int protect(Function body, long depth) {
  Tag tag;
  tag.outer = tags;
  tags = &tag;
  int value = sigsetjmp(tag.buffer, 1);
  if (value == 0) plain(body, 2);
  tags = tag.outer;
  if (value) std::printf("ensure %ld %d\n", depth, value);
  return value;
}

static int what;

static void handler(int) { raise_tag(what); }

NOINLINE static void inner() {
  switch (what) {
    case 1: raise_tag(1);
    case 2: std::raise(SIGUSR1); break;
  }
}

NOINLINE static void outer() {
  int value = protect(inner, 1);
  if (value) raise_tag(value + 10);
}

static void jumps() {
  for (what = 0; what <= 2; what++)
    for (int round = 0; round < 3; round++) std::printf("jumps %d: %d\n", what, protect(outer, 2));
}

static void signals() {
  what = 2;
  unsigned sum = 0;
  for (int round = 0; round < 1000; round++) {
    Tag tag;
    tag.outer = 0;
    tags = &tag;
    volatile long kept = round * 3;
    if (sigsetjmp(tag.buffer, 1) == 0) full(inner, 2, round, 2, 3, 4);
    sum = sum * 31 + kept + raised;
  }
  std::printf("signals %08x\n", sum);
}

static uintptr_t code[8][2];
static int codes;

static int find(dl_phdr_info *info, size_t, void *) {
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) &p = info->dlpi_phdr[i];
    if (p.p_type != PT_LOAD || !(p.p_flags & PF_X)) continue;
    code[codes][0] = info->dlpi_addr + p.p_vaddr;
    code[codes++][1] = info->dlpi_addr + p.p_vaddr + p.p_memsz;
  }
  return 1;
}

static volatile long turn, step;
static sigjmp_buf there;

static void trap(int, siginfo_t *, void *context) {
  uintptr_t pc = static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP];
  for (int i = 0; i < codes; i++)
    if (pc >= code[i][0] && pc < code[i][1] && step++ == turn) siglongjmp(there, 1);
}

static volatile int times_called;
NOINLINE static void nothing() {
  STAP_PROBE(leaving, called);
  times_called = 1;
}

/* Out of a handler that interrupted each instruction in turn, past frames in new code. */
static void steps() {
  dl_iterate_phdr(find, 0);
  struct sigaction action = {};
  action.sa_sigaction = trap;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGTRAP, &action, 0);
  volatile long wrong = 0, result = 0;
  volatile bool ended = false;
  for (turn = 0; !ended; turn++) {
    step = 0;
    volatile long a = turn, b = turn * 5;
    if (sigsetjmp(there, 1) == 0) {
      asm volatile("pushf; orl $0x100,(%%rsp); popf" ::: "memory", "cc");
      result = full(nothing, 2, a, b, 3, 4) + plain(nothing, 2);
      asm volatile("pushf; andl $~0x100,(%%rsp); popf" ::: "memory", "cc");
      ended = true;
      wrong += result != a * b + 12 + a + b + 7 + 1;
    }
    wrong += a != turn || b != turn * 5;
  }
  std::printf("steps: %ld wrong\n", wrong + 0);
  std::fprintf(stderr, "%ld\n", turn + 0);
}

/* Keeps values below the stack pointer. */
NOINLINE long zone(long n) {
  volatile long local[8];
  for (int i = 0; i < 8; i++) local[i] = i * n;
  STAP_PROBE1(leaving, zone, n);
  long sum = 0;
  for (int i = 0; i < 8; i++) sum += local[i];
  return sum;
}

static long sum;
NOINLINE static void deeper() { sum += zone(sum + 1) + 1; }

static void stay() {
  sum += full(deeper, 2, 1, 2, 3, 4);
  sum += plain(nothing, 2) + nothrow(deeper, 2) + nothrow(nothing, 2);
  std::printf("sum %ld\nready\n", sum);
  std::fflush(stdout);
  while (std::getchar() >= 0) {}
}

static void thrower() {
  throw std::runtime_error("nobody catches this");
}

static void again() {
  plain(thrower, 2);
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  std::setvbuf(stdout, 0, _IOLBF, 0);
  std::signal(SIGUSR1, handler);
  if (!std::strcmp(argv[1], "jumps")) jumps();
  else if (!std::strcmp(argv[1], "signals")) signals();
  else if (!std::strcmp(argv[1], "steps")) steps();
  else if (!std::strcmp(argv[1], "stay")) stay();
  else if (!std::strcmp(argv[1], "uncaught")) plain(thrower, 2);
  else if (!std::strcmp(argv[1], "nothrow")) nothrow(thrower, 2);
  else if (!std::strcmp(argv[1], "nested")) nothrow(again, 2);
  return 0;
}
