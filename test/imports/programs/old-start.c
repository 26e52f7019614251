/* The start file of programs that were linked before glibc 2.34: libc gets the initialiser as an argument, and does not look
 * at DT_INIT and DT_INIT_ARRAY; the initialiser calls _init by its name. */
#include <stddef.h>
#include <unistd.h>

typedef void (*start_function)(int, char **, char **);
extern start_function __init_array_start[], __init_array_end[];
extern void _init(void);
__attribute__((visibility("hidden"))) void *__dso_handle = &__dso_handle;
extern int main(int, char **, char **);
int old_main(int (*)(int, char **, char **), int, char **, void (*)(int, char **, char **), void (*)(void), void (*)(void), void *);
__asm__(".symver old_main, __libc_start_main@GLIBC_2.2.5");

static void initialise(int argc, char **argv, char **envp) {
  _init();
  for (start_function *each = __init_array_start; each < __init_array_end; each++) (*each)(argc, argv, envp);
}
static void finish(void) {}

__attribute__((used)) static void start(long *stack, void (*end)(void)) {
  old_main(main, (int)stack[0], (char **)(stack + 1), initialise, finish, end, stack);
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n mov %rdx, %rsi\n and $-16, %rsp\n call start\n hlt\n");
