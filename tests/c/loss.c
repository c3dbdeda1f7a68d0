/* Custom losses that fail, and those that work, as callbacks and pulled from a queue. A custom loss that fails between its
 * two passes poisons its training client, so that each case has a client of its own. */
#include "rig.h"
#include <math.h>

/* What a callback is to do, and what it has seen. */
struct plan {
  struct world *world;
  tinkex_training *training;
  void (*act)(struct plan *plan, tinkex_loss_call *call);
  int32_t returned;
  _Atomic(tinkex_pending *) pass; /* the operation that the callback belongs to, once it was submitted */
  atomic_int calls, releases;
};

static int32_t follow(void *user, tinkex_loss_call *call) {
  struct plan *plan = user;
  atomic_fetch_add(&plan->calls, 1);
  plan->act(plan, call);
  return plan->returned;
}
static void release_plan(void *user) { atomic_fetch_add(&((struct plan *)user)->releases, 1); }

/* The sum of the squares. */
static void squares(struct plan *plan, tinkex_loss_call *call) {
  const size_t n = (size_t)tinkex_loss_call_offsets(call)[tinkex_loss_call_count(call)];
  const float *logprobs = tinkex_loss_call_logprobs(call);
  float *gradients = tinkex_loss_call_gradients(call);
  double loss = 0;
  (void)plan;
  for (size_t i = 0; i < n; i++) {
    loss += (double)logprobs[i] * (double)logprobs[i];
    gradients[i] = 2 * logprobs[i];
  }
  tinkex_loss_call_set_metric(call, "tokens:sum", (double)n);
  tinkex_loss_call_set_loss(call, loss);
}

static void not_a_number(struct plan *plan, tinkex_loss_call *call) {
  squares(plan, call);
  tinkex_loss_call_gradients(call)[1] = (float)NAN;
}
static void not_a_loss(struct plan *plan, tinkex_loss_call *call) {
  squares(plan, call);
  tinkex_loss_call_set_loss(call, (double)NAN);
}
static void forgets(struct plan *plan, tinkex_loss_call *call) { (void)plan, (void)call; }
static void gives_a_reason(struct plan *plan, tinkex_loss_call *call) {
  (void)plan;
  tinkex_loss_call_fail(call, "the reward model is away");
}
/* A panic of the library inside of the callback is an error of the call, and the loss goes on. */
static void panics(struct plan *plan, tinkex_loss_call *call) {
  const float *weights;
  size_t n;
  tinkex_error *error = NULL;
  if (tinkex_testing_panic_next) {
    tinkex_testing_panic_next();
    CHECK(tinkex_loss_call_input_f32(call, 0, "weights", &weights, &n, &error) == TINKEX_ERROR_PANIC && weights == NULL && n == 0);
    tinkex_error_free(&error);
  }
  squares(plan, call);
}
static void fails_after_all(struct plan *plan, tinkex_loss_call *call) {
  squares(plan, call);
  tinkex_loss_call_fail(call, "and yet");
}

/* Reads the inputs, and makes mistakes in doing so. */
static void reads(struct plan *plan, tinkex_loss_call *call) {
  const float *weights;
  const int64_t *targets, *offsets = tinkex_loss_call_offsets(call);
  size_t n;
  CHECK(tinkex_loss_call_count(call) == 1 && offsets[0] == 0 && offsets[1] == 5);
  OK(tinkex_loss_call_input_f32(call, 0, "weights", &weights, &n, &error));
  CHECK(n == 5 && weights[0] == 0 && weights[4] == 1);
  OK(tinkex_loss_call_input_i64(call, 0, "target_tokens", &targets, &n, &error));
  CHECK(n == 5 && targets[4] == 10);
  REFUSED(TINKEX_ERROR_KIND, NULL, weights, tinkex_loss_call_input_f32(call, 0, "target_tokens", &weights, &n, &error));
  REFUSED(TINKEX_ERROR_KIND, NULL, targets, tinkex_loss_call_input_i64(call, 0, "weights", &targets, &n, &error));
  REFUSED(TINKEX_ERROR_RANGE, NULL, weights, tinkex_loss_call_input_f32(call, 1, "weights", &weights, &n, &error));
  REFUSED(TINKEX_ERROR_NAME, NULL, weights, tinkex_loss_call_input_f32(call, 0, "no_such_input", &weights, &n, &error));
  squares(plan, call);
}

/* In a callback `finish` only clears the pointer: the call goes on until the return, also for a second pointer to it. */
static void finishes(struct plan *plan, tinkex_loss_call *call) {
  tinkex_loss_call *first = call, *second = call;
  tinkex_loss_call_finish(&first);
  tinkex_loss_call_finish(&first);
  tinkex_loss_call_finish(&second);
  CHECK(first == NULL && second == NULL);
  squares(plan, call);
}

