/* 16 threads on one handle: they sample, ask for the status, wait, cancel and free, and make and free references of their
 * own. Then 16 threads wait for one operation, which ends, is cancelled, or whose pending is freed. `threads [SECONDS]` */
#include "rig.h"

enum { THREADS = 16 };

static struct world w;
static double end_time;
static atomic_long n_samples, n_cancelled, n_passes;

/* A number of the thread's own sequence, for the choice of what to do next. */
static unsigned next_number(unsigned *state) {
  *state = *state * 1103515245u + 12345u;
  return *state >> 16;
}

static void sample(const tinkex_sampling *sampling, const tinkex_sample_options *options, unsigned *state) {
  tinkex_pending *pending = NULL;
  tinkex_status *status = NULL;
  const tinkex_result *result = NULL;
  OK(tinkex_sampling_sample_tokens(sampling, PROMPT, 3, 1, options, &pending, &error));
  OK(tinkex_pending_status(pending, &status, &error));
  CHECK(tinkex_status_stage(status) >= TINKEX_STAGE_QUEUED && tinkex_status_stage(status) <= TINKEX_STAGE_DONE);
  CHECK(tinkex_status_elapsed_ms(status) >= 0 && tinkex_status_json(status) != NULL);
  tinkex_status_free(&status);
  switch (next_number(state) % 8) {
    case 0: /* cancel: it ends as cancelled, or it had ended */
      tinkex_pending_cancel(pending);
      switch (tinkex_pending_wait(pending, -1, &result, NULL)) {
        case TINKEX_OK: break;
        case TINKEX_ERROR_CANCELLED: CHECK(result == NULL); atomic_fetch_add(&n_cancelled, 1); break;
        default: CHECK(!"a cancelled sample fails in another way");
      }
      tinkex_pending_free(&pending);
      break;
    case 1: /* free without a wait cancels */
      tinkex_pending_free(&pending);
      break;
    case 2: /* let it run on */
      tinkex_pending_detach(&pending);
      CHECK(pending == NULL);
      break;
    default: {
      size_t n = 0;
      while (tinkex_pending_wait(pending, 50, &result, NULL) == TINKEX_ERROR_TIMEOUT_WAIT) CHECK(result == NULL);
      OK(tinkex_pending_wait(pending, -1, &result, &error));
      CHECK(tinkex_result_tokens(result, 0, &n) != NULL && n > 0);
      tinkex_pending_free(&pending);
    }
  }
  atomic_fetch_add(&n_samples, 1);
}

static void *use(void *number) {
  unsigned state = (unsigned)(uintptr_t)number;
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_sample_options_set_max_tokens(options, 4);
  do {
    if (next_number(&state) % 4 == 0) { /* a reference of its own */
      tinkex_sampling *own = tinkex_sampling_ref(w.sampling);
      CHECK(own != NULL && own != w.sampling);
      sample(own, options, &state);
      tinkex_sampling_free(&own);
    } else {
      sample(w.sampling, options, &state);
    }
    if (next_number(&state) % 16 == 0) {
      tinkex_pending *pass = NULL;
      OK(tinkex_training_forward(w.training, w.batch, w.loss, &pass, &error));
      CHECK(finish(&pass) > 0);
      atomic_fetch_add(&n_passes, 1);
    }
  } while (now() < end_time);
  tinkex_sample_options_free(&options);
  return NULL;
}

static atomic_int n_waiting;
static void *wait_for(void *pending) {
  const tinkex_result *result = NULL;
  tinkex_error *error = NULL;
  atomic_fetch_add(&n_waiting, 1);
  if (tinkex_pending_wait(pending, -1, &result, &error)) stop_test(__FILE__, __LINE__, tinkex_error_message(error));
  return (void *)(uintptr_t)result;
}

static void *is_cancelled(void *pending) {
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  return NULL;
}

/* All threads wait for one operation, and get the same result. */
static void wait_together(void *(*wait)(void *), int do_cancel) {
  pthread_t threads[THREADS];
  tinkex_pending *pending = NULL;
  void *first = NULL;
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_sample_options_set_max_tokens(options, do_cancel ? 1000 : 60);
  OK(tinkex_sampling_sample_tokens(w.sampling, PROMPT, 3, do_cancel ? 8 : 1, options, &pending, &error));
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, wait, pending) == 0);
  if (do_cancel) tinkex_pending_cancel(pending);
  for (int i = 0; i < THREADS; i++) {
    void *result = NULL;
    pthread_join(threads[i], &result);
    if (i == 0) first = result;
    CHECK(result == first && (first != NULL) == !do_cancel);
  }
  tinkex_pending_free(&pending);
  tinkex_sample_options_free(&options);
}

