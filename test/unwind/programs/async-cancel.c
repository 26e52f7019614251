/*
 * Cancels a thread at each instruction of functions with probes: it goes through them one at a time, each time in a thread
 * of its own, and at the instruction whose turn it is waits in the signal handler until another thread has cancelled it, with the
 * signal for that held back: when the handler returns it is delivered right there. Prints which cleanup handlers ran
 * and what joining gave, where that changed from one instruction to the next.
 * With an argument: cancelled in a function that is a cancellation point, called behind a probe.
 */
#define _GNU_SOURCE
#include <link.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sdt.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone, noipa))
#endif

/* What glibc and musl cancel with. */
#ifdef __GLIBC__
#define SIGCANCEL 32
#else
#define SIGCANCEL 33
#endif

static uintptr_t code[8][2];
static int codes;
static char text[4096], last[4096];
/* Which handlers ran. A thread may be cancelled while it notes one, too. */
static const char *volatile trail[64];
static volatile int trails;
static sem_t here, cancelled;
static volatile long turn, step;
static int came, deferring;

static int find(struct dl_phdr_info *info, size_t size, void *unused) {
  (void)size, (void)unused;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
    code[codes][0] = info->dlpi_addr + p->p_vaddr;
    code[codes++][1] = info->dlpi_addr + p->p_vaddr + p->p_memsz;
  }
  return 1; /* the program itself is the first */
}

/* Whether this is code of the program, and not of a library that it has called. */
static int ours(uintptr_t pc) {
  for (int i = 0; i < codes; i++)
    if (pc >= code[i][0] && pc < code[i][1]) return 1;
  return 0;
}

static void trap(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info;
  if (!ours(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP])) return;
  if (step++ != turn) return;
  uint64_t held = 1ul << (SIGCANCEL - 1);
  /* The handler's return takes it back. */
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, &held, 0, 8);
  sem_post(&here);
  while (sem_wait(&cancelled)) {}
}

static void ran(const char *what) {
  trail[trails] = what;
  trails++;
}

static void clean(void *what) { ran(what); }
static void leave(const char **what) { ran(*what); }
#define CLEANUP(name) __attribute__((cleanup(leave))) const char *cleanup = name

static long counter = 1;

NOINLINE long point(long x) {
  if (deferring) usleep(100000000);
  return x + 1;
}

NOINLINE long plain(long x) {
  DTRACE_PROBE1(cancelling, plain, x);
  return x * 3 + counter;
}

NOINLINE long zone(const long *v, long n) {
  volatile long local[8];
  for (int i = 0; i < 8; i++) local[i] = v[i] * n;
  DTRACE_PROBE1(cancelling, zone, n);
  long sum = 0;
  for (int i = 0; i < 8; i++) sum += local[i];
  return sum;
}

NOINLINE long framed(long a, long b, long c) {
  CLEANUP("framed");
  long x = plain(a), y = plain(b), z = plain(c);
  DTRACE_PROBE3(cancelling, framed, x, y, z);
  x += y * z;
  return plain(x) + y + z;
}

NOINLINE void called(void) { counter = point(counter); }

/* Computed jumps lead to the probe, and the call is close behind it: it moves into new code. */
NOINLINE long moved(long times) {
  static const void *const next[] = {&&done, &&again, &&again};
  CLEANUP("moved");
again:
  STAP_PROBE(cancelling, moved);
  __asm__ volatile("mov %%esp, %%eax" ::: "eax");
  called();
  goto *next[--times];
done:
  return times;
}

NOINLINE long many(long a) {
  long sum = 0;
  pthread_cleanup_push(clean, "many");
  for (long i = 0; i < 2; i++) {
    DTRACE_PROBE1(cancelling, loop, i);
    sum += framed(a, i, sum);
    DTRACE_PROBE1(cancelling, behind, sum);
  }
  pthread_cleanup_pop(0);
  return sum;
}

static void *thread(void *unused) {
  static const long v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  (void)unused;
  volatile long sum = 0;
  pthread_cleanup_push(clean, "thread");
  if (!deferring) {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
    __asm__ volatile("pushf; orl $0x100,(%%rsp); popf" ::: "memory", "cc");
  }
  sum += plain(1);
  sum += zone(v, 5);
  sum += many(2);
  if (deferring) sem_post(&here);
  sum += moved(2);
  if (!deferring) {
    __asm__ volatile("pushf; andl $~0x100,(%%rsp); popf" ::: "memory", "cc");
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, 0);
    came = 1;
    sem_post(&here);
  }
  pthread_cleanup_pop(0);
  return (void *)sum;
}

int main(int argc, char **argv) {
  (void)argv;
  deferring = argc > 1;
  dl_iterate_phdr(find, 0);
  sem_init(&here, 0, 0);
  sem_init(&cancelled, 0, 0);
  struct sigaction action = {.sa_sigaction = trap, .sa_flags = SA_SIGINFO};
  sigaction(SIGTRAP, &action, 0);
  for (turn = 0; !came; turn++) {
    pthread_t id;
    void *result;
    step = 0;
    trails = 0;
    counter = 1;
    pthread_create(&id, 0, thread, 0);
    sem_wait(&here);
    if (!came) pthread_cancel(id);
    sem_post(&cancelled);
    pthread_join(id, &result);
    text[0] = 0;
    for (int i = 0; i < trails; i++) sprintf(text + strlen(text), "%s ", trail[i]);
    if (result == PTHREAD_CANCELED) strcat(text, "cancelled");
    else sprintf(text + strlen(text), "returned %ld", (long)result);
    if (strcmp(text, last)) puts(text);
    strcpy(last, text);
    if (deferring) break;
  }
  fprintf(stderr, "%ld\n", turn);
  return 0;
}
