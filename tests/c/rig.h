/* What the C tests have in common: checks, and a world of objects on the embedded engine. */
#ifndef RIG_H
#define RIG_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <tinkex.h>

/* Makes the next function that returns a code panic. Only in libraries that are built with the feature `testing`. */
extern void tinkex_testing_panic_next(void) __attribute__((weak));

#define MODEL "tinkex/nano"

static inline void stop_test(const char *file, int line, const char *what) {
  fprintf(stderr, "%s:%d: %s\n", file, line, what);
  fflush(NULL);
  _exit(1);
}
#define CHECK(condition) do { if (!(condition)) stop_test(__FILE__, __LINE__, "not true: " #condition); } while (0)

/* Checks a code, and that the error agrees with it. `path` NULL: any; otherwise a part of the error's path. Frees it. */
static inline void expect(const char *file, int line, const char *call, tinkex_code code, tinkex_error **error, tinkex_code expected, const char *path) {
  char text[1024];
  const tinkex_code inside = *error ? tinkex_error_code(*error) : TINKEX_OK;
  const char *found = *error && tinkex_error_path(*error) ? tinkex_error_path(*error) : "";
  if (code != expected || inside != expected || (path && !strstr(found, path))) {
    snprintf(text, sizeof text, "%s: expected %s%s%s, not %s (error %d, path \"%s\", message \"%s\")", call, tinkex_code_name(expected),
             path ? " at " : "", path ? path : "", tinkex_code_name(code), (int)inside, found, *error ? tinkex_error_message(*error) : "");
    stop_test(file, line, text);
  }
  if (*error && (!tinkex_error_message(*error) || !*tinkex_error_message(*error) || !tinkex_error_json(*error)))
    stop_test(file, line, "an error has no message or no JSON");
  tinkex_error_free(error);
}

/* An address that no output may keep: every output is written on every return. */
static uint64_t poison_[8];
#define POISON ((void *)poison_)

/* EXPECT(code, path, call): the call, which must use `&error`, gives this code. */
#define EXPECT(expected, path, call) do { \
    tinkex_error *error = POISON; \
    const tinkex_code code_ = (call); \
    CHECK((void *)error != POISON); \
    expect(__FILE__, __LINE__, #call, code_, &error, (expected), (path)); \
  } while (0)
/* As EXPECT, and the failed call sets its output `out`, a pointer, to NULL. */
#define REFUSED(expected, path, out, call) do { \
    (out) = POISON; \
    EXPECT(expected, path, call); \
    if ((void *)(out) != NULL) stop_test(__FILE__, __LINE__, "output not cleared: " #call); \
  } while (0)
#define OK(call) EXPECT(TINKEX_OK, NULL, call)

static inline double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}
static inline void pause_ms(long ms) {
  struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {}
}

/* Objects that most tests need. */
struct world {
  tinkex_server *server;
  tinkex_service *service;
  tinkex_training *training;
  tinkex_sampling *sampling;
  tinkex_batch *batch;
  tinkex_loss *loss;
  tinkex_optim *adam;
};

static const int32_t PROMPT[] = {104, 105, 32}, ANSWER[] = {121, 111, 10};

static inline tinkex_service *serve_on(const tinkex_server *server) {
  tinkex_service *service = NULL;
  tinkex_service_options *options = tinkex_service_options_new();
  tinkex_service_options_set_base_url(options, tinkex_server_url(server));
  tinkex_service_options_set_api_key(options, tinkex_server_api_key(server));
  OK(tinkex_service_new(options, &service, &error));
  tinkex_service_options_free(&options);
  CHECK(options == NULL && service != NULL);
  return service;
}

static inline void build(struct world *w) {
  memset(w, 0, sizeof *w);
  OK(tinkex_server_new(NULL, &w->server, &error));
  w->service = serve_on(w->server);
  OK(tinkex_training_new(w->service, MODEL, NULL, &w->training, &error));
  OK(tinkex_sampling_new(w->service, MODEL, &w->sampling, &error));
  w->batch = tinkex_batch_new();
  OK(tinkex_batch_add_completion(w->batch, PROMPT, 3, ANSWER, 3, NULL, &error));
  OK(tinkex_loss_new("cross_entropy", &w->loss, &error));
  OK(tinkex_optim_new("adam", &w->adam, &error));
}

static inline void demolish(struct world *w) {
  tinkex_optim_free(&w->adam);
  tinkex_loss_free(&w->loss);
  tinkex_batch_free(&w->batch);
  tinkex_sampling_free(&w->sampling);
  tinkex_training_free(&w->training);
  if (w->service) OK(tinkex_service_close(w->service, TINKEX_CLOSE_SUCCESS, NULL, &error));
  tinkex_service_free(&w->service);
  tinkex_server_free(&w->server);
}

/* Waits for an operation that must succeed, and frees it. Returns its metric `loss:sum`, NaN if it has none. */
static inline double finish(tinkex_pending **pending) {
  const tinkex_result *result = NULL;
  OK(tinkex_pending_wait(*pending, -1, &result, &error));
  const double loss = tinkex_result_metric(result, "loss:sum");
  tinkex_pending_free(pending);
  return loss;
}

/* The library works: one step of training and one sample. */
static inline void still_works(struct world *w) {
  tinkex_pending *pass = NULL, *update = NULL, *sample = NULL;
  const tinkex_result *result = NULL;
  size_t n = 0;
  OK(tinkex_training_train_step(w->training, w->batch, w->loss, w->adam, &pass, &update, &error));
  CHECK(finish(&pass) > 0);
  OK(tinkex_pending_wait(update, -1, NULL, &error));
  tinkex_pending_free(&update);
  OK(tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, NULL, &sample, &error));
  OK(tinkex_pending_wait(sample, -1, &result, &error));
  CHECK(tinkex_result_tokens(result, 0, &n) != NULL && n > 0);
  tinkex_pending_free(&sample);
}

static inline int done(const char *name) {
  CHECK(tinkex_live_objects() == 0);
  printf("%s: passed\n", name);
  return 0;
}

#endif
