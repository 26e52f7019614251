/*
 * Shows that a patched call changes over detaching and attaching again, where two probes are 2 GiB apart.
 *
 *     moving-call 10      a ten-byte nop; 5: a five-byte one (probe-page.h)
 *
 * The page is mapped twice, 2 GiB apart; around the lower copy some pages are taken, as they are around the code of
 * any library. The free page that is nearest to each copy is above it: that of the upper copy is out of the lower
 * one's reach, that of the lower copy is within the upper one's. So the upper copy, which is called first, has its
 * own trampoline at first. The second time it is given that of the lower copy, which comes first in the order of
 * addresses (and is the newest).
 *
 * Exit status: 0 the call has changed, 1 it has not, 2 it could not be tried.
 */
#include "probe-page.h"

int main(int count, char **words) {
  unsigned char *low = (void *)0x10000000, *high = low + (1ul << 31), first[10], second[10];
  make_page(count, words);
  map_page(low), map_page(high);
  take(low - 64 * PAGE, 64 * PAGE), take(low + PAGE, 64 * PAGE);

  int probe = attach();
  call(high), call(high);
  show("attached, the upper copy called", high);
  int was_patched = is_call(high);
  memcpy(first, high + AT, length);
  call(low), call(low);
  close(probe);
  show("the lower copy called, detached", high);
  probe = attach();
  call(high), call(high);
  show("attached again, the upper copy called", high);
  int is_patched = is_call(high);
  memcpy(second, high + AT, length);
  close(probe);
  unlink(path);

  char line[256];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps))
    if (strstr(line, "[uprobes-trampoline]")) fputs(line, stdout);
  if (!was_patched || !is_patched) return puts("nothing is patched here"), 2;
  int is_same = !memcmp(first, second, length);
  puts(is_same ? "the call is the same" : "the call has changed");
  return is_same;
}
