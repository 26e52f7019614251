/*
 * A tracer made of libbpf, as small as it can be.
 *
 *     attach OBJECT FILE PROVIDER:NAME...
 *
 * Attaches to the probes of FILE, for all processes, says `ready`, waits for the end of its input and prints for each probe
 * `PROVIDER:NAME HITS ARGUMENT...` with the twelve arguments of the last hit, or `PROVIDER:NAME refused ERROR`.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ARGUMENTS 12

struct seen {
  unsigned long long hits;
  long arguments[MOST_ARGUMENTS];
};

static int quiet(enum libbpf_print_level level, const char *format, va_list list) {
  return level == LIBBPF_WARN ? vfprintf(stderr, format, list) : 0;
}

int main(int count, char **words) {
  libbpf_set_print(quiet);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct bpf_object *object = bpf_object__open_file(words[1], NULL);
  if (!object || bpf_object__load(object)) return 1;
  struct bpf_program *program = bpf_object__find_program_by_name(object, "hit");
  int probes = bpf_object__find_map_fd_by_name(object, "probes");
  struct bpf_link **links = calloc(count, sizeof *links);
  long *errors = calloc(count, sizeof *errors);
  for (int i = 3; i < count; i++) {
    char *provider = strdup(words[i]), *name = strchr(provider, ':');
    *name++ = 0;
    LIBBPF_OPTS(bpf_usdt_opts, options, .usdt_cookie = i);
    links[i] = bpf_program__attach_usdt(program, -1, words[2], provider, name, &options);
    errors[i] = libbpf_get_error(links[i]);
    free(provider);
  }
  puts("ready");
  fflush(stdout);
  while (getchar() != EOF)
    ;
  for (int i = 3; i < count; i++) {
    struct seen seen = {0};
    if (errors[i]) {
      printf("%s refused %ld\n", words[i], -errors[i]);
      continue;
    }
    bpf_map_lookup_elem(probes, &i, &seen);
    bpf_link__destroy(links[i]);
    printf("%s %llu", words[i], seen.hits);
    for (int n = 0; n < MOST_ARGUMENTS; n++) printf(" %ld", seen.arguments[n]);
    puts("");
  }
  return 0;
}
