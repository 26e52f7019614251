/*
 * Runs a program and looks at it, or disturbs it, where it passes given places:
 *
 *     watch garbage OFFSETS PROGRAM         overwrites the 128 bytes below rsp at every pass
 *     watch step OFFSETS PROGRAM LOG MOST   single-steps from the place until the function returns, the first MOST times
 *                                           at each place, and writes what it sees to LOG
 *
 * OFFSETS is a file with a link-time address in hexadecimal on each line; what stands there must be a one-byte nop. The
 * program's standard output is its own; its exit status becomes ours (or 125 where it is killed, 126 where watching fails).
 * After the last line of its own nothing is printed but, on stderr, how many passes there were.
 *
 * A record of LOG, in the machine's byte order: u64 place (link-time address), u64 step (0 is the probe), u64 rip (link-time
 * address), 16 u64 registers in the order of their numbers in instructions, 16 bytes of code at rip.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RED_ZONE = 128, MOST_PLACES = 4096, LONGEST = 4000 };

struct place {
  uint64_t address;
  unsigned passes;
};

struct record {
  uint64_t place, step, rip, registers[16];
  unsigned char code[16];
};

static struct place places[MOST_PLACES];
static int placeCount;
static pid_t child;
static uint64_t bias;

static void fail(const char *what) {
  fprintf(stderr, "watch: %s: %s\n", what, strerror(errno));
  if (child > 0) kill(child, 9);
  exit(126);
}

static void readPlaces(const char *file) {
  FILE *f = fopen(file, "r");
  if (f == NULL) fail(file);
  unsigned long long address;
  while (placeCount < MOST_PLACES && fscanf(f, "%llx", &address) == 1) places[placeCount++].address = address;
  fclose(f);
}

/* The load bias: where the program's first page is, for one without a fixed address. */
static uint64_t findBias(const char *program) {
  Elf64_Ehdr header;
  int fd = open(program, O_RDONLY);
  if (fd < 0 || read(fd, &header, sizeof header) != sizeof header) fail(program);
  close(fd);
  if (header.e_type == ET_EXEC) return 0;
  char name[64];
  snprintf(name, sizeof name, "/proc/%d/maps", (int) child);
  FILE *f = fopen(name, "r");
  unsigned long long start;
  if (f == NULL || fscanf(f, "%llx", &start) != 1) fail(name);
  fclose(f);
  return start;
}

static void writeMemory(uint64_t address, const void *bytes, size_t size) {
  char name[64];
  snprintf(name, sizeof name, "/proc/%d/mem", (int) child);
  static int fd = -1;
  if (fd < 0) fd = open(name, O_RDWR);
  if (fd < 0 || pwrite(fd, bytes, size, (off_t) address) != (ssize_t) size) fail("writing its memory");
}

static void readMemory(uint64_t address, void *bytes, size_t size) {
  struct iovec here = {bytes, size}, there = {(void *) address, size};
  memset(bytes, 0, size);
  process_vm_readv(child, &here, 1, &there, 1, 0);
}

/* Continues the child by `request`. @returns 1 when it stops by a trap, 0 when it has ended with *status. */
static int resume(int request, int *status) {
  int signal = 0;
  for (;;) {
    if (ptrace(request, child, 0, signal) < 0) fail("ptrace");
    if (waitpid(child, status, 0) < 0) fail("waitpid");
    if (!WIFSTOPPED(*status)) return 0;
    signal = WSTOPSIG(*status);
    if (signal == SIGTRAP) return 1;
  }
}

static struct place *placeAt(uint64_t address) {
  for (int i = 0; i < placeCount; i++)
    if (places[i].address == address) return &places[i];
  return NULL;
}

static void fillWithGarbage(uint64_t rsp) {
  unsigned char garbage[RED_ZONE];
  memset(garbage, 0x5e, sizeof garbage);
  writeMemory(rsp - RED_ZONE, garbage, sizeof garbage);
}

static void writeRecord(FILE *log, uint64_t place, uint64_t step, uint64_t rip, const struct user_regs_struct *r) {
  struct record record = {
      place, step, rip - bias,
      {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi, r->r8, r->r9, r->r10, r->r11, r->r12, r->r13,
       r->r14, r->r15},
      {0}};
  readMemory(rip, record.code, sizeof record.code);
  for (size_t i = 0; i < sizeof record.code; i++)
    if (record.code[i] == 0xcc && placeAt(rip - bias + i) != NULL) record.code[i] = 0x90;
  fwrite(&record, sizeof record, 1, log);
}

/* Steps until the function that holds the place has returned: rsp is higher than the return address was. */
static int stepThrough(FILE *log, struct place *place, struct user_regs_struct *regs, int *status) {
  uint64_t rsp = regs->rsp;
  writeRecord(log, place->address, 0, regs->rip - 1, regs);
  for (uint64_t step = 1; step < LONGEST; step++) {
    unsigned char code;
    readMemory(regs->rip, &code, 1);
    /* A place on the way: its nop stands there no more. */
    struct place *other = code == 0xcc ? placeAt(regs->rip - bias) : NULL;
    if (other != NULL) {
      writeRecord(log, place->address, step, regs->rip, regs);
      regs->rip++;
      if (ptrace(PTRACE_SETREGS, child, 0, regs) < 0) fail("setting registers");
      continue;
    }
    writeRecord(log, place->address, step, regs->rip, regs);
    if (!resume(PTRACE_SINGLESTEP, status)) return 0;
    if (ptrace(PTRACE_GETREGS, child, 0, regs) < 0) fail("registers");
    if ((code == 0xc3 || code == 0xc2) && regs->rsp > rsp) return 1;
  }
  return 1;
}

int main(int argc, char **argv) {
  int steps = argc == 6 && strcmp(argv[1], "step") == 0;
  if (!steps && !(argc == 4 && strcmp(argv[1], "garbage") == 0)) {
    fprintf(stderr, "usage: watch garbage OFFSETS PROGRAM | watch step OFFSETS PROGRAM LOG MOST\n");
    return 126;
  }
  readPlaces(argv[2]);
  FILE *log = steps ? fopen(argv[4], "w") : NULL;
  unsigned most = steps ? (unsigned) atoi(argv[5]) : 0;
  if (steps && log == NULL) fail(argv[4]);
  child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    personality(ADDR_NO_RANDOMIZE);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    execl(argv[3], argv[3], (char *) NULL);
    _exit(126);
  }
  int status;
  if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status)) fail(argv[3]);
  ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL);
  bias = findBias(argv[3]);
  for (int i = 0; i < placeCount; i++) {
    unsigned char nop, int3 = 0xcc;
    readMemory(places[i].address + bias, &nop, 1);
    if (nop != 0x90 && nop != 0xcc) {
      errno = EINVAL;
      fail("no nop at a place");
    }
    writeMemory(places[i].address + bias, &int3, 1);
  }
  unsigned long passes = 0;
  while (resume(PTRACE_CONT, &status)) {
    /* The nop is one byte, like int3: behind it is where the program goes on. */
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, child, 0, &regs) < 0) fail("registers");
    struct place *place = placeAt(regs.rip - 1 - bias);
    if (place == NULL) continue;
    passes++;
    place->passes++;
    if (!steps) fillWithGarbage(regs.rsp);
    else if (place->passes <= most && !stepThrough(log, place, &regs, &status)) break;
  }
  if (log != NULL) fclose(log);
  fprintf(stderr, "%lu passes\n", passes);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
