/* A forked child can free what it has inherited, which does nothing there, and exec. Everything else is refused. The
 * parent goes on, also when it forks while other threads use the library. */
#include "rig.h"
#include <sys/wait.h>

enum { FORKS = 10 };

static struct world w;
static atomic_bool stop;

static void *keep_busy(void *unused) {
  (void)unused;
  while (!stop) {
    tinkex_pending *sample = NULL;
    OK(tinkex_sampling_sample_tokens(w.sampling, PROMPT, 3, 1, NULL, &sample, &error));
    OK(tinkex_pending_wait(sample, -1, NULL, &error));
    tinkex_pending_free(&sample);
  }
  return NULL;
}

static void in_child(tinkex_pending *pending, const tinkex_result *result, tinkex_loss_call *call, tinkex_queue *queue, tinkex_error *of_parent) {
  const int64_t live = tinkex_live_objects();
  tinkex_batch *batch;
  tinkex_loss *loss;
  tinkex_queue *own;
  uint64_t tag;
  tinkex_pending *sample;
  tinkex_training *training;
  tinkex_event *event;
  const float *values;
  size_t n;
  REFUSED(TINKEX_ERROR_FORKED, NULL, sample, tinkex_sampling_sample_tokens(w.sampling, PROMPT, 3, 1, NULL, &sample, &error));
  REFUSED(TINKEX_ERROR_FORKED, NULL, sample, tinkex_training_optim_step(w.training, w.adam, &sample, &error));
  REFUSED(TINKEX_ERROR_FORKED, NULL, training, tinkex_training_new(w.service, MODEL, NULL, &training, &error));
  REFUSED(TINKEX_ERROR_FORKED, NULL, event, tinkex_queue_next(queue, 0, &event, &error));
  EXPECT(TINKEX_ERROR_FORKED, NULL, tinkex_batch_add_tokens(w.batch, PROMPT, 3, &n, &error));
  EXPECT(TINKEX_ERROR_FORKED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  EXPECT(TINKEX_ERROR_FORKED, NULL, tinkex_wait_all(&pending, 1, -1, NULL, &error));
  EXPECT(TINKEX_ERROR_FORKED, NULL, tinkex_service_close(w.service, TINKEX_CLOSE_SUCCESS, NULL, &error));
  CHECK(tinkex_training_ref(w.training) == NULL && tinkex_batch_len(w.batch) == 0 && !tinkex_pending_is_done(pending));
  REFUSED(TINKEX_ERROR_FORKED, NULL, values, tinkex_result_output_f32(result, 0, "logprobs", &values, &n, &error));
  CHECK(tinkex_result_json(result) == NULL && tinkex_result_kind(result) == 0 && n == 0);
  REFUSED(TINKEX_ERROR_FORKED, NULL, values, tinkex_loss_call_input_f32(call, 0, "weights", &values, &n, &error));
  CHECK(tinkex_loss_call_gradients(call) == NULL);
  /* An error of the parent is not read, and looks like no success. */
  CHECK(tinkex_error_code(of_parent) == TINKEX_ERROR_FORKED && tinkex_error_message(of_parent) == NULL);
  CHECK(tinkex_queue_take_done(queue, &tag, 1, -1) == 0 && tinkex_sampling_ref(w.sampling) == NULL);
  tinkex_queue_wake(queue);
  tinkex_training_close(w.training);
  /* Objects of its own work, and do not take those of the parent. */
  batch = tinkex_batch_new();
  OK(tinkex_batch_add_tokens(batch, PROMPT, 3, NULL, &error));
  CHECK(tinkex_batch_len(batch) == 1);
  OK(tinkex_loss_new("cross_entropy", &loss, &error));
  REFUSED(TINKEX_ERROR_FORKED, NULL, sample, tinkex_training_forward(w.training, batch, loss, &sample, &error));
  OK(tinkex_queue_new(&own, &error));
  EXPECT(TINKEX_ERROR_FORKED, NULL, tinkex_pending_notify(pending, own, 1, &error));
  REFUSED(TINKEX_ERROR_TIMEOUT_WAIT, NULL, event, tinkex_queue_next(own, 10, &event, &error));
  tinkex_queue_free(&own);
  tinkex_loss_free(&loss);
  tinkex_batch_free(&batch);
  CHECK(tinkex_live_objects() == live);
  tinkex_pending_cancel(pending);
  tinkex_pending_free(&pending);
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call); /* the loss is the parent's to finish */
  tinkex_queue_free(&queue);
  tinkex_optim_free(&w.adam);
  tinkex_loss_free(&w.loss);
  tinkex_batch_free(&w.batch);
  tinkex_sampling_free(&w.sampling);
  tinkex_training_free(&w.training);
  tinkex_service_free(&w.service);
  tinkex_server_free(&w.server);
  tinkex_error_free(&of_parent);
  CHECK(pending == NULL && call == NULL && w.service == NULL && w.server == NULL && of_parent == NULL);
  CHECK(tinkex_live_objects() == live); /* objects of the parent stay */
  execl("/bin/true", "true", (char *)NULL);
  _exit(1);
}

int main(void) {
  pthread_t busy;
  tinkex_pending *pending = NULL, *ended = NULL, *pulled = NULL;
  const tinkex_result *result = NULL;
  tinkex_queue *queue = NULL;
  tinkex_training *training = NULL;
  tinkex_event *event = NULL;
  tinkex_error *error = NULL;
  alarm(600);
  build(&w);
  CHECK(tinkex_pending_wait(NULL, 0, NULL, &error) == TINKEX_ERROR_NULL && error != NULL);
  OK(tinkex_training_forward(w.training, w.batch, w.loss, &ended, &error));
  OK(tinkex_pending_wait(ended, -1, &result, &error));
  OK(tinkex_queue_new(&queue, &error));
  OK(tinkex_training_new(w.service, MODEL, NULL, &training, &error));
  OK(tinkex_training_forward_backward_pulled(training, w.batch, queue, 1, &pulled, &error));
  OK(tinkex_queue_next(queue, 60000, &event, &error));
  tinkex_loss_call *call = tinkex_event_take_loss(event);
  tinkex_event_free(&event);
  CHECK(pthread_create(&busy, NULL, keep_busy, NULL) == 0);
  for (int i = 0; i < FORKS; i++) {
    int status = 0;
    OK(tinkex_training_forward_backward(w.training, w.batch, w.loss, &pending, &error));
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60);
      in_child(pending, result, call, queue, error);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(finish(&pending) > 0);
  }
  stop = 1;
  pthread_join(busy, NULL);
  tinkex_error_free(&error);
  /* What the children have seen is unharmed. */
  CHECK(tinkex_result_kind(result) == TINKEX_RESULT_PASS && tinkex_loss_call_count(call) == 1);
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call);
  OK(tinkex_pending_wait(pulled, -1, NULL, &error));
  tinkex_pending_free(&ended);
  tinkex_pending_free(&pulled);
  tinkex_training_free(&training);
  tinkex_queue_free(&queue);
  still_works(&w);
  demolish(&w);
  return done("fork");
}
