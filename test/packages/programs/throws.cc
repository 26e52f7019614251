// Throws, rethrows and catches, from several threads, across frames with destructors and across a library boundary
// (std::thread, std::future), so that the unwinder walks through the sites of libstdc++. Prints the same in every run.
#include <atomic>
#include <cstdio>
#include <exception>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::atomic<long> destroyed{0};
struct Guard {
  ~Guard() { destroyed++; }
};

__attribute__((noinline)) static int deep(int n) {
  Guard g;
  if (n == 0) throw std::runtime_error("bottom");
  return deep(n - 1) + 1;
}

__attribute__((noinline)) static void again(int n) {
  try {
    deep(n);
  } catch (const std::exception &) {
    Guard g;
    throw;  // the rethrow site
  }
}

static long work(int rounds) {
  long sum = 0;
  for (int i = 0; i < rounds; i++) {
    try {
      again(i % 10);
    } catch (const std::runtime_error &e) {
      sum += e.what()[0] + i;
    }
    try {
      std::string("abc").at(7);  // thrown inside libstdc++ itself
    } catch (const std::out_of_range &) {
      sum++;
    }
    try {
      throw i;
    } catch (int v) {
      sum += v;
    }
  }
  return sum;
}

int main() {
  std::vector<long> sums(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) threads.emplace_back([&, t] { sums[t] = work(500 + t); });
  for (auto &t : threads) t.join();
  for (long s : sums) std::printf("%ld\n", s);
  std::printf("destroyed %ld\n", destroyed.load());
  auto f = std::async(std::launch::async, [] { return deep(3); });
  try {
    f.get();  // std::rethrow_exception
  } catch (const std::exception &e) {
    std::printf("from the future: %s\n", e.what());
  }
  std::exception_ptr p;
  try {
    again(2);
  } catch (...) {
    p = std::current_exception();
  }
  try {
    std::rethrow_exception(p);
  } catch (const std::exception &e) {
    std::printf("again: %s\n", e.what());
  }
  return 0;
}
