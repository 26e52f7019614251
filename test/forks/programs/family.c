/*
 * A program with probes that forks in the way that its first argument names. Before it does, it passes its sites until the
 * kernel has optimized them; what it forks passes them again.
 *
 *   family SCENE [NUMBER]            below reaper.c, which has the board
 *
 * SEMAPHORES: sites are passed only where their semaphores have been raised
 * ALREADY: one of them is a five-byte nop from the start
 *
 * MEMBER     the library to open, where a scene has one: member.c
 * INT3       link-time addresses of nop5 sites: a child handler writes int3 over those that show a call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef SEMAPHORES
#define _SDT_HAS_SEMAPHORES 1
#endif
#include <sys/sdt.h>
#include "board.h"

extern char **environ;
static volatile long sum;

#ifdef SEMAPHORES
#define SEMAPHORE(name) unsigned short family_##name##_semaphore __attribute__((section(".probes")))
SEMAPHORE(first);
SEMAPHORE(enter);
SEMAPHORE(leave);
SEMAPHORE(loop);
SEMAPHORE(leaf);
#define WANTED(name) __builtin_expect(*(volatile unsigned short *)&family_##name##_semaphore, 0)
#else
#define WANTED(name) 1
#endif

/* Sites of several kinds, in pages of their own. The last is in a leaf function that keeps what it computes below rsp. */
#define PAGE_OF_ITS_OWN __attribute__((noinline, aligned(4096)))
#ifdef ALREADY
#undef _SDT_NOP
#define _SDT_NOP .nops 5
#endif
static PAGE_OF_ITS_OWN void first(long i) {
  sum += i;
  if (WANTED(first)) STAP_PROBE1(family, first, i);
}
#ifdef ALREADY
#undef _SDT_NOP
#define _SDT_NOP nop
#endif
static PAGE_OF_ITS_OWN void two(long i) {
  if (WANTED(enter)) STAP_PROBE2(family, enter, i, sum);
  sum = sum * 3 + i;
  if (WANTED(leave)) STAP_PROBE2(family, leave, i, sum);
}
static PAGE_OF_ITS_OWN void loop(long i) {
  for (long k = 0; k < 1; k++) {
    sum ^= i + k;
    if (WANTED(loop)) STAP_PROBE(family, loop);
  }
}
static PAGE_OF_ITS_OWN long leaf(long i) {
  volatile long below[4];
  for (int k = 0; k < 4; k++) below[k] = i * (k + 1);
  if (WANTED(leaf)) STAP_PROBE1(family, leaf, i);
  return below[0] + below[1] + below[2] + below[3];
}

static void pass(void) {
  first(1);
  two(2);
  loop(3);
  if (leaf(7) != 70) count(&board()->wrong);
  count(&board()->passes);
}
static void pass_often(void) {
  for (int i = 0; i < 3; i++) pass();
}

static void end(void) {
  count(&board()->ended);
  _exit(0);
}
static void await(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (WIFSIGNALED(status)) count(&board()->killed[WTERMSIG(status)]);
  else if (WEXITSTATUS(status) != 0) count(&board()->wrong);
}
/* The blocked signals as the kernel has them. */
static unsigned long blocked(void) {
  unsigned long mask = 0;
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
  return mask;
}
static pid_t have_child(void) {
  unsigned long before = blocked();
  pid_t child = fork();
  if (blocked() != before) count(&board()->wrong);
  if (child == 0) count(&board()->begun);
  if (child < 0) count(&board()->wrong);
  return child;
}
/* A child that passes the sites; waits for it. */
static void child_passes(void) {
  pid_t child = have_child();
  if (child == 0) {
    pass_often();
    end();
  }
  await(child);
}

static void scene_fork(void) {
  pass_often();
  child_passes();
  pass_often();
  child_passes();
}

static int number;

static int mappings(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512];
  int lines = 0;
  while (fgets(line, sizeof line, maps)) lines++;
  fclose(maps);
  return lines;
}
/* None has more mappings than its ancestors. */
static void scene_generations(void) {
  int generation = 0, last = number ? number : 4, of_first = 0;
  for (;;) {
    pass_often();
    if (generation == 1) of_first = mappings();
    if (generation == last) {
      if (mappings() > of_first) count(&board()->wrong);
      end();
    }
    pid_t child = have_child();
    if (child == 0) {
      generation++;
      continue;
    }
    await(child);
    pass_often();
    if (generation > 0) end();
    return;
  }
}