/* All threads wait for a pass that cannot end yet; then the pass ends, and so do the waits. */
static void *outlive(void *pending) {
  atomic_fetch_add(&n_waiting, 1);
  switch (tinkex_pending_wait(pending, -1, NULL, NULL)) {
    case TINKEX_OK: case TINKEX_ERROR_CANCELLED: return NULL;
    default: stop_test(__FILE__, __LINE__, "a wait for a freed pending fails in another way");
  }
  return NULL;
}

/* A pass of a new client that cannot end before the returned loss is finished. */
static tinkex_loss_call *hold_a_pass(tinkex_training **training, tinkex_queue **queue, tinkex_pending **pending) {
  tinkex_event *event = NULL;
  OK(tinkex_training_new(w.service, MODEL, NULL, training, &error));
  OK(tinkex_queue_new(queue, &error));
  OK(tinkex_training_forward_backward_pulled(*training, w.batch, *queue, 1, pending, &error));
  OK(tinkex_queue_next(*queue, -1, &event, &error));
  tinkex_loss_call *call = tinkex_event_take_loss(event);
  CHECK(call != NULL);
  tinkex_event_free(&event);
  return call;
}

/* `do_free`: the pending is freed while all wait, else all get the one result of the pass. */
static void wait_for_a_pass(int do_free) {
  pthread_t threads[THREADS];
  void *first = NULL;
  tinkex_queue *queue = NULL;
  tinkex_training *training = NULL;
  tinkex_pending *pending = NULL;
  tinkex_loss_call *call = hold_a_pass(&training, &queue, &pending);
  n_waiting = 0;
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, do_free ? outlive : wait_for, pending) == 0);
  while (n_waiting < THREADS) pause_ms(1);
  pause_ms(500); /* nothing tells when a thread is inside of the call */
  CHECK(!tinkex_pending_is_done(pending)); /* no wait can have ended yet */
  if (do_free) tinkex_pending_free(&pending);
  CHECK((pending == NULL) == do_free);
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call);
  for (int i = 0; i < THREADS; i++) {
    void *result = NULL;
    pthread_join(threads[i], &result);
    if (i == 0) first = result;
    CHECK(result == first && (first != NULL) == !do_free);
  }
  tinkex_pending_free(&pending);
  tinkex_queue_free(&queue);
  tinkex_training_free(&training);
}

/* All threads use one pending at once: status, notification, wait, and cancel. It ends once, as cancelled, for all. */
static struct {
  tinkex_pending *pending;
  tinkex_queue *queue;
  atomic_int n_ready;
} shared;
static void *use_one(void *number) {
  tinkex_status *status = NULL;
  const tinkex_result *result = NULL;
  atomic_fetch_add(&shared.n_ready, 1);
  while (shared.n_ready < THREADS) pause_ms(1);
  OK(tinkex_pending_notify(shared.pending, shared.queue, (uintptr_t)number, &error));
  OK(tinkex_pending_status(shared.pending, &status, &error));
  CHECK(tinkex_status_stage(status) >= TINKEX_STAGE_QUEUED && tinkex_status_stage(status) <= TINKEX_STAGE_DONE);
  tinkex_status_free(&status);
  if ((uintptr_t)number % 2) tinkex_pending_cancel(shared.pending);
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(shared.pending, -1, &result, &error));
  CHECK(result == NULL && tinkex_pending_is_done(shared.pending));
  OK(tinkex_pending_status(shared.pending, &status, &error));
  CHECK(tinkex_status_stage(status) == TINKEX_STAGE_DONE);
  tinkex_status_free(&status);
  return NULL;
}

static void use_together(void) {
  pthread_t threads[THREADS];
  uint64_t tags[THREADS + 1];
  unsigned seen = 0;
  tinkex_training *training = NULL;
  tinkex_loss_call *call = hold_a_pass(&training, &shared.queue, &shared.pending);
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, use_one, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  const size_t n = tinkex_queue_take_done(shared.queue, tags, THREADS + 1, 0); /* one event for each notification */
  CHECK(n == THREADS);
  for (size_t i = 0; i < n; i++) seen |= 1u << tags[i];
  CHECK(seen == (1u << THREADS) - 1);
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call); /* too late, and harmless */
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(shared.pending, -1, NULL, &error));
  tinkex_pending_free(&shared.pending);
  tinkex_queue_free(&shared.queue);
  tinkex_training_free(&training);
}

int main(int argc, char **argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 5;
  pthread_t threads[THREADS];
  alarm((unsigned)seconds + 600);
  build(&w);
  end_time = now() + seconds;
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, use, (void *)(i + 1)) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  CHECK(n_samples >= THREADS);
  printf("threads: %ld samples (%ld cancelled), %ld passes\n", n_samples, n_cancelled, n_passes);
  wait_together(wait_for, 0);
  wait_together(is_cancelled, 1);
  wait_for_a_pass(0);
  wait_for_a_pass(1);
  use_together();
  still_works(&w);
  demolish(&w);
  return done("threads");
}
