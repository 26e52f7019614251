/*
 * Calls right behind a probe to which computed jumps lead: there is no room for a jump but that of the call itself, which moves
 * into new code. The callee throws, exits the thread, or jumps past the frame.
 */
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/sdt.h>
#include <unistd.h>

struct Cleanup {
  const char *name;
  explicit Cleanup(const char *n) : name(n) {}
  ~Cleanup() { std::printf("~%s\n", name); }
};
struct Other { int value; };

static jmp_buf back;
static int what;

__attribute__((noinline)) void act(void) {
  switch (what) {
    case 1: throw std::runtime_error("error");
    case 2: throw 42;
    case 3: throw Other{7};
    case 4: longjmp(back, 1);
    case 5: pthread_exit(0);
    case 6: throw std::string("string");
  }
}

using Function = void (*)(void);

/* A call moves only where its callee is known, and seen not to look at its return address. */
static Function volatile callee;
__attribute__((noinline)) static void invoke(void) {
  callee();
  __asm__ volatile("" ::: "memory");
}

/* A probe at an address that data names, and behind it an instruction of two bytes, which needs rsp, and the call. */
#define CALLS(name)                                          \
  static const void *const next[] = {&&done, &&again, &&again}; \
  callee = call;                                             \
  again:                                                     \
  STAP_PROBE(throwing, name);                                \
  __asm__ volatile("mov %%esp, %%eax" ::: "eax");            \
  invoke();                                                  \
  goto *next[--times];                                       \
  done:;

/* A cleanup, and handlers of two types. */
__attribute__((noinline)) int caught(Function call, int times) {
  Cleanup cleanup("caught");
  try {
    CALLS(caught)
  } catch (std::exception &e) {
    std::printf("exception %s\n", e.what());
    return 1;
  } catch (int i) {
    std::printf("int %d\n", i);
    return i;
  }
  return 0;
}

/* A cleanup alone: exceptions pass through. */
__attribute__((noinline)) int passed(Function call, int times) {
  Cleanup cleanup("passed");
  CALLS(passed)
  return 0;
}

/* No handler, no cleanup, no table. */
__attribute__((noinline)) int bare(Function call, int times) {
  CALLS(bare)
  return times;
}

/* Everything ends here. */
__attribute__((noinline)) int never(Function call, int times) noexcept {
  CALLS(never)
  return times;
}

/* An exception specification: only these may leave. */
#if __cplusplus < 201703L
__attribute__((noinline)) int only(Function call, int times) throw(int, std::exception) {
  CALLS(only)
  return times;
}
static void unexpected_type() {
  std::printf("unexpected\n");
  throw 43;
}
#endif

/* Anything. */
__attribute__((noinline)) int anything(Function call, int times) {
  try {
    CALLS(anything)
  } catch (...) {
    std::printf("anything\n");
    return 1;
  }
  return 0;
}

static void ended() {
  std::printf("terminate\n");
  std::fflush(stdout);
  _exit(3);
}

typedef int (*Frame)(Function, int);
static Frame current;

static void *thread(void *) {
  Cleanup cleanup("thread");
  current(act, 2);
  return 0;
}

static void run(const char *name, Frame frame) {
  current = frame;
  for (what = 0; what <= 6; what++) {
    std::printf("%s %d\n", name, what);
    if (what == 5) {
      /* A handler of everything that does not throw again is an error then. */
      if (frame == anything) continue;
      pthread_t id;
      pthread_create(&id, 0, thread, 0);
      pthread_join(id, 0);
      continue;
    }
    if (setjmp(back)) {
      std::printf("jumped\n");
      continue;
    }
    try {
      Cleanup cleanup("run");
      std::printf("returned %d\n", frame(act, 2));
    } catch (std::exception &e) {
      std::printf("outer exception %s\n", e.what());
    } catch (Other &o) {
      std::printf("outer other %d\n", o.value);
    } catch (int i) {
      std::printf("outer int %d\n", i);
    } catch (std::string &s) {
      std::printf("outer string %s\n", s.c_str());
    }
  }
}

int main(int argc, char **argv) {
  std::setvbuf(stdout, 0, _IONBF, 0);
  std::set_terminate(ended);
  if (argc > 1) {
    what = std::atoi(argv[1]);
    never(act, 2);
    std::printf("came back\n");
    return 0;
  }
  run("caught", caught);
  run("passed", passed);
  run("bare", bare);
  run("anything", anything);
#if __cplusplus < 201703L
  std::set_unexpected(unexpected_type);
  run("only", only);
#endif
}
