/*
 * Calls that stand right before a probe, with a pointer to the instruction right behind it: there is no way to rewrite the
 * probe but to move the call. What is called then does with its return address what callees do: throws, unwinds by it,
 * comes back to it later or more than once, asks where it lies.
 */
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <string>
#include <sys/sdt.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#define NOINLINE __attribute__((noinline, noipa))
#ifdef __clang__
#undef NOINLINE
#define NOINLINE __attribute__((noinline))
#endif

/* The address behind the probe goes into data: nothing may be put there. */
#define PROBE(name)                                                                                                    \
  do {                                                                                                                 \
    STAP_PROBE(calls, name);                                                                                           \
    asm volatile("1: .pushsection .data.rel.ro, \"aw\"\n .quad 1b\n .popsection" ::: "memory");                         \
  } while (0)

static int depth;

struct Cleanup {
  const char *name;
  ~Cleanup() { printf("cleanup %s\n", name); }
};

NOINLINE static void thrower(int n) {
  if (n > 0) throw std::string("thrown");
}

NOINLINE static void cleans(int n) {
  Cleanup cleanup{"cleans"};
  thrower(n);
  PROBE(cleans);
  puts("cleans goes on");
}

NOINLINE static void catches(int n) {
  try {
    cleans(n);
    PROBE(catches);
    puts("nothing was thrown");
  } catch (const std::string &s) {
    printf("caught %s\n", s.c_str());
  }
}

NOINLINE static void never_throws(int n) noexcept {
  thrower(n);
  PROBE(never_throws);
  puts("nothing was thrown");
}

static jmp_buf buffer;
NOINLINE static void jumps() {
  volatile int rounds = 0;
  _setjmp(buffer);
  PROBE(jumps);
  printf("round %d\n", rounds);
  rounds = rounds + 1;
  if (rounds < 4) longjmp(buffer, rounds);
}

static ucontext_t context;
NOINLINE static void contexts() {
  volatile int rounds = 0;
  getcontext(&context);
  PROBE(contexts);
  printf("round %d\n", rounds);
  rounds = rounds + 1;
  if (rounds < 4) setcontext(&context);
}

NOINLINE static void forks() {
  fflush(stdout);
  pid_t pid = vfork();
  PROBE(forks);
  if (pid == 0) _exit(7);
  int status;
  waitpid(pid, &status, 0);
  printf("child %d\n", WEXITSTATUS(status));
}

static _Unwind_Reason_Code count(_Unwind_Context *, void *) {
  depth++;
  return _URC_NO_REASON;
}
NOINLINE static void walk() {
  depth = 0;
  _Unwind_Backtrace(count, nullptr);
}
NOINLINE static void walks() {
  walk();
  PROBE(walks);
  printf("depth %d\n", depth);
  void *frames[64];
  depth = backtrace(frames, 64);
  PROBE(backtraces);
  printf("backtrace %d\n", depth);
}

static void (*pointer)() = walk;
/* Far enough behind that the call has six bytes. */
struct Table {
  void *before[40];
  void (*second)();
} table = {{}, walk};
NOINLINE static void through_pointers(Table *t) {
  pointer();
  PROBE(through_memory);
  t->second();
  PROBE(through_register);
  printf("depth %d\n", depth);
}

static void *found;
NOINLINE static void looks() {
  found = dlsym(RTLD_NEXT, "puts");
  PROBE(looks);
  Dl_info info;
  printf("next %d\n", found != nullptr && dladdr(found, &info) != 0 && strstr(info.dli_fname, "libc") != nullptr);
}

static pthread_barrier_t barrier;
NOINLINE static void waits() {
  Cleanup cleanup{"waits"};
  pause();
  PROBE(waits);
  puts("not reached");
}
static void *thread(void *) {
  Cleanup cleanup{"thread"};
  pthread_barrier_wait(&barrier);
  waits();
  return nullptr;
}
static void cancels() {
  pthread_barrier_init(&barrier, nullptr, 2);
  pthread_t id;
  pthread_create(&id, nullptr, thread, nullptr);
  pthread_barrier_wait(&barrier);
  usleep(20000);
  pthread_cancel(id);
  void *result;
  pthread_join(id, &result);
  printf("cancelled %d\n", result == PTHREAD_CANCELED);
}

NOINLINE static void recurse(int n) {
  if (n == 0) {
    walk();
    throw n;
  }
  recurse(n - 1);
  PROBE(recurse);
  puts("not reached");
}

int main(int argc, char **argv) {
  std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "catches") catches(1), catches(0);
  if (mode == "noexcept") never_throws(0), fflush(stdout), never_throws(1);
  if (mode == "uncaught") fflush(stdout), cleans(1);
  if (mode == "jumps") jumps();
  if (mode == "contexts") contexts();
  if (mode == "forks") forks();
  if (mode == "walks") walks();
  if (mode == "pointers") through_pointers(&table);
  if (mode == "looks") looks();
  if (mode == "cancels") cancels();
  if (mode == "recurse") {
    try {
      recurse(20);
    } catch (int) {
      printf("caught at depth %d\n", depth);
    }
  }
}
