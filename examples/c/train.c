/* Teaches a model pig latin and shows what it learned: examples/quickstart.rs in C. `train [STEPS]`
 *
 * Without an API key it runs offline on the embedded engine. Each byte of the text is one token, so no tokenizer is
 * needed. main() frees everything at one place, which every failure reaches: frees of NULL do nothing. */
#include <stdio.h>
#include <time.h>
#include "connect.h"
#include "pig_latin.h"

typedef char text[MAX_TEXT];

static double seconds(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Writes a sequence of tokens as text, without trailing white space. Tokens that are not printable ASCII, which an
 * untrained model may produce, become dots. */
static void as_text(const int32_t *tokens, size_t n, text out) {
  size_t length = 0;
  while (n > 0 && (tokens[n - 1] == '\n' || tokens[n - 1] == ' ')) n--;
  for (; length < n && length < MAX_TEXT - 1; length++)
    out[length] = tokens[length] > ' ' && tokens[length] < 127 ? (char)tokens[length] : '.';
  out[length] = '\0';
}

/* Samples an answer to each word. All samples are in flight at the same time. */
static tinkex_code ask(const tinkex_sampling *sampler, const char *const *words, size_t n, text *answers, tinkex_error **error) {
  const int32_t newline = '\n';
  tinkex_pending *samples[N_TESTED] = {NULL};
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_code code = TINKEX_OK;
  tinkex_sample_options_set_max_tokens(options, MAX_TOKENS);
  tinkex_sample_options_set_temperature(options, 0);
  tinkex_sample_options_set_stop_tokens(options, &newline, 1);
  for (size_t i = 0; i < n && !code; i++) {
    char prompt[MAX_TEXT + 4];
    int32_t tokens[MAX_TEXT + 4];
    snprintf(prompt, sizeof prompt, "%s -> ", words[i]);
    code = tinkex_sampling_sample_tokens(sampler, tokens, bytes_as_tokens(prompt, tokens, sizeof prompt), 1, options, &samples[i], error);
  }
  if (!code) code = tinkex_wait_all(samples, n, -1, NULL, error);
  for (size_t i = 0; i < n && !code; i++) {
    const tinkex_result *result = NULL;
    size_t n_tokens = 0;
    code = tinkex_pending_wait(samples[i], 0, &result, error);
    const int32_t *tokens = tinkex_result_tokens(result, 0, &n_tokens);
    if (!code) as_text(tokens, n_tokens, answers[i]);
  }
  for (size_t i = 0; i < n; i++) tinkex_pending_free(&samples[i]);
  tinkex_sample_options_free(&options);
  return code;
}

/* Fills the batch with the pairs, and counts their tokens. */
static tinkex_code fill(tinkex_batch *batch, size_t *n_tokens, tinkex_error **error) {
  *n_tokens = 0;
  for (size_t i = 0; i < N_PAIRS; i++) {
    char prompt[MAX_TEXT + 4], answer[MAX_TEXT + 1];
    int32_t asked[MAX_TEXT + 4], answered[MAX_TEXT + 1];
    snprintf(prompt, sizeof prompt, "%s -> ", PAIRS[i][0]);
    snprintf(answer, sizeof answer, "%s\n", PAIRS[i][1]);
    size_t n_asked = bytes_as_tokens(prompt, asked, sizeof prompt), n_answered = bytes_as_tokens(answer, answered, sizeof answer);
    tinkex_code code = tinkex_batch_add_completion(batch, asked, n_asked, answered, n_answered, NULL, error);
    if (code) return code;
    *n_tokens += n_asked + n_answered - 1;
  }
  return TINKEX_OK;
}

int main(int argc, char **argv) {
  const double started = seconds();
  const int steps = argc > 1 ? atoi(argv[1]) : STEPS;
  /* Fewer words make a shorter run. */
  const int most = argc > 2 ? atoi(argv[2]) : (int)N_TESTED;
  const size_t n_tested = most < (int)N_TESTED ? (size_t)most : (size_t)N_TESTED;
  const size_t n_unseen = n_tested < (size_t)N_UNSEEN ? n_tested : (size_t)N_UNSEEN;
  tinkex_error *error = NULL;
  tinkex_server *server = NULL;
  tinkex_service *service = NULL;
  tinkex_training *training = NULL;
  tinkex_sampling *base = NULL, *sampler = NULL;
  tinkex_batch *batch = tinkex_batch_new();
  tinkex_loss *loss = NULL;
  tinkex_optim *adam = NULL;
  tinkex_pending *pass[2] = {NULL}, *update[2] = {NULL}, *state = NULL, *weights = NULL;
  const tinkex_result *result = NULL;
  const char *words[N_TESTED];
  text before[N_TESTED], after[N_TESTED], unseen[N_UNSEEN];
  size_t n_tokens = 0;
  double first = 0, last = 0, trained = 0;
  int exact = 0, failed = 0;

  for (size_t i = 0; i < n_tested; i++) words[i] = PAIRS[i][0];
  if (connect_service(&server, &service, &error)) goto done;
  if (tinkex_training_new(service, base_model(), NULL, &training, &error)) goto done;
  printf("Answers of %s before training:\n", base_model());
  if (tinkex_sampling_new(service, base_model(), &base, &error)) goto done;
  if (ask(base, words, n_tested, before, &error)) goto done;
  for (size_t i = 0; i < n_tested; i++) printf("  %-10s %s\n", words[i], before[i]);

  printf("Training on %d words ...\n", N_PAIRS);
  if (fill(batch, &n_tokens, &error)) goto done;
  if (tinkex_loss_new("cross_entropy", &loss, &error) || tinkex_optim_new("adam", &adam, &error)) goto done;
  trained = seconds();
  for (int step = 0; step <= steps; step++) {
    /* Submit the next step before waiting for this one, so that the server is not idle between them. The learning rate
     * falls linearly towards zero. */
    const int next = step % 2, current = 1 - next;
    if (step < steps) {
      tinkex_optim_set(adam, "learning_rate", LEARNING_RATE * (1.0 - (double)step / steps));
      if (tinkex_training_train_step(training, batch, loss, adam, &pass[next], &update[next], &error)) goto done;
    }
    if (step == 0) continue;
    if (tinkex_pending_wait(pass[current], -1, &result, &error)) goto done;
    last = tinkex_result_metric(result, "loss_per_token"); /* mean of the tokens that have a weight: the answers */
    if (tinkex_pending_wait(update[current], -1, NULL, &error)) goto done;
    tinkex_pending_free(&pass[current]);
    tinkex_pending_free(&update[current]);
    if (step == 1) first = last;
    if (step % 25 == 0 || step == steps)
      printf("  %d/%d loss %.3f per token, %.0f tokens/s\n", step, steps, last, step * (double)n_tokens / (seconds() - trained));
  }

  if (tinkex_training_save_state(training, "pig-latin", NULL, &state, &error)) goto done;
  if (tinkex_training_save_for_sampler(training, "pig-latin", NULL, &weights, &error)) goto done;
  if (tinkex_pending_wait(weights, -1, &result, &error)) goto done;
  if (tinkex_sampling_new(service, tinkex_result_path(result), &sampler, &error)) goto done;
  if (ask(sampler, words, n_tested, after, &error) || ask(sampler, UNSEEN, n_unseen, unseen, &error)) goto done;
  printf("\n  %-10s %-14s %-14s %-14s\n", "word", "before", "after", "right answer");
  for (size_t i = 0; i < n_tested; i++) {
    const int is_right = strcmp(after[i], PAIRS[i][1]) == 0;
    exact += is_right;
    printf("  %-10s %-14s %-14s %-14s %s\n", words[i], before[i], after[i], PAIRS[i][1], is_right ? "\xe2\x9c\x93" : " ");
  }
  printf("\nWords that were not in the training data:\n");
  for (size_t i = 0; i < n_unseen; i++) printf("  %-10s %s\n", UNSEEN[i], unseen[i]);
  if (tinkex_pending_wait(state, -1, &result, &error)) goto done;
  printf("\nSaved as %s\n", tinkex_result_path(result));
  if (tinkex_service_close(service, TINKEX_CLOSE_SUCCESS, NULL, &error)) goto done;
  printf("train: exact %d/%d, loss %.2f -> %.2f, %.1f s\n", exact, (int)n_tested, first, last, seconds() - started);

done:
  failed = error != NULL;
  if (failed) {
    fprintf(stderr, "train: %s: %s\n", tinkex_code_name(tinkex_error_code(error)), tinkex_error_message(error));
    if (tinkex_error_code(error) == TINKEX_ERROR_AUTH) fprintf(stderr, "Check TINKER_API_KEY, or unset it to train offline.\n");
  }
  tinkex_error_free(&error);
  tinkex_pending_free(&weights);
  tinkex_pending_free(&state);
  for (int i = 0; i < 2; i++) {
    tinkex_pending_free(&update[i]);
    tinkex_pending_free(&pass[i]);
  }
  tinkex_optim_free(&adam);
  tinkex_loss_free(&loss);
  tinkex_batch_free(&batch);
  tinkex_sampling_free(&sampler);
  tinkex_sampling_free(&base);
  tinkex_training_free(&training);
  tinkex_service_free(&service);
  tinkex_server_free(&server);
  if (tinkex_live_objects() != 0) {
    fprintf(stderr, "train: %lld objects were not freed\n", (long long)tinkex_live_objects());
    return 1;
  }
  return failed;
}
