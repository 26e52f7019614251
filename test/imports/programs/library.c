/* To be loaded and unloaded: its constructor writes [ and its destructor ]. */
#include <unistd.h>
__attribute__((constructor)) static void constructor(void) { write(2, "[", 1); }
__attribute__((destructor)) static void destructor(void) { write(2, "]", 1); }
#ifdef TEXTREL
/* An address in the code: a relocation of read-only memory. */
__asm__(".text\n.quad value\n");
#endif
int value(void) { return 42; }