static void scene_daemon(void) {
  pass_often();
  pid_t child = have_child(); /* its end is the daemon's beginning: what daemon() leaves behind ends in _exit */
  if (child == 0) {
    count(&board()->ended);
    count(&board()->begun);
    if (daemon(1, 1)) count(&board()->wrong);
    pass_often();
    child_passes();
    end();
  }
  await(child);
}

static volatile int forked;
static void *passes_until_forked(void *unused) {
  while (!forked) {
    pass();
    sched_yield();
  }
  return NULL;
}
static void *forks(void *unused) {
  pass_often();
  for (int i = 0; i < (number ? number : 5); i++) child_passes();
  forked = 1;
  return NULL;
}
static void scene_threads(void) {
  pthread_t threads[8];
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, i == 5 ? forks : passes_until_forked, NULL);
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

static pid_t forked_by_handler = -1;
static void fork_in_handler(int signal) {
  pass();
  forked_by_handler = have_child();
  pass();
}
static void scene_handler(void) {
  pass_often();
  pid_t child = have_child();
  if (child != 0) {
    await(child);
    return;
  }
  signal(SIGUSR1, fork_in_handler);
  pass();
  raise(SIGUSR1);
  pass_often();
  if (forked_by_handler > 0) await(forked_by_handler);
  end();
}

static void scene_atfork(void) {
  pthread_atfork(pass, pass, pass);
  pass_often();
  child_passes();
  child_passes();
}

static void scene_setuid(void) {
  pass_often();
  if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) count(&board()->wrong);
  if (prctl(PR_GET_DUMPABLE) == 1) count(&board()->wrong);
  child_passes();
}
/* The child changes its user, and forks then. */
static void scene_setuid_in_child(void) {
  pass_often();
  pid_t child = have_child();
  if (child != 0) {
    await(child);
    return;
  }
  if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) count(&board()->wrong);
  pass_often();
  child_passes();
  end();
}
static void scene_undumpable(void) {
  pass_often();
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  child_passes();
}
static void scene_mdwe(void) {
  if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0)) count(&board()->wrong);
  pass_often();
  child_passes();
}

static void scene_forkpty(void) {
  pass_often();
  int terminal;
  pid_t child = forkpty(&terminal, NULL, NULL, NULL);
  if (child == 0) {
    count(&board()->begun);
    pass_often();
    end();
  }
  await(child);
  close(terminal);
}

/* Children that share the memory until they call exec. */
static void scene_spawn(void) {
  pass_often();
  char *arguments[] = {"/bin/true", NULL};
  pid_t child = vfork();
  if (child == 0) {
    first(1), two(2), loop(3), leaf(7);
    count(&board()->passes);
    execv(arguments[0], arguments);
    _exit(1);
  }
  await(child);
  pass_often();
  if (posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ)) count(&board()->wrong);
  await(child);
  pass_often();
  if (system("exit 7") != 7 << 8) count(&board()->wrong);
  FILE *pipe = popen("echo said", "r");
  char line[16] = "";
  if (fgets(line, sizeof line, pipe) == NULL || strcmp(line, "said\n") || pclose(pipe)) count(&board()->wrong);
  pass_often();
  /* Fork and exec of what is traced itself. */
  child = have_child();
  if (child == 0) {
    pass();
    execl("/proc/self/exe", "family", "fork", NULL);
  }
  await(child);
}

