/* Samples many prompts in one call and handles each answer when it is there, on one thread. `sampler_pool [SAMPLES]`
 *
 * A program with an event loop waits for tinkex_queue_fd() to be readable instead, and calls tinkex_queue_take_done()
 * with a time of 0. */
#include <stdio.h>
#include "connect.h"

enum { PROMPT = 4, TAKEN = 256 };

int main(int argc, char **argv) {
  const size_t n = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 10000;
  size_t submitted = 0, done = 0, refused = 0, n_tokens = 0;
  tinkex_error *error = NULL;
  tinkex_server *server = NULL;
  tinkex_service *service = NULL;
  tinkex_sampling *sampler = NULL;
  tinkex_queue *queue = NULL;
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_pending **all = (tinkex_pending **)calloc(n + 1, sizeof *all);
  int64_t *offsets = (int64_t *)calloc(n + 1, sizeof *offsets); /* prompt i is tokens[offsets[i]] to tokens[offsets[i + 1] - 1] */
  int32_t *tokens = (int32_t *)calloc(n * PROMPT + 1, sizeof *tokens);

  if (!all || !offsets || !tokens) goto done;
  for (size_t i = 0; i < n; i++) {
    char text[PROMPT + 1];
    snprintf(text, sizeof text, "%04u", (unsigned)(i % 10000));
    bytes_as_tokens(text, &tokens[i * PROMPT], PROMPT);
    offsets[i + 1] = (int64_t)((i + 1) * PROMPT);
  }
  tinkex_sample_options_set_max_tokens(options, 2);
  tinkex_sample_options_set_seed(options, 1);
  if (connect_service(&server, &service, &error) || tinkex_sampling_new(service, base_model(), &sampler, &error)) goto done;
  if (tinkex_queue_new(&queue, &error)) goto done;
  if (tinkex_sampling_sample_many(sampler, n, offsets, tokens, 1, options, all, &submitted, &error)) goto done;
  for (size_t i = 0; i < submitted; i++) /* the tag is the number of the prompt */
    if (tinkex_pending_notify(all[i], queue, i, &error)) goto done;
  while (done < submitted) {
    uint64_t tags[TAKEN];
    const size_t got = tinkex_queue_take_done(queue, tags, TAKEN, 60000);
    if (got == 0) {
      fprintf(stderr, "sampler_pool: no sample ended within a minute\n");
      break;
    }
    for (size_t k = 0; k < got; k++) {
      const tinkex_result *result = NULL;
      size_t length = 0;
      if (tinkex_pending_wait(all[tags[k]], 0, &result, NULL) == TINKEX_OK) {
        tinkex_result_tokens(result, 0, &length);
        n_tokens += length;
      } else {
        refused++;
      }
      tinkex_pending_free(&all[tags[k]]);
    }
    done += got;
  }
  printf("sampler_pool: %zu of %zu samples, %zu tokens, %zu failed\n", done, n, n_tokens, refused);

done:
  if (error) fprintf(stderr, "sampler_pool: %s\n", tinkex_error_message(error));
  tinkex_error_free(&error);
  for (size_t i = 0; i < submitted; i++) tinkex_pending_free(&all[i]);
  free(tokens);
  free(offsets);
  free(all);
  tinkex_queue_free(&queue);
  tinkex_sample_options_free(&options);
  tinkex_sampling_free(&sampler);
  tinkex_service_free(&service);
  tinkex_server_free(&server);
  return done == n && refused == 0 && tinkex_live_objects() == 0 ? 0 : 1;
}
