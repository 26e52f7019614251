/* For programs whose faults are looked up: an exception table in user space, as test programs and some runtimes have it. */
#define _GNU_SOURCE
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

struct way_out {
  int fault, go_on;
};
extern const struct way_out __start_fault_table[], __stop_fault_table[];

static void look_up(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  for (const struct way_out *way = __start_fault_table; way < __stop_fault_table; way++)
    if ((greg_t)&way->fault + way->fault == registers[REG_RIP]) {
      registers[REG_RIP] = (greg_t)&way->go_on + way->go_on;
      return;
    }
  _exit(9);
}

void handle_faults(void) {
  struct sigaction action = {.sa_sigaction = look_up, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, 0);
}
