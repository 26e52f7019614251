/*
 * A tracer of one process alone that comes and goes all along, as perf stat -p does: a perf event on a uprobe event, opened for the
 * process and closed again until standard input ends. Then it says how often. One for itself is open all the time:
 * the kernel need not take the uprobe away and only asks each process again, which goes faster.
 *
 *   toggle PID ID          ID: of the uprobe event
 */
#include <linux/perf_event.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void rest(long microseconds) { nanosleep(&(struct timespec){0, microseconds * 1000}, NULL); }

static int open_event(int id, pid_t process) {
  struct perf_event_attr event = {
      .type = PERF_TYPE_TRACEPOINT, .size = sizeof event, .config = id, .sample_period = 1};
  int descriptor = syscall(SYS_perf_event_open, &event, process, -1, -1, 0);
  if (descriptor >= 0) return descriptor;
  perror("perf_event_open");
  exit(1);
}

int main(int argc, char **argv) {
  pid_t process = atoi(argv[1]);
  int id = atoi(argv[2]), times = 0;
  open_event(id, 0);
  struct pollfd input = {0, POLLIN | POLLHUP, 0};
  for (; poll(&input, 1, 0) == 0; times++) {
    int event = open_event(id, process);
    rest(3000 + times % 7 * 500);
    close(event);
    rest(1000 + times % 5 * 300);
  }
  printf("%d\n", times);
  return 0;
}
