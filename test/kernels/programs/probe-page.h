/*
 * A page of code in a file of its own, a nop and ret at its end, and uprobes on that nop: for programs that show what
 * kernels do with it. The nop has ten bytes, which Linux 7.2 and later make a call of, or five: 6.18 to 7.1.
 */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, AT = PAGE - 16, CALL = 0xe8 };

static char path[] = "/tmp/probe-page.XXXXXX";
static int file, length;

static void give_up(const char *what) {
  perror(what);
  unlink(path);
  exit(2);
}

/* The file, with the nop that the first word asks for. */
static void make_page(int count, char **words) {
  static const unsigned char nop10[] = {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, nop5[] = {0x0f, 0x1f, 0x44, 0, 0};
  unsigned char code[PAGE];
  length = count > 1 ? atoi(words[1]) : 10;
  memset(code, 0xcc, PAGE);
  memcpy(code + AT, length == 10 ? nop10 : nop5, length);
  code[AT + length] = 0xc3;
  file = mkstemp(path);
  if (file < 0 || write(file, code, PAGE) != PAGE) give_up(path);
}

/* A copy of the page in memory. */
static void map_page(unsigned char *where) {
  if (mmap(where, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED_NOREPLACE, file, 0) != where) give_up("mmap");
}

/* Takes addresses, so that no trampoline can be there. */
static inline void take(unsigned char *where, unsigned long size) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  if (mmap(where, size, PROT_NONE, flags, -1, 0) != where) give_up("mmap");
}

/* A uprobe on the nop, for this process, that counts itself at an offset of the file; 0: nowhere. */
static int attach_counted(uint64_t counter) {
  FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  struct perf_event_attr event = {.size = sizeof event, .uprobe_path = (uintptr_t)path, .probe_offset = AT};
  event.config = counter << 32;
  if (!type || fscanf(type, "%u", &event.type) != 1) give_up("no uprobes");
  fclose(type);
  int probe = syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (probe < 0) give_up("perf_event_open");
  return probe;
}

static inline int attach(void) { return attach_counted(0); }

static void call(unsigned char *page) { ((void (*)(void))(page + AT))(); }

static int is_call(unsigned char *page) { return page[AT + length - 5] == CALL && page[AT] != 0xcc; }

static void show(const char *when, unsigned char *page) {
  printf("%s:", when);
  for (int i = 0; i < length; i++) printf(" %02x", page[AT + i]);
  puts("");
}
