/*
 * A tracer made of the bpf system call alone: one BPF program on one place of a file.
 *
 *     session KIND FILE OFFSET
 *
 *     entry     counts, and keeps the registers of the last hit
 *     return    the same where the function returns
 *     session   one program for both (Linux 6.13): the entry asks for the return if rdi is odd, and hands over 5 rdi + 7
 *     change    gives rdi, rax, rcx and r11 other values, and another carry flag (6.18.44 refuses it, 7.1 does not)
 *     skip      leaves the function: rip becomes rdx, rsp stays
 *
 * Says `ready` or `refused ERROR STEP`, waits for lines and answers each with what was seen since it began: ENTRIES
 * RETURNS HANDED-OVER, and the 21 registers of struct pt_regs. Ends with its input, and the link with it.
 *
 * Layouts and numbers: include/uapi/linux/bpf.h, arch/x86/include/asm/ptrace.h, Documentation/bpf/btf.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAP_CREATE = 0, PROG_LOAD = 5, LINK_CREATE = 28 };
enum { KPROBE_PROGRAM = 2, ARRAY_MAP = 2, MMAPABLE = 1 << 10, UPROBE_MULTI = 48, UPROBE_SESSION = 57, AT_RETURN = 1 };
enum { RAX = 80, RCX = 88, R11 = 48, RDX = 96, RDI = 112, RIP = 128, FLAGS = 144, REGISTERS = 21 };
enum { ENTRIES, RETURNS, HANDED_OVER, SEEN, WORDS = SEEN + REGISTERS };

struct insn {
  uint8_t code, registers;
  int16_t offset;
  int32_t immediate;
};

static struct insn program[128];
static int length;

static int emit(int code, int to, int from, int offset, int immediate) {
  program[length] = (struct insn){code, to | from << 4, offset, immediate};
  return length++;
}

/* The opcodes that are used here. */
static void load(int to, int from, int offset) { emit(0x79, to, from, offset, 0); }
static void store(int to, int offset, int from) { emit(0x7b, to, from, offset, 0); }
static void set(int to, int value) { emit(0xb7, to, 0, 0, value); }
static void copy(int to, int from) { emit(0xbf, to, from, 0, 0); }
static void add(int to, int value) { emit(0x07, to, 0, 0, value); }
static void times(int to, int value) { emit(0x27, to, 0, 0, value); }
static void and(int to, int value) { emit(0x57, to, 0, 0, value); }
static void flip(int to, int value) { emit(0xa7, to, 0, 0, value); }
static void increase(int to, int offset, int from) { emit(0xdb, to, from, offset, 0); }
static void leave(void) { emit(0x95, 0, 0, 0, 0); }

/* The number of a kernel function in the kernel's BTF, or 0. */
static int kernel_function(const char *wanted) {
  static const int rest[32] = {[1] = 4, [3] = 12, [14] = 4, [17] = 4};
  static const int each[32] = {[4] = 12, [5] = 12, [6] = 8, [13] = 8, [15] = 12, [19] = 12};
  int file = open("/sys/kernel/btf/vmlinux", O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) return 0;
  char *btf = malloc(status.st_size);
  for (off_t at = 0, n; at < status.st_size; at += n)
    if ((n = read(file, btf + at, status.st_size - at)) <= 0) return 0;
  close(file);
  uint32_t *header = (uint32_t *)btf;
  char *types = btf + header[1] + header[2], *end = types + header[3], *strings = btf + header[1] + header[4];
  int number = 1, found = 0;
  for (char *at = types; at < end; number++) {
    uint32_t *type = (uint32_t *)at;
    int kind = type[1] >> 24 & 31, count = type[1] & 0xffff;
    if (kind == 12 && !strcmp(strings + type[0], wanted)) found = number;
    at += 12 + rest[kind] + each[kind] * count;
  }
  free(btf);
  return found;
}

static void call_kernel(const char *name) {
  copy(1, 6);
  emit(0x85, 0, 2, 0, kernel_function(name));
}

