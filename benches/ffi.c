/* The C side of `cargo bench --bench ffi`.
 *
 *   ffi samples URL N TOKENS   takes N samples through one queue; prints the CPU time of the process for each
 *   ffi batch N TOKENS ROUNDS  builds a batch from flat arrays, and copies the same bytes; prints the median ratio
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tinkex.h"

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
         1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int report(tinkex_error **error) {
  if (!*error) return 0;
  fprintf(stderr, "%s: %s\n", tinkex_code_name(tinkex_error_code(*error)), tinkex_error_message(*error));
  tinkex_error_free(error);
  return 1;
}

static int samples(const char *url, size_t n, size_t n_tokens) {
  tinkex_error *error = NULL;
  tinkex_service_options *settings = tinkex_service_options_new();
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_service *service = NULL;
  tinkex_sampling *sampling = NULL;
  tinkex_queue *queue = NULL;
  tinkex_pending **all = calloc(n, sizeof *all);
  int64_t *offsets = malloc((n + 1) * sizeof *offsets);
  int32_t *tokens = malloc(n * n_tokens * sizeof *tokens);
  size_t submitted = 0, done = 0;

  if (!all || !offsets || !tokens) abort();
  for (size_t i = 0; i <= n; i++) offsets[i] = (int64_t)(i * n_tokens);
  for (size_t i = 0; i < n * n_tokens; i++) tokens[i] = (int32_t)(i % n_tokens);
  tinkex_service_options_set_base_url(settings, url);
  tinkex_service_options_set_api_key(settings, "tml-bench");
  tinkex_sample_options_set_max_tokens(options, (int32_t)n_tokens);
  if (tinkex_service_new(settings, &service, &error)) goto end;
  if (tinkex_sampling_new(service, "fake/model", &sampling, &error)) goto end;
  if (tinkex_queue_new(&queue, &error)) goto end;

  double cpu = cpu_seconds(), started = seconds();
  if (tinkex_sampling_sample_many(sampling, n, offsets, tokens, 1, options, all, &submitted, &error)) goto end;
  for (size_t i = 0; i < submitted; i++)
    if (tinkex_pending_notify(all[i], queue, i, &error)) goto end;
  while (done < submitted) {
    uint64_t tags[256];
    size_t got = tinkex_queue_take_done(queue, tags, 256, 60000);
    for (size_t k = 0; k < got; k++) {
      const tinkex_result *result = NULL;
      size_t len = 0;
      if (tinkex_pending_wait(all[tags[k]], 0, &result, &error)) goto end;
      tinkex_result_tokens(result, 0, &len);
      if (len != n_tokens) abort();
      tinkex_pending_free(&all[tags[k]]);
    }
    if (got == 0) break;
    done += got;
  }
  cpu = cpu_seconds() - cpu;
  printf("{\"cpu_ms_per_sample\":%.5f,\"samples_per_s\":%.0f}\n", 1e3 * cpu / (double)n,
         (double)n / (seconds() - started));
end:;
  int failed = report(&error) || done < n;
  for (size_t i = 0; i < submitted; i++) tinkex_pending_free(&all[i]);
  tinkex_queue_free(&queue);
  tinkex_sampling_free(&sampling);
  tinkex_service_free(&service);
  tinkex_sample_options_free(&options);
  tinkex_service_options_free(&settings);
  free(tokens);
  free(offsets);
  free(all);
  return failed;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
  qsort(values, n, sizeof *values, by_value);
  return values[n / 2];
}

static int batch(size_t n, size_t n_tokens, size_t rounds) {
  tinkex_error *error = NULL;
  size_t n_values = n * n_tokens, n_bytes = n_values * sizeof(int32_t);
  int64_t *offsets = malloc((n + 1) * sizeof *offsets);
  int32_t *tokens = malloc(n_bytes);
  float *weights = malloc(n_bytes);
  double *built = malloc(rounds * sizeof *built), *copied = malloc(rounds * sizeof *copied);
  tinkex_batch *data = tinkex_batch_new();

  if (!offsets || !tokens || !weights || !built || !copied) abort();
  for (size_t i = 0; i <= n; i++) offsets[i] = (int64_t)(i * n_tokens);
  for (size_t i = 0; i < n_values; i++) tokens[i] = (int32_t)(i % 1000), weights[i] = 1.0f;
  for (size_t round = 0; round < rounds && !error; round++) {
    double before = seconds();
    tinkex_batch_add_weighted_many(data, n, offsets, tokens, weights, NULL, &error);
    built[round] = seconds() - before;
    tinkex_batch_free(&data);
    data = tinkex_batch_new();
    before = seconds();
    /* Allocate the copy anew in each round, because the batch allocates its memory in each round, too. */
    char *copy = malloc(2 * n_bytes);
    if (!copy) abort();
    memcpy(copy, tokens, n_bytes);
    memcpy(copy + n_bytes, weights, n_bytes);
    copied[round] = seconds() - before;
    if (copy[round] == 77) puts("");
    free(copy);
  }
  if (!error) {
    double build = median(built, rounds), copy = median(copied, rounds);
    printf("{\"build_ms\":%.3f,\"memcpy_ms\":%.3f,\"ratio\":%.2f}\n", 1e3 * build, 1e3 * copy, build / copy);
  }
  tinkex_batch_free(&data);
  free(copied);
  free(built);
  free(weights);
  free(tokens);
  free(offsets);
  return report(&error);
}

int main(int argc, char **argv) {
  if (argc == 5 && !strcmp(argv[1], "samples")) return samples(argv[2], (size_t)atol(argv[3]), (size_t)atol(argv[4]));
  if (argc == 5 && !strcmp(argv[1], "batch"))
    return batch((size_t)atol(argv[2]), (size_t)atol(argv[3]), (size_t)atol(argv[4]));
  fprintf(stderr, "usage: ffi samples URL N TOKENS | ffi batch N TOKENS ROUNDS\n");
  return 2;
}
