/* What forks.c needs of the C library, to be linked with only. */
void __libc_start_main(void) {}
void __cxa_finalize(void) {}
void fork(void) {}
void wait(void) {}
void write(void) {}
void puts(void) {}
void printf(void) {}
void _exit(void) {}
