/*
 * A program without a C library that looks at its own pages: the checksum of every page from its first segment to its last,
 * or what the kernel says where it cannot be read (write fails with EFAULT).
 */
typedef unsigned long u64;
extern const char __ehdr_start[];
extern char _end[];

static char zeros[3 * 4096 + 77];
static int data[1100] = {1, 2, 3};
static const char constants[5000] = "constant";
int *volatile pointer = data + 7;

static long call(long number, long a, long b, long c, long d) {
  register long r10 __asm__("r10") = d;
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

static void put(u64 value, char end) {
  char text[17];
  for (int i = 0; i < 16; i++) text[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
  text[16] = end;
  call(1, 1, (long)text, 17, 0);
}

__attribute__((used)) static void look(void) {
  u64 first = (u64)__ehdr_start & ~4095ul, end = ((u64)_end + 4095) & ~4095ul;
  for (u64 page = first; page < end + 4096; page += 4096) {
    /* rt_sigprocmask reads eight bytes and says EFAULT where it cannot. */
    long readable = call(14, 0, (long)page, 0, 8);
    u64 sum = 0xcbf29ce484222325u;
    if (readable == 0)
      for (int i = 0; i < 4096; i++) {
        /* The signal mask itself is left alone by this: bits of ordinary bytes only block signals. */
        sum = (sum ^ ((const unsigned char *)page)[i]) * 0x100000001b3u;
      }
    put(page - first, ' ');
    put((u64)readable, ' ');
    put(sum, '\n');
  }
  zeros[0] = (char)(*pointer + constants[3]);
  call(60, zeros[0] == constants[3] ? 0 : 1, 0, 0, 0);
}

__asm__(".globl _start\n_start: and $-16, %rsp\ncall look\n");
