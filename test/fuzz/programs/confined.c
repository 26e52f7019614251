/*
 * Runs a damaged program where it can do little: as nobody, without privileges to be had, with little memory and time, no
 * files to write, and in a PID namespace of its own where that may be had, so that what it started ends with it.
 *
 *     confined PROGRAM ARGS...     exits as the program does, or with 128 and the signal's number
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void limit(int what, rlim_t most) {
  struct rlimit both = {most, most};
  setrlimit(what, &both);
}

int main(int argc, char **argv) {
  if (argc < 2) return 125;
  unshare(CLONE_NEWPID);
  pid_t child = fork();
  if (child < 0) return 125;
  if (child == 0) {
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_CPU, 2);
    limit(RLIMIT_AS, 1 << 30);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (geteuid() == 0 && (setgid(65534) || setuid(65534))) _exit(125);
    // After the user has changed, which would take it back.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(argv[1], argv + 1);
    _exit(126);
  }
  int status;
  if (waitpid(child, &status, 0) < 0) return 125;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
