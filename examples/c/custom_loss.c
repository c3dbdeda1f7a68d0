/* Trains with a loss of its own, in two ways: as a callback on a thread of tinkex, and pulled from a queue and computed
 * on the main thread, which is what hosts with an interpreter need. `custom_loss [STEPS]`
 *
 * The loss is the mean over the examples of each example's mean over its answer: a short answer counts as much as a
 * long one. Callback and queue compute the same, so that both trainings give the same numbers. */
#include <math.h>
#include <stdio.h>
#include "connect.h"

/* Fills the gradients and sets the loss. `user` counts the calls. Returns 0, or not 0 if the loss has failed. */
static int32_t mean_of_means(void *user, tinkex_loss_call *call) {
  const size_t n = tinkex_loss_call_count(call);
  const int64_t *offsets = tinkex_loss_call_offsets(call);
  const float *logprobs = tinkex_loss_call_logprobs(call);
  float *gradients = tinkex_loss_call_gradients(call);
  double loss = 0, longest = 0;
  for (size_t i = 0; i < n; i++) {
    const float *weights = NULL;
    size_t n_weights = 0;
    double sum = 0, total = 0;
    /* The inputs of the examples are there, too: the weights are 0 in the prompt and 1 in the answer. */
    if (tinkex_loss_call_input_f32(call, i, "weights", &weights, &n_weights, NULL)) return 1;
    for (size_t k = 0; k < n_weights; k++) total += (double)weights[k];
    for (int64_t k = offsets[i]; k < offsets[i + 1]; k++) {
      const double weight = (double)weights[k - offsets[i]] / total / (double)n;
      sum -= weight * (double)logprobs[k];
      gradients[k] = (float)-weight; /* of the loss by this log-probability */
    }
    loss += sum;
    if (longest < total) longest = total;
  }
  tinkex_loss_call_set_metric(call, "longest_answer:max", longest);
  tinkex_loss_call_set_loss(call, loss);
  ++*(int *)user;
  return 0;
}

/* A model, an optimizer and data for one training. */
struct run {
  tinkex_training *training;
  tinkex_batch *batch;
  tinkex_optim *adam;
  tinkex_queue *queue;
  double first, last;
  int calls;
};

static tinkex_code begin(struct run *run, const tinkex_service *service, tinkex_error **error) {
  static const char *const DATA[][2] = {{"one: ", "1\n"}, {"two: ", "2\n"}, {"a million: ", "1000000\n"}};
  tinkex_code code = tinkex_training_new(service, base_model(), NULL, &run->training, error);
  if (code || (code = tinkex_optim_new("adam", &run->adam, error)) || (code = tinkex_queue_new(&run->queue, error))) return code;
  tinkex_optim_set(run->adam, "learning_rate", 5e-3);
  run->batch = tinkex_batch_new();
  for (size_t i = 0; i < sizeof DATA / sizeof *DATA && !code; i++) {
    int32_t prompt[16], answer[16];
    const size_t n_prompt = bytes_as_tokens(DATA[i][0], prompt, 16), n_answer = bytes_as_tokens(DATA[i][1], answer, 16);
    code = tinkex_batch_add_completion(run->batch, prompt, n_prompt, answer, n_answer, NULL, error);
  }
  return code;
}

static void end(struct run *run) {
  tinkex_queue_free(&run->queue);
  tinkex_batch_free(&run->batch);
  tinkex_optim_free(&run->adam);
  tinkex_training_free(&run->training);
}

/* Handles what the queue gives until the operation with this tag has ended. */
static tinkex_code serve(struct run *run, uint64_t tag, tinkex_error **error) {
  for (;;) {
    tinkex_event *event = NULL;
    tinkex_code code = tinkex_queue_next(run->queue, -1, &event, error);
    if (code) return code;
    const int32_t kind = tinkex_event_kind(event);
    const int is_end = kind == TINKEX_EVENT_DONE && tinkex_event_tag(event) == tag;
    if (kind == TINKEX_EVENT_LOSS) {
      tinkex_loss_call *call = tinkex_event_take_loss(event);
      if (mean_of_means(&run->calls, call)) tinkex_loss_call_fail(call, "the data have no weights");
      tinkex_loss_call_finish(&call);
    }
    tinkex_event_free(&event);
    if (is_end) return TINKEX_OK;
  }
}

static tinkex_code train(struct run *run, int steps, int is_pulled, tinkex_error **error) {
  for (int step = 0; step < steps; step++) {
    const uint64_t tag = (uint64_t)step;
    tinkex_pending *pass = NULL, *update = NULL;
    const tinkex_result *result = NULL;
    tinkex_code code;
    if (is_pulled) {
      code = tinkex_training_forward_backward_pulled(run->training, run->batch, run->queue, tag, &pass, error);
      if (!code) code = tinkex_pending_notify(pass, run->queue, tag, error);
      if (!code) code = serve(run, tag, error);
    } else {
      code = tinkex_training_forward_backward_custom(run->training, run->batch, mean_of_means, &run->calls, NULL, &pass, error);
    }
    if (!code) code = tinkex_pending_wait(pass, -1, &result, error);
    if (!code) run->last = tinkex_result_metric(result, "loss");
    if (!code && step == 0) run->first = run->last;
    if (!code) code = tinkex_training_optim_step(run->training, run->adam, &update, error);
    if (!code) code = tinkex_pending_wait(update, -1, NULL, error);
    tinkex_pending_free(&update);
    tinkex_pending_free(&pass);
    if (code) return code;
  }
  return TINKEX_OK;
}

int main(int argc, char **argv) {
  const int steps = argc > 1 ? atoi(argv[1]) : 10;
  tinkex_error *error = NULL;
  tinkex_server *server = NULL;
  tinkex_service *service = NULL;
  struct run runs[2];
  memset(runs, 0, sizeof runs);
  int failed = connect_service(&server, &service, &error) != TINKEX_OK;
  for (int i = 0; i < 2 && !failed; i++) {
    failed = begin(&runs[i], service, &error) || train(&runs[i], steps, i, &error);
    if (!failed) printf("%s: %d calls, loss %.4f -> %.4f\n", i ? "pulled" : "callback", runs[i].calls, runs[i].first, runs[i].last);
  }
  if (failed) fprintf(stderr, "custom_loss: %s\n", error ? tinkex_error_message(error) : "no reason given");
  for (int i = 0; i < 2 && !failed; i++)
    failed = runs[i].calls != steps || (steps > 1 && !(runs[i].last < runs[i].first)) || fabs(runs[i].first - runs[0].first) > 1e-3;
  tinkex_error_free(&error);
  for (int i = 0; i < 2; i++) end(&runs[i]);
  tinkex_service_free(&service);
  tinkex_server_free(&server);
  return failed || tinkex_live_objects() != 0;
}