/* With the library. */
static void *library;
static void open_library(void) {
  library = dlopen(getenv("MEMBER"), RTLD_NOW);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(98);
  }
}
static void call(const char *name) { ((void (*)(void))dlsym(library, name))(); }
static void child_passes_both(void) {
  pid_t child = have_child();
  if (child == 0) {
    pass_often();
    call("member_pass");
    end();
  }
  await(child);
}
static void scene_library(void) {
  open_library();
  pass_often();
  call("member_pass");
  child_passes_both();
  child_passes_both();
}
static void scene_library_forks(void) {
  open_library();
  call("member_pass");
  call("member_fork");
  pass_often();
  call("member_fork");
}
static void scene_close(void) {
  for (int i = 0; i < 3; i++) {
    open_library();
    call("member_pass");
    child_passes_both();
    dlclose(library);
    if (dlopen(getenv("MEMBER"), RTLD_NOW | RTLD_NOLOAD) != NULL) count(&board()->wrong);
    child_passes();
  }
}
/* In a namespace of its own, with a C library of its own, which knows nothing of forks by the program's. */
static void scene_namespace(void) {
  library = dlmopen(LM_ID_NEWLM, getenv("MEMBER"), RTLD_NOW);
  if (library == NULL) exit(98);
  call("member_pass");
  child_passes_both();
  call("member_fork");
}
/* A child handler that is registered before the library is there, and calls it. */
static void call_library(void) {
  if (library != NULL) call("member_pass");
}
static void scene_early_handler(void) {
  pthread_atfork(NULL, NULL, call_library);
  open_library();
  call("member_pass");
  child_passes_both();
}
/* The library does all by itself, in its constructor and its destructors: member.c. */
static void scene_open(void) { open_library(); }

static int forks_at_end;
static void scene_destructor(void) { forks_at_end = 1; }
__attribute__((constructor)) static void at_start(void) {
  if (getenv("AT_START") == NULL) return;
  pass_often();
  child_passes();
}
__attribute__((destructor)) static void at_end(void) {
  if (!forks_at_end) return;
  pass_often();
  child_passes();
}
static void scene_nothing(void) {}

/* Under filters that forbid what the guard would do: for children alone, so that the parent may be traced. */
static void refuse(const int *numbers, int count_of, unsigned action) {
  struct sock_filter filter[16] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
  int n = 1;
  for (int i = 0; i < count_of; i++) {
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
  }
  filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {n, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) abort();
}
static void filtered(const int *numbers, int count_of, unsigned action) {
  pass_often();
  refuse(numbers, count_of, action);
  child_passes();
  child_passes();
}
static const int open_and_madvise[] = {SYS_open, SYS_openat, SYS_madvise};
static void scene_refused(void) { filtered(open_and_madvise, 3, SECCOMP_RET_ERRNO | EPERM); }
static void scene_forbidden(void) { filtered(open_and_madvise, 3, SECCOMP_RET_KILL_PROCESS); }
static void scene_no_open(void) { filtered(open_and_madvise, 2, SECCOMP_RET_KILL_PROCESS); }
static void scene_no_madvise(void) { filtered(open_and_madvise + 2, 1, SECCOMP_RET_ERRNO | EPERM); }

/* The tracer comes at the first word from the test, and does something else at the second. */
static void wait_for_test(void) {
  printf("wait %d\n", getpid());
  fflush(stdout);
  char byte;
  if (read(0, &byte, 1) != 1) _exit(97);
}
/*
 * The grandchild passes when its parent has done so. perf swaps the events of processes that inherit them; the kernel then takes the
 * breakpoints of the one away when the other ends (seen with any program, 3 hits of 15 missing in one run of 20).
 */
static void stepwise(int steps_in_child) {
  wait_for_test();
  pass_often();
  pid_t child = have_child();
  if (child == 0) {
    for (int i = 0; i < steps_in_child; i++) wait_for_test();
    pass_often();
    int passed[2];
    pipe(passed);
    pid_t grandchild = have_child();
    char byte;
    if (grandchild == 0) read(passed[0], &byte, 1);
    pass_often();
    if (grandchild > 0) write(passed[1], "", 1);
    if (grandchild > 0) await(grandchild);
    end();
  }
  await(child);
  pass_often();
  wait_for_test();
}
static void scene_traced(void) { stepwise(0); }
static void scene_untraced_child(void) { stepwise(1); }

static void scene_many(void) {
  for (int i = 0; i < number; i++) {
    pass_often();
    pid_t child = have_child();
    if (child == 0) {
      for (int k = 0; k < 30; k++) {
        pass();
        for (volatile int spin = 0; spin < 500; spin++) {}
      }
      end();
    }
    await(child);
  }
}

