/*
 * Carries out a script of single letters, so that a test can say in a line what a family of processes does with its sites.
 * At `f` the process forks: the child goes on with the script, the parent waits, says how the child ended, and ends as well.
 *
 *   driver none|guard|int3|first|manual SCRIPT
 *
 * The sites (nop5, then ret) and the guard stand in sections of their own at the addresses that layout.h gives.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "layout.h" /* link_time_sites[], and link-time addresses: SITES_AT, GUARD_AT, GUARD_END_AT; SIZE */

__asm__(".section .nop5sites,\"ax\",@progbits\n.incbin \"sites.bin\"\n"
        ".section .nop5guard,\"ax\",@progbits\n.incbin \"guard.bin\"\n.text\n");

extern char __executable_start[]; /* address 0 at link time */
#define BASE ((unsigned long)__executable_start)
#define SITES (BASE + SITES_AT)
#define GUARD (BASE + GUARD_AT)
#define GUARD_END (BASE + GUARD_END_AT)
#define COUNT (int)(sizeof link_time_sites / sizeof *link_time_sites)
static unsigned long sites[COUNT];
#define PAGE(address) ((address) & ~4095ul)
/* A byte of the first site's page that no site uses. */
#define MARK ((volatile unsigned char *)(PAGE(sites[0]) + 8))

static volatile unsigned char *site(int i) { return (volatile unsigned char *)sites[i]; }
static void hit(void) {
  for (int i = 0; i < COUNT; i++) ((void (*)(void))sites[i])();
}
static void fail(const char *what) {
  printf("%s: %s\n", what, strerror(errno));
  fflush(stdout);
  _exit(99);
}

static void poke(unsigned long address, const void *bytes, int size) {
  int mem = open("/proc/self/mem", O_RDWR);
  if (mem < 0 || pwrite(mem, bytes, size, address) != size) fail("/proc/self/mem");
  close(mem);
}

/* Guards that are wrong, to show what the real one is for. */
static void write_int3(void) {
  for (int i = 0; i < COUNT; i++)
    if (*site(i) == 0xe8) poke(sites[i], "\xcc", 1);
}
static void look_at_first_bytes(void) {
  for (int i = 0; i < COUNT; i++) {
    if (*site(i) != 0xe8) continue;
    void *page = (void *)PAGE(sites[i]);
    madvise(page, 4096, MADV_DONTNEED);
    madvise(page, 4096, MADV_DONTDUMP);
    madvise(page, 4096, MADV_DODUMP);
  }
}

static volatile unsigned short semaphore __attribute__((section(".probes"))) = 0;

/* The guard between registers that are all set, and all looked at afterwards. */
struct registers { uint64_t r[15], flags; };
static struct registers before, after;
unsigned long guard_pointer;
void call_guard(struct registers *from, struct registers *to);
__asm__(".text\ncall_guard:\n push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rsi\n"
        " push 120(%rdi)\n mov 0(%rdi),%rax\n mov 8(%rdi),%rcx\n mov 16(%rdi),%rdx\n mov 24(%rdi),%rbx\n mov 32(%rdi),%rbp\n"
        " mov 40(%rdi),%rsi\n mov 56(%rdi),%r8\n mov 64(%rdi),%r9\n mov 72(%rdi),%r10\n mov 80(%rdi),%r11\n"
        " mov 88(%rdi),%r12\n mov 96(%rdi),%r13\n mov 104(%rdi),%r14\n mov 112(%rdi),%r15\n mov 48(%rdi),%rdi\n popfq\n"
        " call *guard_pointer(%rip)\n"
        " pushfq\n push %rdi\n mov 16(%rsp),%rdi\n mov %rax,0(%rdi)\n mov %rcx,8(%rdi)\n mov %rdx,16(%rdi)\n"
        " mov %rbx,24(%rdi)\n mov %rbp,32(%rdi)\n mov %rsi,40(%rdi)\n mov %r8,56(%rdi)\n mov %r9,64(%rdi)\n"
        " mov %r10,72(%rdi)\n mov %r11,80(%rdi)\n mov %r12,88(%rdi)\n mov %r13,96(%rdi)\n mov %r14,104(%rdi)\n"
        " mov %r15,112(%rdi)\n pop %rax\n mov %rax,48(%rdi)\n pop %rax\n mov %rax,120(%rdi)\n cld\n"
        " pop %rsi\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static void guard_keeps_registers(void) {
  for (int i = 0; i < 15; i++) before.r[i] = 0x0123456789abcdefull * (i + 3);
  before.flags = 0xcd7 | 0x200; /* CF PF AF ZF SF DF OF, and IF, which is always set */
  sigset_t mask_before, mask_after;
  sigemptyset(&mask_before);
  sigaddset(&mask_before, SIGUSR1);
  sigaddset(&mask_before, SIGSYS);
  sigprocmask(SIG_SETMASK, &mask_before, NULL);
  int free_before = dup(0);
  close(free_before);
  call_guard(&before, &after);
  int free_after = dup(0);
  sigprocmask(SIG_SETMASK, NULL, &mask_after);
  before.flags &= ~0x100ul;
  after.flags &= ~0x100ul;
  printf("registers %s, ", memcmp(&before, &after, sizeof before) ? "changed" : "kept");
  printf("signals %s, ", memcmp(&mask_before, &mask_after, 8) ? "changed" : "kept");
  printf("descriptors %s\n", free_before != free_after ? "changed" : "kept");
}

