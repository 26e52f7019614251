/* To be loaded and unloaded: its constructor writes [ and its destructor ]. */
#include <unistd.h>
__attribute__((constructor)) static void constructor(void) { write(2, "[", 1); }
__attribute__((destructor)) static void destructor(void) { write(2, "]", 1); }
#ifdef TEXTREL
/* An address in the code: a relocation of read-only memory. */
__asm__(".text\n.quad value\n");
#endif
#ifdef INTERPRETER
/* Libraries that can be run as well have this. */
__attribute__((section(".interp"), used)) static const char interpreter[] = "/lib64/ld-linux-x86-64.so.2";
#endif
int value(void) { return 42; }