/* The tracer is told which process it is first. */
static void scene_many_of_one(void) {
  wait_for_test();
  scene_many();
  wait_for_test();
}

/* Signals to the whole group all along, whose handler passes the sites: NUMBER children. */
static void pass_in_handler(int signal) {
  int saved = errno;
  pass();
  errno = saved;
}
static void begin_signals(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
}
static pid_t sender;
static void send_signals(void) {
  setpgid(0, 0);
  pid_t group = getpid();
  sender = fork();
  if (sender != 0) return;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (getppid() == group) {
    kill(-group, SIGUSR1);
    usleep(400);
  }
  _exit(0);
}
static void end_signals(void) {
  kill(sender, SIGKILL);
  while (waitpid(sender, NULL, 0) < 0 && errno == EINTR) {}
}
static void one_pass(pid_t child) {
  if (child == 0) {
    pass();
    end();
  }
  await(child);
}
static void scene_signals(void) {
  pass_often();
  begin_signals(pass_in_handler);
  send_signals();
  for (int i = 0; i < number; i++) one_pass(have_child());
  end_signals();
}
static void *forks_under_signals(void *unused) {
  for (int i = 0; i < number / 8; i++) one_pass(have_child());
  return NULL;
}
static void scene_signals_threads(void) {
  pthread_t threads[8];
  pass_often();
  begin_signals(pass_in_handler);
  send_signals();
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, forks_under_signals, NULL);
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  end_signals();
}
/* Every fourth signal forks where it comes, but for those that come there. */
static void fork_now_and_then(int signal) {
  static int signals, within;
  int saved = errno;
  pass();
  if (!within && ++signals % 4 == 0) {
    within = 1;
    one_pass(have_child());
    within = 0;
  }
  errno = saved;
}
static void scene_signals_fork(void) {
  pass_often();
  begin_signals(fork_now_and_then);
  send_signals();
  for (int i = 0; i < number; i++) one_pass(have_child());
  end_signals();
}
/* Some signals are blocked by the program, and one of them waits. */
static void block_some(void) {
  sigset_t some;
  sigemptyset(&some);
  for (int i = 0; i < 4; i++) sigaddset(&some, (int[]){SIGUSR2, SIGCHLD, SIGSEGV, SIGRTMIN + 5}[i]);
  sigprocmask(SIG_BLOCK, &some, NULL);
  raise(SIGUSR2);
}
static void scene_masks(void) {
  child_passes();
  block_some();
  unsigned long before = blocked();
  pass_often();
  child_passes();
  child_passes();
  sigset_t waiting;
  sigpending(&waiting);
  if (blocked() != before || !sigismember(&waiting, SIGUSR2)) count(&board()->wrong);
}
/* No more processes. Signals come as before when the fork has failed. */
static volatile int came;
static void note(int signal) { came++; }
static void scene_fork_fails(void) {
  pass_often();
  signal(SIGUSR1, note);
  if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) count(&board()->wrong);
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_NPROC, &none);
  for (int i = 0; i < 20; i++) {
    if (i == 10) block_some();
    unsigned long before = blocked();
    errno = 0;
    if (fork() != -1 || errno != EAGAIN || blocked() != before) count(&board()->wrong);
    raise(SIGUSR1);
  }
  if (came != 20) count(&board()->wrong);
  pass_often();
}

