/** Errors of system calls (errno.h of Linux on x86-64); a call returns the negative number. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EFAULT: 14,
  EEXIST: 17,
  EINVAL: 22,
  ENOTTY: 25,
  ESPIPE: 29,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
} as const;

/** Thrown by a system call that fails; the number is one of Errno. */
export class CallError extends Error {
  constructor(readonly errno: number) {
    super(`errno ${errno}`);
  }
}