/* Calls back: what needs no turn of this client works, and waiting for its own client is refused at once. */
static void calls_back(struct plan *plan, tinkex_loss_call *call) {
  tinkex_pending *sample = NULL, *update = NULL, *both[2];
  tinkex_text *json = NULL;
  tinkex_status *status = NULL;
  tinkex_sampling *sampling = NULL;
  size_t i;
  OK(tinkex_sampling_sample_tokens(plan->world->sampling, PROMPT, 3, 1, NULL, &sample, &error));
  OK(tinkex_pending_wait(sample, -1, NULL, &error));
  tinkex_pending_free(&sample);
  OK(tinkex_service_metrics(plan->world->service, &json, &error));
  tinkex_text_free(&json);
  OK(tinkex_training_optim_step(plan->training, plan->world->adam, &update, &error));
  EXPECT(TINKEX_ERROR_DEADLOCK, NULL, tinkex_pending_wait(update, -1, NULL, &error));
  both[0] = both[1] = update;
  EXPECT(TINKEX_ERROR_DEADLOCK, NULL, tinkex_wait_all(both, 2, -1, &i, &error));
  EXPECT(TINKEX_ERROR_DEADLOCK, NULL, tinkex_wait_any(both, 2, -1, &i, &error));
  tinkex_pending_free(&update); /* training work goes on */
  /* The same for the pass that waits for this callback, whatever the time, and for a function that blocks. */
  while (plan->pass == NULL) pause_ms(1);
  EXPECT(TINKEX_ERROR_DEADLOCK, NULL, tinkex_pending_wait(plan->pass, -1, NULL, &error));
  EXPECT(TINKEX_ERROR_DEADLOCK, NULL, tinkex_pending_wait(plan->pass, 0, NULL, &error));
  REFUSED(TINKEX_ERROR_DEADLOCK, NULL, sampling, tinkex_training_sampler(plan->training, 0, &sampling, &error));
  CHECK(!tinkex_pending_is_done(plan->pass));
  OK(tinkex_pending_status(plan->pass, &status, &error));
  tinkex_status_free(&status);
  squares(plan, call);
}

/* A callback that ends with this code; 0: it works, and the client afterwards. `text`: a part of the message. */
static void callback(struct world *w, const char *name, void (*act)(struct plan *, tinkex_loss_call *), int32_t returned,
                     tinkex_code code, const char *text) {
  struct plan plan = {.world = w, .act = act, .returned = returned};
  tinkex_pending *pass = NULL, *update = NULL;
  const tinkex_result *result = NULL;
  tinkex_error *error = NULL;
  OK(tinkex_training_new(w->service, MODEL, NULL, &plan.training, &error));
  OK(tinkex_training_forward_backward_custom(plan.training, w->batch, follow, &plan, release_plan, &pass, &error));
  plan.pass = pass;
  const tinkex_code found = tinkex_pending_wait(pass, -1, &result, &error);
  if (found != code) {
    fprintf(stderr, "loss.c: %s: code %d, not %d: %s\n", name, found, code, error ? tinkex_error_message(error) : "");
    _exit(1);
  }
  if (text && !strstr(tinkex_error_message(error), text)) {
    fprintf(stderr, "loss.c: %s: the message does not contain \"%s\": %s\n", name, text, tinkex_error_message(error));
    _exit(1);
  }
  tinkex_error_free(&error);
  if (code == TINKEX_OK) {
    CHECK(tinkex_result_metric(result, "loss:sum") > 0 && tinkex_result_metric(result, "tokens:sum") == 5);
    OK(tinkex_training_optim_step(plan.training, w->adam, &update, &error));
    OK(tinkex_pending_wait(update, -1, NULL, &error));
  } else {
    OK(tinkex_training_optim_step(plan.training, w->adam, &update, &error));
    EXPECT(TINKEX_ERROR_POISONED, NULL, tinkex_pending_wait(update, -1, NULL, &error));
  }
  tinkex_pending_free(&update);
  tinkex_pending_free(&pass);
  tinkex_training_free(&plan.training);
  for (int i = 0; i < 1000 && plan.releases == 0; i++) pause_ms(10); /* on the thread that called */
  CHECK(plan.calls == 1 && plan.releases == 1);
}

/* A pulled loss, taken from the queue. */
static tinkex_loss_call *take(tinkex_queue *queue, uint64_t tag) {
  tinkex_event *event = NULL;
  OK(tinkex_queue_next(queue, 60000, &event, &error));
  CHECK(tinkex_event_kind(event) == TINKEX_EVENT_LOSS && tinkex_event_tag(event) == tag);
  tinkex_loss_call *call = tinkex_event_take_loss(event);
  CHECK(call != NULL && tinkex_event_take_loss(event) == NULL); /* once */
  tinkex_event_free(&event);
  return call;
}

static void *finish_elsewhere(void *call) {
  tinkex_loss_call *mine = call;
  squares(NULL, mine);
  tinkex_loss_call_finish(&mine);
  CHECK(mine == NULL);
  tinkex_loss_call_finish(&mine); /* a second time through the same variable */
  return NULL;
}

enum ending { OTHER_THREAD, WITHOUT_LOSS, FAILED, QUEUE_FREED, EVENT_FREED, QUEUE_FREED_WITH_EVENT };

