/*
 * Shows that a program which writes zero to its own reference counter while it is traced keeps its probe for good,
 * and that the kernel warns (dmesg): only on a kernel that is thrown away.
 *
 *     cleared-counter 10      a ten-byte nop; 5: a five-byte one (probe-page.h)
 *
 * Exit status: 0 the probe stays, 1 it goes, 2 it could not be tried.
 */
#include "probe-page.h"

int main(int count, char **words) {
  unsigned char *code = (void *)0x10000000, nop[10];
  make_page(count, words);
  if (pread(file, nop, length, AT) != length) give_up(path);
  if (ftruncate(file, 2 * PAGE)) give_up(path);
  map_page(code);
  int rights = PROT_READ | PROT_WRITE;
  volatile short *counter = mmap(NULL, PAGE, rights, MAP_PRIVATE, file, PAGE);
  if (counter == MAP_FAILED) give_up("mmap");

  int probe = attach_counted(PAGE);
  printf("attached: the counter is %d\n", *counter);
  call(code), call(code);
  show("called", code);
  int was_patched = is_call(code);
  *counter = 0;
  close(probe);
  show("cleared, and the tracer gone", code);
  int stays = memcmp(code + AT, nop, 5) != 0;
  call(code), call(code);
  show("called by nobody's wish", code);
  unlink(path);
  if (!was_patched) return puts("nothing is patched here"), 2;
  puts(stays ? "the probe stays" : "the nop is whole");
  return !stays;
}
