/* For each probe, which its cookie names: how often it was hit, and the arguments of its last hit. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>

#define MOST_ARGUMENTS 12

struct seen {
  __u64 hits;
  long arguments[MOST_ARGUMENTS];
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct seen);
} probes SEC(".maps");

SEC("usdt")
int hit(struct pt_regs *registers) {
  __u32 which = bpf_usdt_cookie(registers);
  struct seen *seen = bpf_map_lookup_elem(&probes, &which);
  if (!seen) return 0;
  __sync_fetch_and_add(&seen->hits, 1);
#pragma unroll
  for (int i = 0; i < MOST_ARGUMENTS; i++) {
    long value = 0;
    if (bpf_usdt_arg(registers, i, &value) == 0) seen->arguments[i] = value;
  }
  return 0;
}

/* Reading memory of the program is only for programs under a licence like the kernel's. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