/* Where rip and rsp are at each instruction of the guard. */
static struct { uint64_t rip, rsp; } steps[1 << 16];
static int stepped;
/* After so many instructions of the guard a signal comes whose handler passes the sites; 0: none does. */
static int interrupt_after;
static volatile int interrupted;
static void on_signal(int signal) {
  hit();
  interrupted = 1;
}
static void on_step(int signal, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  if (stepped < 1 << 16) {
    steps[stepped].rip = r[REG_RIP];
    steps[stepped++].rsp = r[REG_RSP];
  }
  if (interrupt_after != 0 && r[REG_RIP] == GUARD) stepped = 0;
  if (interrupt_after != 0 && stepped == interrupt_after) kill(getpid(), SIGUSR1);
}
static void step_through_guard(void) {
  struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
  sigaction(SIGTRAP, &action, NULL);
  signal(SIGUSR1, on_signal);
  memset(&before, 0, sizeof before);
  before.flags = 0x302;
  call_guard(&before, &after);
  __asm__ volatile("pushfq\n andq $~0x100,(%%rsp)\n popfq" ::: "memory", "cc");
  if (interrupt_after != 0) printf("interrupted %d\n", interrupted);
  else for (int i = 0; i < stepped; i++)
    if (steps[i].rip >= GUARD && steps[i].rip < GUARD_END) printf("step %lx %lx\n", steps[i].rip - BASE, steps[i].rsp);
}

static int mappings(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512];
  int n = 0;
  if (maps == NULL) return -1;
  while (fgets(line, sizeof line, maps)) {
    unsigned long from = strtoul(line, NULL, 16);
    n += from >= SITES && from < SITES + SIZE;
  }
  fclose(maps);
  return n;
}

static void print_state(void) {
  int nop5 = 0, int3 = 0, call = 0, torn = 0;
  for (int i = 0; i < COUNT; i++) {
    volatile unsigned char *s = site(i);
    if (s[0] == 0xe8) call++;
    else if (s[1] != 0x1f || s[2] != 0x44 || s[3] || s[4]) torn++;
    else if (s[0] == 0xcc) int3++;
    else if (s[0] == 0x0f) nop5++;
    else torn++;
  }
  printf("nop5 %d int3 %d call %d torn %d mark %02x maps %d\n", nop5, int3, call, torn, *MARK, mappings());
}

static void refuse(const int *numbers, int count, unsigned action) {
  struct sock_filter filter[16] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
  int n = 1;
  for (int i = 0; i < count; i++) {
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
  }
  filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {n, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) fail("seccomp");
}

/* The sites' code in anonymous memory at the same place, as programs do that want it in huge pages. */
static void make_anonymous(void) {
  void *copy = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(copy, (void *)SITES, SIZE);
  mprotect(copy, SIZE, PROT_READ | PROT_EXEC);
  if (mremap(copy, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)SITES) == MAP_FAILED) fail("mremap");
}

static void without_proc(void) {
  if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || umount2("/proc", MNT_DETACH))
    fail("/proc");
}