/* A pulled loss that ends with this code. `text`: a part of the message. */
static void pulled(struct world *w, enum ending ending, tinkex_code code, const char *text) {
  tinkex_error *error = NULL;
  tinkex_training *training = NULL;
  tinkex_pending *pass = NULL;
  tinkex_queue *queue = NULL;
  tinkex_event *event = NULL;
  tinkex_loss_call *call = NULL;
  pthread_t thread;
  OK(tinkex_training_new(w->service, MODEL, NULL, &training, &error));
  OK(tinkex_queue_new(&queue, &error));
  OK(tinkex_training_forward_backward_pulled(training, w->batch, queue, 42, &pass, &error));
  switch (ending) {
    case OTHER_THREAD:
      CHECK(pthread_create(&thread, NULL, finish_elsewhere, take(queue, 42)) == 0);
      pthread_join(thread, NULL);
      break;
    case WITHOUT_LOSS:
      call = take(queue, 42);
      tinkex_loss_call_finish(&call);
      break;
    case FAILED:
      call = take(queue, 42);
      tinkex_loss_call_fail(call, "no gradient today");
      tinkex_loss_call_finish(&call);
      break;
    case QUEUE_FREED: tinkex_queue_free(&queue); break; /* before or after the loss has come */
    case EVENT_FREED:
      OK(tinkex_queue_next(queue, 60000, &event, &error));
      tinkex_event_free(&event); /* its loss was not taken */
      break;
    case QUEUE_FREED_WITH_EVENT:
      for (int i = 0; i < 6000 && !tinkex_pending_is_done(pass) && i < 50; i++) pause_ms(10);
      tinkex_queue_free(&queue); /* the loss waits in it */
      break;
  }
  CHECK(tinkex_pending_wait(pass, -1, NULL, &error) == code && tinkex_error_code(error) == code);
  if (text && !strstr(tinkex_error_message(error), text)) stop_test(__FILE__, __LINE__, tinkex_error_message(error));
  tinkex_error_free(&error);
  tinkex_pending_free(&pass);
  tinkex_queue_free(&queue);
  tinkex_training_free(&training);
}

/* A loss that was taken outlives its queue, its pending and its client. */
static void taken_last(struct world *w) {
  tinkex_training *training = NULL;
  tinkex_pending *pass = NULL;
  tinkex_queue *queue = NULL;
  OK(tinkex_training_new(w->service, MODEL, NULL, &training, &error));
  OK(tinkex_queue_new(&queue, &error));
  OK(tinkex_training_forward_backward_pulled(training, w->batch, queue, 7, &pass, &error));
  tinkex_loss_call *call = take(queue, 7);
  tinkex_pending_free(&pass);
  tinkex_queue_free(&queue);
  tinkex_training_free(&training);
  squares(NULL, call);
  tinkex_loss_call_finish(&call);
}

int main(void) {
  struct world w;
  alarm(600);
  build(&w);
  callback(&w, "squares", squares, 0, TINKEX_OK, NULL);
  callback(&w, "reads", reads, 0, TINKEX_OK, NULL);
  callback(&w, "calls back", calls_back, 0, TINKEX_OK, NULL);
  callback(&w, "finishes", finishes, 0, TINKEX_OK, NULL);
  callback(&w, "panics", panics, 0, TINKEX_OK, NULL);
  callback(&w, "returns not 0", squares, 7, TINKEX_ERROR_CUSTOM_LOSS, "returned 7");
  callback(&w, "forgets the loss", forgets, 0, TINKEX_ERROR_CUSTOM_LOSS, "no loss was set");
  callback(&w, "gives a reason", gives_a_reason, 1, TINKEX_ERROR_CUSTOM_LOSS, "the reward model is away");
  callback(&w, "fails after all", fails_after_all, 0, TINKEX_ERROR_CUSTOM_LOSS, "and yet");
  callback(&w, "NaN gradient", not_a_number, 0, TINKEX_ERROR_CUSTOM_LOSS, "gradients[1]");
  callback(&w, "NaN loss", not_a_loss, 0, TINKEX_ERROR_CUSTOM_LOSS, "finite");
  pulled(&w, OTHER_THREAD, TINKEX_OK, NULL);
  pulled(&w, WITHOUT_LOSS, TINKEX_ERROR_CUSTOM_LOSS, "no loss was set");
  pulled(&w, FAILED, TINKEX_ERROR_CUSTOM_LOSS, "no gradient today");
  pulled(&w, QUEUE_FREED, TINKEX_ERROR_CUSTOM_LOSS, "freed");
  pulled(&w, EVENT_FREED, TINKEX_ERROR_CUSTOM_LOSS, "freed");
  pulled(&w, QUEUE_FREED_WITH_EVENT, TINKEX_ERROR_CUSTOM_LOSS, "freed");
  taken_last(&w);
  still_works(&w);
  demolish(&w);
  for (int i = 0; i < 500 && tinkex_live_objects() != 0; i++) pause_ms(10); /* a loss that ends after its pending */
  return done("loss");
}