#ifdef WAY
/* Forks that run no child handlers, and children that share the memory. */
static int child_of_clone(void *unused) {
  count(&board()->begun);
  pass_often();
  end();
  return 0;
}
static void child_without_handlers(pid_t child) {
  if (child == 0) child_of_clone(NULL);
  await(child);
}
static int sharing_child(void *unused) {
  count(&board()->begun);
  pass_often();
  count(&board()->ended);
  return 0;
}
__attribute__((noinline)) static long system_call(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}
__attribute__((noinline)) static long system_call_fork(void) {
  long result;
  __asm__ volatile("movl $57, %%eax\n syscall\n" : "=a"(result) : : "rcx", "r11", "memory");
  return result;
}
static void scene_way(void) {
  static char stack[65536] __attribute__((aligned(16)));
  pass_often();
  unsigned long before = blocked();
#if WAY == 1
  child_without_handlers(_Fork());
#elif WAY == 2
  await(clone(child_of_clone, stack + sizeof stack, SIGCHLD, NULL));
#elif WAY == 3
  child_without_handlers(syscall(SYS_fork));
#elif WAY == 4
  child_without_handlers(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
#elif WAY == 5
  struct { unsigned long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls; } arguments = {
      .exit_signal = SIGCHLD};
  child_without_handlers(syscall(SYS_clone3, &arguments, sizeof arguments));
#elif WAY == 6
  child_without_handlers(system_call_fork());
#elif WAY == 7
  child_without_handlers(system_call(SYS_clone, SIGCHLD, 0, 0, 0, 0));
#elif WAY == 8
  await(clone(sharing_child, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
#endif
  if (blocked() != before) count(&board()->wrong);
  pass_often();
}
static pid_t child_of_way(void) {
#if WAY == 1
  return _Fork();
#elif WAY == 3
  return syscall(SYS_fork);
#elif WAY == 4
  return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
#else
  return -1;
#endif
}
static void scene_signals_way(void) {
  pass_often();
  begin_signals(pass_in_handler);
  send_signals();
  for (int i = 0; i < number; i++) {
    unsigned long before = blocked();
    pid_t child = child_of_way();
    if (blocked() != before || child < 0) count(&board()->wrong);
    if (child == 0) count(&board()->begun);
    one_pass(child);
  }
  end_signals();
}
#endif

/* A guard that is wrong: what it writes is taken for a breakpoint that the kernel knows of. */
extern char __executable_start[];
static void write_int3(void) {
  int memory = open("/proc/self/mem", O_RDWR);
  for (char *at = getenv("INT3"); at != NULL && *at; at += *at == ',') {
    unsigned long site = strtoul(at, &at, 16);
    if (site < (unsigned long)__executable_start) site += (unsigned long)__executable_start;
    if (*(unsigned char *)site == 0xe8) pwrite(memory, "\xcc", 1, site);
  }
  close(memory);
}

static const struct scene {
  const char *name;
  void (*play)(void);
} scenes[] = {
    {"fork", scene_fork},
    {"generations", scene_generations},
    {"daemon", scene_daemon},
    {"threads", scene_threads},
    {"handler", scene_handler},
    {"atfork", scene_atfork},
    {"setuid", scene_setuid},
    {"setuid-in-child", scene_setuid_in_child},
    {"undumpable", scene_undumpable},
    {"mdwe", scene_mdwe},
    {"forkpty", scene_forkpty},
    {"spawn", scene_spawn},
    {"library", scene_library},
    {"library-forks", scene_library_forks},
    {"close", scene_close},
    {"namespace", scene_namespace},
    {"early-handler", scene_early_handler},
    {"open", scene_open},
    {"destructor", scene_destructor},
    {"nothing", scene_nothing},
    {"refused", scene_refused},
    {"forbidden", scene_forbidden},
    {"no-open", scene_no_open},
    {"no-madvise", scene_no_madvise},
    {"traced", scene_traced},
    {"untraced-child", scene_untraced_child},
    {"many", scene_many},
    {"many-of-one", scene_many_of_one},
    {"signals", scene_signals},
    {"signals-threads", scene_signals_threads},
    {"signals-fork", scene_signals_fork},
    {"masks", scene_masks},
    {"fork-fails", scene_fork_fails},
#ifdef WAY
    {"way", scene_way},
    {"signals-way", scene_signals_way},
#endif
};

int main(int argc, char **argv) {
  board(); /* mapped before anything may forbid it */
  if (getenv("INT3") != NULL) pthread_atfork(NULL, NULL, write_int3);
  if (argc > 2) number = atoi(argv[2]);
  for (int i = 0; i < (int)(sizeof scenes / sizeof *scenes); i++)
    if (argc > 1 && !strcmp(scenes[i].name, argv[1])) {
      scenes[i].play();
      count(&board()->ended);
      return 0;
    }
  return 96;
}
