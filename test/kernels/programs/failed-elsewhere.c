/*
 * Shows that a call that is patched in is overwritten by a breakpoint, and torn apart, once the probe could not be
 * patched somewhere else. That may be another process; here it is another mapping of the same page.
 *
 *     failed-elsewhere 10      a ten-byte nop; 5: a five-byte one (probe-page.h)
 *
 * One copy of the page has room for a trampoline and gets its call. The other one has every page within reach taken:
 * optimizing fails, which is remembered at the uprobe. A second tracer comes: nobody looks for calls any more, and
 * int3 goes over the first byte of the call. Both go: the first byte of the nop is written, before the rest of the
 * call.
 *
 * Exit status: 0 the call was torn apart, 1 it was not, 2 it could not be tried.
 */
#include <sys/wait.h>

#include "probe-page.h"

int main(int count, char **words) {
  const unsigned long reach = 1ul << 31, much = reach + 64 * PAGE;
  unsigned char *roomy = (void *)0x10000000, *crowded = (void *)0x1000000000;
  make_page(count, words);
  unsigned char nop[10];
  if (pread(file, nop, length, AT) != length) give_up(path);
  map_page(roomy), map_page(crowded);
  take(crowded - much, much), take(crowded + PAGE, much);

  int first = attach();
  call(roomy), call(roomy);
  show("attached, the copy with room called", roomy);
  int was_patched = is_call(roomy);
  call(crowded), call(crowded);
  show("the other one called: it has no call", crowded);
  int second = attach();
  show("another tracer attached", roomy);
  close(second), close(first);
  show("both gone", roomy);
  fflush(stdout);
  int is_torn = memcmp(roomy + AT, nop, 5) != 0, status;
  pid_t child = fork();
  if (!child) call(roomy), _exit(0);
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) printf("who calls it dies: %s\n", strsignal(WTERMSIG(status)));
  unlink(path);
  if (!was_patched) return puts("nothing is patched here"), 2;
  puts(is_torn ? "the call was torn apart" : "the nop is whole");
  return !is_torn;
}
