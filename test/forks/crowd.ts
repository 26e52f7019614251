/**
 * A program with any number of sites, each in a function of its own. It passes all of them three times, and so does a child;
 * its exit status is the signal that has killed the child.
 *
 * @param apart bytes of something else in front of each function
 */
export function crowd(sites: number, apart = 0): string {
  const numbers = Array.from({ length: sites }, (_, i) => i);
  const functions = numbers.map(
    (i) => `__asm__(".text\\n.fill ${apart}, 1, 0xcc\\n");
__attribute__((noinline)) static void f${i}(long i) { sum += i; STAP_PROBE1(crowd, p${i}, i); sum ^= i; }`,
  );
  return `#include <sys/wait.h>
#include <unistd.h>
#include <sys/sdt.h>
static volatile long sum;
${functions.join("\n")}
static void pass(void) {
  for (int i = 0; i < 3; i++) { ${numbers.map((i) => `f${i}(${i});`).join(" ")} }
}
int main(void) {
  pass();
  pid_t child = fork();
  if (child == 0) {
    pass();
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}
`;
}
