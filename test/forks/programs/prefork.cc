// A prefork server whose work throws: a master, N workers that take connections from one listening socket, each at most
// so many, and are followed by a new one. The master throws as well, before it forks and each time it does, so that the
// workers inherit sites of libstdc++ that it has come by.
//
//     prefork SOCKET WORKERS CONNECTIONS
//
// A client sends a byte and gets the sum that throwing has made of it, as text. On the end of its input the master
// ends, and says how its workers did.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

struct Counted {
  long &destroyed;
  ~Counted() { destroyed++; }
};

__attribute__((noinline)) static int deep(int n, long &destroyed) {
  Counted c{destroyed};
  if (n == 0) throw std::runtime_error("bottom");
  return deep(n - 1, destroyed) + 1;
}

// Two throws, one rethrow, three catches.
__attribute__((noinline)) static long work(int n) {
  long destroyed = 0;
  try {
    try {
      deep(n % 10, destroyed);
    } catch (const std::exception &) {
      throw;
    }
  } catch (const std::runtime_error &e) {
    destroyed += e.what()[0];
  }
  try {
    std::string("abc").at(7);  // thrown inside libstdc++ itself
  } catch (const std::out_of_range &) {
    destroyed++;
  }
  return destroyed;
}

[[noreturn]] static void worker(int listener, int connections) {
  for (int i = 0; i < connections; i++) {
    int client = accept(listener, nullptr, nullptr);
    if (client < 0) _exit(1);
    unsigned char n;
    if (read(client, &n, 1) != 1) _exit(2);
    std::string reply = std::to_string(work(n));
    if (write(client, reply.data(), reply.size()) != (ssize_t)reply.size()) _exit(3);
    close(client);
  }
  exit(0);
}

int main(int argc, char **argv) {
  if (argc != 4) return 64;
  const int workers = atoi(argv[2]), connections = atoi(argv[3]);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(listener, (sockaddr *)&address, sizeof address) != 0 || listen(listener, 128) != 0) return 65;
  sigset_t mask, before;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, &before);
  const int ended = signalfd(-1, &mask, SFD_CLOEXEC);

  std::set<pid_t> living;
  std::map<std::string, int> endings;
  auto note = [&](int status) {
    endings[WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                : "exit " + std::to_string(WEXITSTATUS(status))]++;
  };
  int forked = 0;
  auto prefork = [&] {
    while ((int)living.size() < workers) {
      work(forked++);
      pid_t pid = fork();
      if (pid < 0) exit(66);
      if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, nullptr);
        worker(listener, connections);
      }
      living.insert(pid);
    }
  };
  work(0);
  work(1);  // by now its sites are calls
  prefork();
  puts("ready");
  fflush(stdout);

  for (pollfd wait[2] = {{0, POLLIN, 0}, {ended, POLLIN, 0}}; poll(wait, 2, -1) > 0;) {
    if (wait[0].revents != 0) break;
    signalfd_siginfo info;
    if (read(ended, &info, sizeof info) != sizeof info) return 67;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      living.erase(pid);
      note(status);
    }
    prefork();
  }
  for (pid_t pid : living) {  // they wait for a connection, or are about to end
    kill(pid, SIGTERM);
    int status;
    waitpid(pid, &status, 0);
    note(status);
  }
  printf("forked %d\n", forked);
  for (auto &[ending, count] : endings) printf("%s: %d\n", ending.c_str(), count);
  return 0;
}