/* r6 is what the program was given, r7 the words of the map. */
static void begin(int map) {
  copy(6, 1);
  emit(0x18, 7, 2, 0, map);
  emit(0, 0, 0, 0, 0);
}

static void count(int word) {
  set(1, 1);
  increase(7, 8 * word, 1);
}

static void keep_registers(void) {
  for (int i = 0; i < REGISTERS; i++) load(1, 6, 8 * i), store(7, 8 * (SEEN + i), 1);
}

static void write_program(const char *kind, int map) {
  begin(map);
  if (!strcmp(kind, "session")) {
    call_kernel("bpf_session_is_return");
    int jump = emit(0x55, 0, 0, 0, 0);
    count(ENTRIES);
    call_kernel("bpf_session_cookie");
    load(1, 6, RDI), copy(2, 1), times(2, 5), add(2, 7), store(0, 0, 2);
    copy(0, 1), and(0, 1), flip(0, 1), leave();
    program[jump].offset = length - jump - 1;
    count(RETURNS);
    call_kernel("bpf_session_cookie");
    load(1, 0, 0), increase(7, 8 * HANDED_OVER, 1);
    keep_registers();
  } else {
    count(strcmp(kind, "return") ? ENTRIES : RETURNS);
    keep_registers();
    if (!strcmp(kind, "change")) {
      static const int which[] = {RDI, RAX, RCX, R11};
      for (int i = 0; i < 4; i++) set(1, 1000 + i), store(6, which[i], 1);
      load(1, 6, FLAGS), flip(1, 1), store(6, FLAGS, 1); /* carry */
    }
    if (!strcmp(kind, "skip")) load(1, 6, RDX), store(6, RIP, 1);
  }
  set(0, 0), leave();
}

static long bpf(int command, void *attributes, int size) { return syscall(SYS_bpf, command, attributes, size); }

static int refused(const char *step) {
  printf("refused %d %s\n", errno, step);
  return 1;
}

int main(int words, char **word) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (words != 4) return 2;
  const char *kind = word[1];
  struct {
    uint32_t type, key, value, entries, flags;
  } making = {ARRAY_MAP, 4, 8 * WORDS, 1, MMAPABLE};
  int map = bpf(MAP_CREATE, &making, sizeof making);
  if (map < 0) return refused("map");
  volatile uint64_t *seen = mmap(NULL, 8 * WORDS, PROT_READ, MAP_SHARED, map, 0);
  if (seen == MAP_FAILED) return refused("mmap");

  int is_session = !strcmp(kind, "session");
  write_program(kind, map);
  static char log[65536];
  struct {
    uint32_t type, count;
    uint64_t instructions, license;
    uint32_t level, size;
    uint64_t log;
    uint32_t version, flags;
    char name[16];
    uint32_t interface, attach_type;
  } loading = {.type = KPROBE_PROGRAM, .count = length, .instructions = (uintptr_t)program};
  loading.license = (uintptr_t) "GPL";
  loading.level = 1, loading.size = sizeof log, loading.log = (uintptr_t)log;
  loading.attach_type = is_session ? UPROBE_SESSION : UPROBE_MULTI;
  int loaded = bpf(PROG_LOAD, &loading, sizeof loading);
  if (loaded < 0) return fputs(log, stderr), refused("program");

  uint64_t offset = strtoull(word[3], NULL, 0);
  struct {
    uint32_t program, target, attach_type, flags;
    uint64_t path, offsets, counters, cookies;
    uint32_t count, multi_flags, pid, unused;
  } linking = {.program = loaded, .path = (uintptr_t)word[2], .offsets = (uintptr_t)&offset, .count = 1};
  linking.attach_type = loading.attach_type;
  linking.multi_flags = strcmp(kind, "return") ? 0 : AT_RETURN;
  if (bpf(LINK_CREATE, &linking, sizeof linking) < 0) return refused("link");

  puts("ready");
  while (getchar() != EOF) {
    for (int i = 0; i < WORDS; i++) printf("%s%llu", i ? " " : "", (unsigned long long)seen[i]);
    puts("");
  }
  return 0;
}
