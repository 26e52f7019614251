/* Enough functions that records of new code find room where the search table stood. */
#include <sys/sdt.h>
#define F(n) int f##n(int x) { return x * (n + 3); }
#define TEN(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
TEN(1) TEN(2) TEN(3) TEN(4)
int main(int argc, char **argv) {
  int x = f10(argc) * 3;
  DTRACE_PROBE1(app, one, x);
  return argc - 1;
}