static int wait_for(pid_t child) {
  int status;
  waitpid(child, &status, 0);
  return status;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Children by the thousand: each hits its sites and ends. How many died of a signal? */
static void many(int count) {
  int dead = 0, wrong = 0;
  for (int i = 0; i < count; i++) {
    for (int k = 0; k < 3; k++) hit();
    pid_t child = fork();
    if (child == 0) {
      for (int k = 0; k < 30; k++) {
        hit();
        for (volatile int spin = 0; spin < 1000; spin++) {}
      }
      _exit(*MARK == 0xc3 ? 0 : 1);
    }
    int status = wait_for(child);
    if (WIFSIGNALED(status)) dead++;
    else wrong += status != 0;
  }
  printf("forks %d dead %d wrong %d\n", count, dead, wrong);
}

/*
 * What a fork costs until the child has ended, by turns without the guard, with it, without it again, and with a look at one
 * byte of the sites and one of the guard; in ns, the lower quartile of each. One processor: where the child begins makes no
 * difference then.
 */
static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static void time_forks(int count) {
  enum { KINDS = 4 };
  double *took[KINDS];
  for (int k = 0; k < KINDS; k++) took[k] = malloc(count * sizeof(double));
  cpu_set_t allowed, one;
  sched_getaffinity(0, sizeof allowed, &allowed);
  CPU_ZERO(&one);
  for (int i = CPU_SETSIZE - 1; CPU_COUNT(&one) == 0; i--)
    if (CPU_ISSET(i, &allowed)) CPU_SET(i, &one);
  if (sched_setaffinity(0, sizeof one, &one)) fail("sched_setaffinity");
  for (int i = -40; i < KINDS * count; i++) {
    int kind = (i + 40) % KINDS;
    double start = now();
    pid_t child = fork();
    if (child == 0) {
      if (kind == 1) ((void (*)(void))GUARD)();
      if (kind == 3) (void)(*(volatile char *)sites[0] + *(volatile char *)GUARD);
      _exit(0);
    }
    wait_for(child);
    if (i >= 0) took[kind][i / KINDS] = now() - start;
  }
  for (int k = 0; k < KINDS; k++) qsort(took[k], count, sizeof(double), ascending);
  printf("without %.0f with %.0f again %.0f look %.0f\n", took[0][count / 4], took[1][count / 4], took[2][count / 4],
         took[3][count / 4]);
}

static const char *rest;
static void *rest_in_thread(void *unused);

static void run(const char *script) {
  for (const char *at = script; *at; at++) {
    int number = atoi(at + 1);
    switch (*at) {
      case 'h': hit(); break;
      case 'g': ((void (*)(void))GUARD)(); break;
      case 'p': print_state(); break;
      case 'r': guard_keeps_registers(); break;
      case 'c': step_through_guard(); break;
      case 'I': interrupt_after = number; break;
      case 's': printf("semaphore %d\n", semaphore); break;
      case 'N': many(number); break;
      case 'T': time_forks(number); break;
      case 'w': /* until the test says so */
        puts("wait");
        fflush(stdout);
        if (getchar() == EOF) _exit(98);
        break;
      case 'b': /* dead calls, as inherited from a parent that was traced */
        for (int i = 0; i < COUNT; i++) poke(sites[i], "\xe8\x11\x22\x33\x44", 5);
        break;
      case 'M': poke((unsigned long)MARK, "\xc2", 1); break;
      case 'l': if (mlockall(MCL_CURRENT | MCL_FUTURE)) fail("mlockall"); break;
      case 'u': if (setresuid(65534, 65534, 65534)) fail("setuid"); break;
      case 'm': if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0)) fail("MDWE"); break;
      case 'D': if (madvise((void *)SITES, SIZE, MADV_DONTDUMP)) fail("madvise"); break;
      case 'S': if (syscall(462 /* mseal */, SITES, SIZE, 0)) fail("mseal"); break;
      case 'A': make_anonymous(); break;
      case 'v': if (madvise((void *)(SITES + 8192), SIZE - 8192, MADV_RANDOM)) fail("madvise"); break;
      case 'x': /* as many mappings as there may be */
        for (int i = 0; mmap(NULL, 4096, i++ % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;) {}
        break;
      case 'n': without_proc(); break;
      case 'q': refuse((int[]){SYS_madvise}, 1, SECCOMP_RET_ERRNO | EPERM); break;
      case 'k': refuse((int[]){SYS_madvise, SYS_open, SYS_openat, SYS_rt_sigprocmask}, 4, SECCOMP_RET_KILL_PROCESS); break;
      case 't': /* goes on in one of several threads */
        for (int i = 0; i < 7; i++) {
          pthread_t other;
          pthread_create(&other, NULL, (void *(*)(void *))pause, NULL);
        }
        rest = at + 1;
        pthread_t thread;
        pthread_create(&thread, NULL, rest_in_thread, NULL);
        pause();
        break;
      case 'f': {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) break;
        int status = wait_for(child);
        if (WIFSIGNALED(status)) printf("killed by %d\n", WTERMSIG(status));
        else printf("exit %d\n", WEXITSTATUS(status));
        fflush(stdout);
        _exit(WIFSIGNALED(status) ? 1 : WEXITSTATUS(status));
      }
    }
    fflush(stdout);
  }
  _exit(0);
}

static void *rest_in_thread(void *unused) {
  run(rest);
  return NULL;
}

int main(int argc, char **argv) {
  const char *mode = argv[1];
  for (int i = 0; i < COUNT; i++) sites[i] = BASE + link_time_sites[i];
  guard_pointer = GUARD;
  void (*child)(void) = !strcmp(mode, "guard")   ? (void (*)(void))GUARD
                        : !strcmp(mode, "int3")  ? write_int3
                        : !strcmp(mode, "first") ? look_at_first_bytes
                                                 : NULL;
  if (child != NULL) pthread_atfork(NULL, NULL, child);
  setvbuf(stdin, NULL, _IONBF, 0);
  run(argv[2]);
}
