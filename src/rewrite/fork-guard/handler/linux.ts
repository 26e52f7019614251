/** Numbers of Linux on x86-64 that the fork guard's code holds. None of them has ever changed. */

export const SYS_close = 3;
export const SYS_rt_sigprocmask = 14;
export const SYS_pwrite64 = 18;
export const SYS_madvise = 28;
export const SYS_openat = 257;

export const AT_FDCWD = -100;
export const O_RDWR = 0o2;
export const O_CLOEXEC = 0o2000000;

export const MADV_DONTNEED = 4;
/** Like MADV_DONTNEED, in locked mappings too; since 5.18. */
export const MADV_DONTNEED_LOCKED = 24;
export const MADV_DONTDUMP = 16;
export const MADV_DODUMP = 17;
/** Refused (EINVAL) for mappings of files, taken for anonymous ones; since 4.14. */
export const MADV_WIPEONFORK = 18;
export const MADV_KEEPONFORK = 19;

export const SIG_BLOCK = 0;
export const SIG_SETMASK = 2;
/** Size of the kernel's set of signals, in bytes: what rt_sigprocmask wants to be told. */
export const SIGSET_SIZE = 8;

const [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS] = [4, 5, 7, 8, 11, 31];

/**
 * Signals that an instruction raises: a blocked one of these would kill. SIGSYS is how a sandbox carries out a system
 * call itself. As a set: bit 0 is signal 1.
 */
export const SYNCHRONOUS_SIGNALS: number = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS].reduce(
  (set, signal) => set + 2 ** (signal - 1),
  0,
);

/** All others. */
export const ASYNCHRONOUS_SIGNALS: bigint = ~BigInt(SYNCHRONOUS_SIGNALS) & ((1n << 64n) - 1n);
