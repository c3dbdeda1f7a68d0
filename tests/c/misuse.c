/* Each misuse of the interface with the code that it must give. No case may crash or leak, and the library must work
 * afterwards. `misuse [--tools]`: with --tools, for memory checkers, no freed memory is read. */
#include "rig.h"

#include <math.h>

static const char BAD_UTF8[] = "\xff\xfe";

/* The type of handle that a function takes, from a handle of another type. */
#define AS(type, handle) ((type *)(void *)(handle))

static void null_pointers(struct world *w) {
  tinkex_pending *pending, *update;
  tinkex_training *training;
  tinkex_sampling *sampling;
  tinkex_service *service;
  tinkex_rest *rest;
  tinkex_tokenizer *tokenizer;
  tinkex_tokens *tokens;
  tinkex_input *input = tinkex_input_new();
  tinkex_text *json;
  tinkex_queue *queue;
  const float *values;
  size_t n;
  REFUSED(TINKEX_ERROR_NULL, "service", training, tinkex_training_new(NULL, MODEL, NULL, &training, &error));
  REFUSED(TINKEX_ERROR_NULL, "base_model", training, tinkex_training_new(w->service, NULL, NULL, &training, &error));
  REFUSED(TINKEX_ERROR_NULL, "training", pending, tinkex_training_forward(NULL, w->batch, w->loss, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "batch", pending, tinkex_training_forward(w->training, NULL, w->loss, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "loss", pending, tinkex_training_forward(w->training, w->batch, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "optim", pending, tinkex_training_optim_step(w->training, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "name", pending, tinkex_training_save_state(w->training, NULL, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "path", pending, tinkex_training_load_state(w->training, NULL, 0, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "loss", pending, tinkex_training_forward_backward_custom(w->training, w->batch, NULL, NULL, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "queue", pending, tinkex_training_forward_backward_pulled(w->training, w->batch, NULL, 0, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "sampling", pending, tinkex_sampling_sample_tokens(NULL, PROMPT, 3, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "prompt", pending, tinkex_sampling_sample_tokens(w->sampling, NULL, 3, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "input", pending, tinkex_sampling_sample(w->sampling, NULL, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "sampling", json, tinkex_sampling_handle(NULL, &json, &error));
  REFUSED(TINKEX_ERROR_NULL, "rest", json, tinkex_rest_get_run(NULL, "x", &json, &error));
  REFUSED(TINKEX_ERROR_NULL, "batch", json, tinkex_batch_json(NULL, &json, &error));
  REFUSED(TINKEX_ERROR_NULL, "service", sampling, tinkex_sampling_new(NULL, MODEL, &sampling, &error));
  REFUSED(TINKEX_ERROR_NULL, "base_model_or_path", sampling, tinkex_sampling_new(w->service, NULL, &sampling, &error));
  REFUSED(TINKEX_ERROR_NULL, "handle", sampling, tinkex_sampling_from_handle(NULL, &sampling, &error));
  REFUSED(TINKEX_ERROR_NULL, "service", rest, tinkex_service_rest(NULL, &rest, &error));
  REFUSED(TINKEX_ERROR_NULL, "service", pending, tinkex_service_create_loss(NULL, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "graph", pending, tinkex_service_create_loss(w->service, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_NULL, "tokenizer", tokens, tinkex_tokenizer_encode(NULL, "x", 1, &tokens, &error));
  REFUSED(TINKEX_ERROR_NULL, "loss_call", values, tinkex_loss_call_input_f32(NULL, 0, "weights", &values, &n, &error));
  EXPECT(TINKEX_ERROR_NULL, "service", tinkex_service_close(NULL, TINKEX_CLOSE_SUCCESS, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "input", tinkex_input_add_tokens(NULL, PROMPT, 3, &error));
  EXPECT(TINKEX_ERROR_NULL, "tokens", tinkex_input_add_tokens(input, NULL, 3, &error));
  EXPECT(TINKEX_ERROR_NULL, "bytes", tinkex_input_add_image(input, NULL, 3, "png", 1, &error));
  EXPECT(TINKEX_ERROR_NULL, "format", tinkex_input_add_image(input, "\x89PNG", 4, NULL, 1, &error));
  CHECK(tinkex_input_len(input) == 0); /* as it was */
  tinkex_input_free(&input);
  OK(tinkex_tokenizer_new(MODEL, &tokenizer, &error));
  REFUSED(TINKEX_ERROR_NULL, "text", tokens, tinkex_tokenizer_encode(tokenizer, NULL, 3, &tokens, &error));
  tinkex_tokenizer_free(&tokenizer);
  OK(tinkex_service_rest(w->service, &rest, &error));
  REFUSED(TINKEX_ERROR_NULL, "paths", json, tinkex_rest_delete_checkpoints(rest, NULL, 1, &json, &error));
  REFUSED(TINKEX_ERROR_NULL, "paths[0]", json, tinkex_rest_delete_checkpoints(rest, (const char *const[]){NULL}, 1, &json, &error));
  tinkex_rest_free(&rest);
  tinkex_service_options *settings = tinkex_service_options_new();
  tinkex_service_options_set_base_url(settings, NULL);
  REFUSED(TINKEX_ERROR_NULL, "url", service, tinkex_service_new(settings, &service, &error));
  tinkex_service_options_free(&settings);
  pending = update = POISON;
  EXPECT(TINKEX_ERROR_NULL, "optim", tinkex_training_train_step(w->training, w->batch, w->loss, NULL, &pending, &update, &error));
  CHECK(pending == NULL && update == NULL);
  /* An output that is NULL is a mistake, too, and nothing is sent then. */
  EXPECT(TINKEX_ERROR_NULL, "out", tinkex_service_new(NULL, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "out", tinkex_training_new(w->service, MODEL, NULL, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "out", tinkex_training_optim_step(w->training, w->adam, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "out", tinkex_queue_new(NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "update", tinkex_training_train_step(w->training, w->batch, w->loss, w->adam, &pending, NULL, &error));
  CHECK(pending == NULL);
  EXPECT(TINKEX_ERROR_NULL, "json", tinkex_batch_json(w->batch, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "handle", tinkex_sampling_handle(w->sampling, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "tokens", tinkex_batch_add_tokens(w->batch, NULL, 3, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "weights", tinkex_batch_add_weighted(w->batch, PROMPT, NULL, 3, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "offsets", tinkex_batch_add_tokens_many(w->batch, 1, NULL, PROMPT, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "name", tinkex_batch_set_f32(w->batch, 0, NULL, NULL, NULL, 0, &error));
  EXPECT(TINKEX_ERROR_NULL, "pending", tinkex_pending_wait(NULL, 0, NULL, &error));
  EXPECT(TINKEX_ERROR_NULL, "pendings", tinkex_wait_all(NULL, 1, 0, &n, &error));
  EXPECT(TINKEX_ERROR_NULL, "shape", tinkex_batch_set_f32(w->batch, 0, "advantages", NULL, NULL, 1, &error));
  EXPECT(TINKEX_ERROR_NULL, "values", tinkex_batch_set_f32(w->batch, 0, "advantages", NULL, (const size_t[]){3}, 1, &error));
  EXPECT(TINKEX_ERROR_NULL, "column_indices", tinkex_batch_set_csr_f32(w->batch, 0, "advantages", 1, 5, (const int64_t[]){0, 1}, NULL, NULL, &error));
  n = 7;
  EXPECT(TINKEX_ERROR_NULL, "outs", tinkex_sampling_sample_many(w->sampling, 1, (const int64_t[]){0, 3}, PROMPT, 1, NULL, NULL, &n, &error));
  CHECK(n == 0);
  /* A setter cannot fail: the function that uses the options reports the NULL that it was given. */
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_sample_options_set_stop_tokens(options, NULL, 3);
  REFUSED(TINKEX_ERROR_NULL, "stop", pending, tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, options, &pending, &error));
  tinkex_sample_options_free(&options);
  pending = NULL;
  EXPECT(TINKEX_ERROR_NULL, "pendings[0]", tinkex_wait_all(&pending, 1, 0, &n, &error));
  EXPECT(TINKEX_ERROR_NULL, "result", tinkex_result_output_f32(NULL, 0, "logprobs", &values, &n, &error));
  /* Without an error parameter there is only the code. */
  CHECK(tinkex_training_new(NULL, MODEL, NULL, &training, NULL) == TINKEX_ERROR_NULL && training == NULL);
  CHECK(tinkex_service_new(NULL, NULL, NULL) == TINKEX_ERROR_NULL);
  /* Functions without a code return NULL, 0, NaN or false. */
  CHECK(tinkex_batch_len(NULL) == 0 && tinkex_queue_take_done(NULL, NULL, 0, 0) == 0 && !tinkex_pending_is_done(NULL));
  CHECK(isnan(tinkex_result_metric(NULL, "x")) && tinkex_result_tokens(NULL, 0, &n) == NULL && n == 0);
  CHECK(tinkex_training_ref(NULL) == NULL && tinkex_training_model_id(NULL) == NULL && tinkex_queue_fd(NULL) == -1);
  CHECK(!tinkex_has_feature(NULL) && !tinkex_has_feature("no_such_feature") && tinkex_event_take_loss(NULL) == NULL && tinkex_error_message(NULL) == NULL);
  CHECK(tinkex_input_len(NULL) <= 0 && tinkex_graph_logprobs(NULL) == -1);
  tinkex_optim_set(NULL, "learning_rate", 1);
  tinkex_sample_options_set_max_tokens(NULL, 1);
  tinkex_loss_call_finish(NULL);
  tinkex_pending_cancel(NULL);
  OK(tinkex_queue_new(&queue, &error));
  EXPECT(TINKEX_ERROR_NULL, "pending", tinkex_pending_notify(NULL, queue, 0, &error));
  tinkex_queue_free(&queue);
}

static void frees(struct world *w) {
  tinkex_batch *batch = tinkex_batch_new();
#define FREES(type) do { tinkex_##type *none = NULL; tinkex_##type##_free(NULL); tinkex_##type##_free(&none); CHECK(none == NULL); } while (0)
  FREES(error); FREES(text); FREES(tokens); FREES(service_options); FREES(model_options); FREES(save_options); FREES(sample_options);
  FREES(download_options); FREES(server_options); FREES(service); FREES(training); FREES(sampling); FREES(rest); FREES(server); FREES(tokenizer); FREES(input);
  FREES(batch); FREES(loss); FREES(graph); FREES(optim); FREES(pending); FREES(status); FREES(cancel); FREES(queue); FREES(event);
  tinkex_pending *no_pending = NULL;
  tinkex_loss_call *no_call = NULL;
  tinkex_pending_detach(NULL);
  tinkex_pending_detach(&no_pending);
  tinkex_loss_call_finish(&no_call);
  CHECK(no_pending == NULL && no_call == NULL);
  tinkex_batch_free(&batch);
  CHECK(batch == NULL);
  tinkex_batch_free(&batch); /* the second free through the same variable */
  (void)w;
}

static void wrong_handles(struct world *w, int is_checked) {
  tinkex_training *training;
  tinkex_event *event;
  tinkex_queue *queue;
  tinkex_loss_call *call, *finished;
  tinkex_pending *pending;
  tinkex_batch *copy, *batch = tinkex_batch_new();
  REFUSED(TINKEX_ERROR_HANDLE, "sampling", pending, tinkex_sampling_sample_tokens(AS(tinkex_sampling, w->training), PROMPT, 3, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_HANDLE, "batch", pending, tinkex_training_forward(w->training, AS(tinkex_batch, w->loss), w->loss, &pending, &error));
  REFUSED(TINKEX_ERROR_HANDLE, "optim", pending, tinkex_training_optim_step(w->training, AS(tinkex_optim, w->batch), &pending, &error));
  EXPECT(TINKEX_ERROR_HANDLE, "pending", tinkex_pending_wait(AS(tinkex_pending, w->batch), 0, NULL, &error));
  CHECK(tinkex_batch_len(AS(tinkex_batch, w->loss)) == 0);
  const int64_t live = tinkex_live_objects();
  tinkex_loss *wrong = AS(tinkex_loss, batch);
  tinkex_loss_free(&wrong); /* is not a loss: nothing is freed */
  CHECK(wrong == NULL && tinkex_live_objects() == live && tinkex_batch_len(batch) == 0);
  copy = batch;
  tinkex_batch_free(&batch);
  if (is_checked) return; /* the rest reads freed memory, which a memory checker reports */
  EXPECT(TINKEX_ERROR_HANDLE, "batch", tinkex_batch_add_tokens(copy, PROMPT, 3, NULL, &error));
  tinkex_batch_free(&copy); /* the second free, through a copy: nothing is freed */
  CHECK(copy == NULL && tinkex_live_objects() == live - 1);
  /* A loss call that is finished a second time through a copy. */
  OK(tinkex_training_new(w->service, MODEL, NULL, &training, &error));
  OK(tinkex_queue_new(&queue, &error));
  OK(tinkex_training_forward_backward_pulled(training, w->batch, queue, 1, &pending, &error));
  OK(tinkex_queue_next(queue, 60000, &event, &error));
  finished = call = tinkex_event_take_loss(event);
  tinkex_event_free(&event);
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call);
  CHECK(tinkex_loss_call_count(finished) == 0 && tinkex_loss_call_gradients(finished) == NULL);
  tinkex_loss_call_finish(&finished);
  CHECK(call == NULL && finished == NULL);
  OK(tinkex_pending_wait(pending, -1, NULL, &error));
  tinkex_pending_free(&pending);
  tinkex_queue_free(&queue);
  tinkex_training_free(&training);
}

static void texts(struct world *w) {
  tinkex_pending *pending;
  tinkex_training *training;
  tinkex_service *service;
  tinkex_sampling *sampling;
  tinkex_loss *loss;
  tinkex_text *json;
  tinkex_rest *rest;
  REFUSED(TINKEX_ERROR_UTF8, "base_model", training, tinkex_training_new(w->service, BAD_UTF8, NULL, &training, &error));
  REFUSED(TINKEX_ERROR_UTF8, "name", pending, tinkex_training_save_state(w->training, BAD_UTF8, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_UTF8, "name", loss, tinkex_loss_new(BAD_UTF8, &loss, &error));
  EXPECT(TINKEX_ERROR_UTF8, "json", tinkex_batch_set_provenance(w->batch, 0, BAD_UTF8, &error));
  tinkex_service_options *options = tinkex_service_options_new();
  tinkex_service_options_add_header(options, "x-test", BAD_UTF8);
  REFUSED(TINKEX_ERROR_UTF8, "value", service, tinkex_service_new(options, &service, &error));
  tinkex_service_options_free(&options);
  tinkex_model_options *model = tinkex_model_options_new();
  tinkex_model_options_add_metadata(model, "key", BAD_UTF8);
  REFUSED(TINKEX_ERROR_UTF8, "value", training, tinkex_training_new(w->service, MODEL, model, &training, &error));
  tinkex_model_options_free(&model);
  model = tinkex_model_options_new();
  tinkex_model_options_add_field(model, "extra", BAD_UTF8);
  REFUSED(TINKEX_ERROR_UTF8, "json", training, tinkex_training_new(w->service, MODEL, model, &training, &error));
  tinkex_model_options_free(&model);
  /* JSON that is none. Metadata is text, so that only further fields and the settings of an optimizer can be wrong here. */
  model = tinkex_model_options_new();
  tinkex_model_options_add_field(model, "extra", "{\"open\": ");
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "extra_fields[\"extra\"]", training, tinkex_training_new(w->service, MODEL, model, &training, &error));
  tinkex_model_options_free(&model);
  model = tinkex_model_options_new();
  tinkex_model_options_set_optimizer(model, "dimuon", "[1");
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "optimizer", training, tinkex_training_new(w->service, MODEL, model, &training, &error));
  tinkex_model_options_free(&model);
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "json", tinkex_batch_set_provenance(w->batch, 0, "{", &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "handle", sampling, tinkex_sampling_from_handle("{", &sampling, &error));
  OK(tinkex_service_rest(w->service, &rest, &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "query_json", json, tinkex_rest_search_sessions(rest, "[", NULL, &json, &error));
  REFUSED(TINKEX_ERROR_NOT_FOUND, NULL, json, tinkex_rest_get_run(rest, "no-such-run", &json, &error));
  tinkex_rest_free(&rest);
}

static void arrays(struct world *w) {
  const float weights[] = {0, 1, 1};
  const int64_t falls[] = {0, 3, 2}, late[] = {1, 2, 3}, negative[] = {0, -1, 3}, right[] = {0, 2, 3}, far[] = {0, 2, INT64_MAX};
  const size_t huge[] = {SIZE_MAX, 4}, wraps[] = {SIZE_MAX / 2 + 1, 2}; /* the second product is 0 if it is cut off */
  tinkex_pending *pending, *pendings[2] = {POISON, POISON};
  tinkex_batch *batch = tinkex_batch_new();
  size_t n = 7;
  EXPECT(TINKEX_ERROR_LENGTH, "tokens", tinkex_batch_add_tokens(batch, PROMPT, SIZE_MAX, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "tokens", tinkex_batch_add_tokens(batch, PROMPT, PTRDIFF_MAX / sizeof *PROMPT + 1, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "pendings", tinkex_wait_all(pendings, SIZE_MAX, 0, NULL, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[2]", tinkex_batch_add_tokens_many(batch, 2, falls, PROMPT, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[0]", tinkex_batch_add_tokens_many(batch, 2, late, PROMPT, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[1]", tinkex_batch_add_weighted_many(batch, 2, negative, PROMPT, weights, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "tokens", tinkex_batch_add_weighted_many(batch, 2, far, PROMPT, weights, &n, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[2]", tinkex_sampling_sample_many(w->sampling, 2, falls, PROMPT, 1, NULL, pendings, &n, &error));
  CHECK(pendings[0] == NULL && pendings[1] == NULL && n == 0);
  EXPECT(TINKEX_ERROR_LENGTH, "offsets", tinkex_batch_add_tokens_many(batch, SIZE_MAX, right, PROMPT, &n, &error));
  CHECK(tinkex_batch_len(batch) == 0); /* nothing was half added */
  OK(tinkex_batch_add_tokens(batch, PROMPT, 3, &n, &error));
  CHECK(n == 0);
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[0]", tinkex_batch_set_all_f32(batch, 0, 1, "advantages", late, weights, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "offsets[2]", tinkex_batch_set_all_i32(batch, 0, 2, "target_tokens", falls, PROMPT, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "values", tinkex_batch_set_all_f32(batch, 0, 2, "advantages", far, weights, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "row_offsets[0]", tinkex_batch_set_csr_i64(batch, 0, "target_tokens", 2, 3, late, right, right, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "column_indices", tinkex_batch_set_csr_f32(batch, 0, "advantages", 2, 3, far, right, weights, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "shape", tinkex_batch_set_f32(batch, 0, "advantages", weights, huge, 2, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "shape", tinkex_batch_set_f32(batch, 0, "advantages", weights, wraps, 2, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "values", tinkex_batch_set_f32(batch, 0, "advantages", weights, (const size_t[]){SIZE_MAX}, 1, &error));
  EXPECT(TINKEX_ERROR_LENGTH, "row_offsets[2]", tinkex_batch_set_csr_f32(batch, 0, "advantages", 2, 3, falls, right, weights, &error));
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "advantages", tinkex_batch_set_csr_f32(batch, 0, "advantages", 2, 3, right, right, weights, &error));
  EXPECT(TINKEX_ERROR_RANGE, NULL, tinkex_batch_set_f32(batch, 1, "advantages", weights, (const size_t[]){3}, 1, &error));
  EXPECT(TINKEX_ERROR_RANGE, NULL, tinkex_batch_set_provenance(batch, 1, "{\"model_input\": [], \"loss_fn_inputs\": []}", &error));
  EXPECT(TINKEX_ERROR_RANGE, NULL, tinkex_batch_set_all_f32(batch, 0, 2, "advantages", right, weights, &error));
  /* A ragged array has one value for each token of its example, and so has a tensor: two weights for three tokens. */
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "weights", tinkex_batch_set_all_f32(batch, 0, 1, "weights", right, weights, &error));
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "weights", tinkex_batch_set_f32(batch, 0, "weights", weights, (const size_t[]){2}, 1, &error));
  /* Two targets for three tokens, none, and an empty batch: found before anything is sent. */
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "target_tokens", tinkex_batch_set_i32(batch, 0, "target_tokens", ANSWER, (const size_t[]){2}, 1, &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, NULL, pending, tinkex_training_forward(w->training, batch, w->loss, &pending, &error));
  tinkex_batch_clear(batch);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, NULL, pending, tinkex_training_forward(w->training, batch, w->loss, &pending, &error));
  tinkex_batch_free(&batch);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, NULL, pending, tinkex_sampling_sample_tokens(w->sampling, NULL, 0, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, NULL, pending, tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 0, NULL, &pending, &error));
  tinkex_sample_options *options = tinkex_sample_options_new();
  tinkex_sample_options_set_targets(options, falls, SIZE_MAX, 2);
  REFUSED(TINKEX_ERROR_LENGTH, "targets", pending, tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, options, &pending, &error));
  tinkex_sample_options_free(&options);
  const int32_t wrong[] = {104, -1, 32};
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "prompt[1]", pending, tinkex_sampling_sample_tokens(w->sampling, wrong, 3, 1, NULL, &pending, &error));
}

/* A setter with a name that its options do not have. Losses have no such case: the server checks their options. */
enum options { SERVICE, A_MODEL, SAMPLE, SERVER };
static void of_timeout(void *options) { tinkex_service_options_set_timeout(options, "no_such_name", 5); }
static void of_flag(void *options) { tinkex_service_options_set_flag(options, "no_such_name", 1); }
static void of_number(void *options) { tinkex_service_options_set_number(options, "no_such_name", 1); }
static void of_text(void *options) { tinkex_service_options_set_text(options, "no_such_name", "x"); }
static void of_model_flag(void *options) { tinkex_model_options_set_flag(options, "no_such_name", 1); }
static void of_model_text(void *options) { tinkex_model_options_set_text(options, "no_such_name", "x"); }
static void of_sample(void *options) { tinkex_sample_options_set_number(options, "no_such_name", 1); }
static void of_server_number(void *options) { tinkex_server_options_set_number(options, "no_such_name", 1); }
static void of_server_text(void *options) { tinkex_server_options_set_text(options, "no_such_name", "x"); }
static const struct {
  enum options of;
  void (*set)(void *options);
} UNKNOWN[] = {{SERVICE, of_timeout}, {SERVICE, of_flag}, {SERVICE, of_number}, {SERVICE, of_text}, {A_MODEL, of_model_flag},
               {A_MODEL, of_model_text}, {SAMPLE, of_sample}, {SERVER, of_server_number}, {SERVER, of_server_text}};

static void unknown_options(struct world *w) {
  for (size_t i = 0; i < sizeof UNKNOWN / sizeof *UNKNOWN; i++) {
    tinkex_pending *pending;
    tinkex_training *training;
    tinkex_service *service;
    tinkex_server *server;
    tinkex_service_options *of_service = tinkex_service_options_new();
    tinkex_model_options *of_model = tinkex_model_options_new();
    tinkex_sample_options *of_samples = tinkex_sample_options_new();
    tinkex_server_options *of_server = tinkex_server_options_new();
    void *const all[] = {of_service, of_model, of_samples, of_server};
    UNKNOWN[i].set(all[UNKNOWN[i].of]);
    switch (UNKNOWN[i].of) {
      case SERVICE: REFUSED(TINKEX_ERROR_NAME, "no_such_name", service, tinkex_service_new(of_service, &service, &error)); break;
      case A_MODEL: REFUSED(TINKEX_ERROR_NAME, "no_such_name", training, tinkex_training_new(w->service, MODEL, of_model, &training, &error)); break;
      case SAMPLE: REFUSED(TINKEX_ERROR_NAME, "no_such_name", pending, tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, of_samples, &pending, &error)); break;
      case SERVER: REFUSED(TINKEX_ERROR_NAME, "no_such_name", server, tinkex_server_new(of_server, &server, &error)); break;
    }
    tinkex_service_options_free(&of_service);
    tinkex_model_options_free(&of_model);
    tinkex_sample_options_free(&of_samples);
    tinkex_server_options_free(&of_server);
  }
}

/* Settings that a function lacks are no unknown names: they exist, and are the wrong value for it. */
static void settings_of_others(struct world *w) {
  tinkex_pending *pending;
  tinkex_training *training;
  tinkex_save_options *save = tinkex_save_options_new();
  tinkex_save_options_set_overwrite(save, 1);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "overwrite", pending, tinkex_training_save_for_sampler(w->training, "x", save, &pending, &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "overwrite", pending, tinkex_training_save_external(w->training, "x", save, &pending, &error));
  tinkex_save_options_free(&save);
  save = tinkex_save_options_new();
  tinkex_save_options_add_metadata(save, "key", "value");
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "metadata", pending, tinkex_training_save_external(w->training, "x", save, &pending, &error));
  tinkex_save_options_free(&save);
  save = tinkex_save_options_new();
  tinkex_save_options_add_recipient(save, "age1");
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "recipients", pending, tinkex_training_save_state(w->training, "x", save, &pending, &error));
  tinkex_save_options_free(&save);
  save = tinkex_save_options_new();
  tinkex_save_options_set_ttl(save, 59);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "ttl", pending, tinkex_training_save_state(w->training, "x", save, &pending, &error));
  tinkex_save_options_free(&save);
  tinkex_model_options *model = tinkex_model_options_new();
  tinkex_model_options_set_rank(model, 8);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "rank", training, tinkex_training_from_state(w->service, "tinker://run/weights/x", 0, model, &training, &error));
  tinkex_model_options_free(&model);
  model = tinkex_model_options_new();
  tinkex_model_options_set_text(model, "access_token", "x");
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "access_token", training, tinkex_training_new(w->service, MODEL, model, &training, &error));
  tinkex_model_options_free(&model);
}

/* A mistake in a graph: the function returns -1, and create_loss reports the first one. */
static void in_graph(struct world *w, int32_t (*act)(tinkex_graph *graph), tinkex_code code, const char *path) {
  tinkex_graph *graph;
  tinkex_pending *pending;
  OK(tinkex_graph_new("test", 1, &graph, &error));
  CHECK(act(graph) == -1);
  for (int i = 0; i < 2; i++) { /* it stays, also after another mistake */
    REFUSED(code, path, pending, tinkex_service_create_loss(w->service, graph, &pending, &error));
    CHECK(tinkex_graph_unary(graph, "another_op", 99) == -1);
  }
  tinkex_graph_free(&graph);
}
static int32_t unknown_unary(tinkex_graph *graph) { return tinkex_graph_unary(graph, "no_such_op", tinkex_graph_logprobs(graph)); }
static int32_t unknown_binary(tinkex_graph *graph) { return tinkex_graph_binary(graph, "no_such_op", tinkex_graph_logprobs(graph), 0); }
static int32_t unknown_along(tinkex_graph *graph) { return tinkex_graph_along(graph, "no_such_op", tinkex_graph_logprobs(graph), 0); }
static int32_t no_node(tinkex_graph *graph) { return tinkex_graph_binary(graph, "add", tinkex_graph_logprobs(graph), 7); }
static int32_t no_text(tinkex_graph *graph) { return tinkex_graph_unary(graph, NULL, tinkex_graph_logprobs(graph)); }
static int32_t no_utf8(tinkex_graph *graph) { return tinkex_graph_input(graph, BAD_UTF8, 1); }
static int32_t number_as_tensor(tinkex_graph *graph) { return tinkex_graph_unary(graph, "exp", tinkex_graph_number(graph, 2)); }

static void names(struct world *w) {
  tinkex_pending *pending;
  tinkex_loss *loss;
  tinkex_optim *optim;
  tinkex_tokenizer *tokenizer;
  REFUSED(TINKEX_ERROR_NAME, "no_such_loss", loss, tinkex_loss_new("no_such_loss", &loss, &error));
  REFUSED(TINKEX_ERROR_UNSUPPORTED, "name_or_path", tokenizer, tinkex_tokenizer_new("no/such-tokenizer", &tokenizer, &error));
  REFUSED(TINKEX_ERROR_NAME, "no_such_optimizer", optim, tinkex_optim_new("no_such_optimizer", &optim, &error));
  tinkex_sample_options *sample = tinkex_sample_options_new();
  tinkex_sample_options_set_number(sample, "first_mistake", 1);
  tinkex_sample_options_set_number(sample, "second_mistake", 1);
  tinkex_sample_options_set_max_tokens(sample, 1);
  for (int i = 0; i < 2; i++) { /* the first mistake stays, and is reported each time */
    tinkex_error *error = NULL;
    CHECK(tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, sample, &pending, &error) == TINKEX_ERROR_NAME && pending == NULL);
    CHECK(strstr(tinkex_error_message(error), "first_mistake") && !strstr(tinkex_error_message(error), "second_mistake"));
    tinkex_error_free(&error);
  }
  tinkex_sample_options_free(&sample);
  OK(tinkex_optim_new("adam", &optim, &error));
  tinkex_optim_set(optim, "no_such_parameter", 1);
  REFUSED(TINKEX_ERROR_NAME, "no_such_parameter", pending, tinkex_training_optim_step(w->training, optim, &pending, &error));
  tinkex_optim_free(&optim);
  in_graph(w, unknown_unary, TINKEX_ERROR_NAME, "no_such_op");
  in_graph(w, unknown_binary, TINKEX_ERROR_NAME, "no_such_op");
  in_graph(w, unknown_along, TINKEX_ERROR_NAME, "no_such_op");
  in_graph(w, no_node, TINKEX_ERROR_RANGE, "nodes[1].b");
  in_graph(w, no_text, TINKEX_ERROR_NULL, "op");
  in_graph(w, no_utf8, TINKEX_ERROR_UTF8, "name");
  in_graph(w, number_as_tensor, TINKEX_ERROR_KIND, NULL);
  unknown_options(w);
  settings_of_others(w);
  const double rates[] = {(double)NAN, -1, (double)INFINITY};
  for (int i = 0; i < 3; i++) {
    OK(tinkex_optim_new("adam", &optim, &error));
    tinkex_optim_set(optim, "learning_rate", rates[i]);
    for (int k = 0; k < 2; k++) { /* a right value does not replace the mistake, nor does another mistake */
      REFUSED(TINKEX_ERROR_INVALID_INPUT, "adam_params.learning_rate", pending, tinkex_training_optim_step(w->training, optim, &pending, &error));
      tinkex_optim_set(optim, "learning_rate", 1e-4);
      tinkex_optim_set(optim, "no_such_parameter", 1);
    }
    tinkex_optim_free(&optim);
  }
  CHECK(strcmp(tinkex_code_name(TINKEX_ERROR_NAME), "TINKEX_ERROR_NAME") == 0 && tinkex_code_name(-5) != NULL);
}

static void results(struct world *w) {
  tinkex_pending *pending = NULL;
  const tinkex_result *result = NULL;
  const int64_t *offsets, *ints;
  const int32_t *tokens;
  const float *values;
  const size_t *shape;
  tinkex_training *training;
  tinkex_sampling *sampling;
  size_t n;
  OK(tinkex_training_forward(w->training, w->batch, w->loss, &pending, &error));
  OK(tinkex_pending_wait(pending, -1, &result, &error));
  CHECK(tinkex_result_kind(result) == TINKEX_RESULT_PASS && tinkex_result_example_count(result) == tinkex_batch_len(w->batch));
  REFUSED(TINKEX_ERROR_KIND, NULL, values, tinkex_result_topk(result, 0, &offsets, &tokens, &values, &error));
  REFUSED(TINKEX_ERROR_KIND, NULL, ints, tinkex_result_output_i64(result, 0, "logprobs", &ints, &n, &error));
  REFUSED(TINKEX_ERROR_KIND, NULL, training, tinkex_result_training(result, &training, &error));
  REFUSED(TINKEX_ERROR_KIND, NULL, sampling, tinkex_result_sampling(result, &sampling, &error));
  const size_t past = tinkex_batch_len(w->batch); /* the first number that there is not */
  REFUSED(TINKEX_ERROR_RANGE, "example", values, tinkex_result_output_f32(result, past, "logprobs", &values, &n, &error));
  CHECK(n == 0);
  REFUSED(TINKEX_ERROR_RANGE, "example", ints, tinkex_result_output_i64(result, past, "logprobs", &ints, &n, &error));
  REFUSED(TINKEX_ERROR_RANGE, "example", shape, tinkex_result_output_shape(result, past, "logprobs", &shape, &n, &error));
  REFUSED(TINKEX_ERROR_RANGE, "example", values, tinkex_result_output_f32(result, SIZE_MAX, "logprobs", &values, &n, &error));
  EXPECT(TINKEX_ERROR_NULL, "values", tinkex_result_output_f32(result, 0, "logprobs", NULL, &n, &error));
  REFUSED(TINKEX_ERROR_NULL, "name", values, tinkex_result_output_f32(result, 0, NULL, &values, &n, &error));
  REFUSED(TINKEX_ERROR_NAME, NULL, values, tinkex_result_output_f32(result, 0, "no_such_output", &values, &n, &error));
  OK(tinkex_result_output_f32(result, 0, "logprobs", &values, &n, &error));
  CHECK(n == 5 && values != NULL && values[4] < 0);
  OK(tinkex_result_outputs_f32(result, "logprobs", &offsets, &values, &error));
  CHECK(offsets[0] == 0 && offsets[1] == 5);
  CHECK(tinkex_result_tokens(result, 0, &n) == NULL && n == 0 && tinkex_result_sequence_count(result) == 0);
  CHECK(tinkex_result_path(result) == NULL && isnan(tinkex_result_metric(result, "no_such_metric")) && tinkex_result_json(result) != NULL);
  tinkex_pending_free(&pending);
  OK(tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, NULL, &pending, &error));
  OK(tinkex_pending_wait(pending, -1, &result, &error));
  EXPECT(TINKEX_ERROR_NULL, "out", tinkex_pending_status(pending, NULL, &error));
  CHECK(tinkex_result_kind(result) == TINKEX_RESULT_SAMPLE && tinkex_result_tokens(result, 0, &n) != NULL && n > 0);
  CHECK(tinkex_result_tokens(result, 1, &n) == NULL && n == 0 && tinkex_result_logprobs(result, 1, &n) == NULL);
  CHECK(tinkex_result_sequence_id(result, 1) == NULL && tinkex_result_metric_name(result, 0) == NULL);
  REFUSED(TINKEX_ERROR_KIND, NULL, values, tinkex_result_topk(result, 0, &offsets, &tokens, &values, &error)); /* not asked for */
  REFUSED(TINKEX_ERROR_RANGE, "sequence", values, tinkex_result_topk(result, 1, &offsets, &tokens, &values, &error));
  REFUSED(TINKEX_ERROR_KIND, NULL, values, tinkex_result_output_f32(result, 0, "logprobs", &values, &n, &error));
  tinkex_pending_free(&pending);
}

static atomic_int n_loss_released, n_closed;
static void loss_released(void *user) { atomic_fetch_add((atomic_int *)user, 1); }
static int32_t never(void *user, tinkex_loss_call *call) {
  (void)user, (void)call;
  stop_test(__FILE__, __LINE__, "a refused custom loss was called");
  return 1;
}

static void lifecycle(struct world *w) {
  tinkex_queue *queue;
  tinkex_event *event;
  tinkex_service *service = serve_on(w->server);
  tinkex_training *training, *other;
  tinkex_sampling *sampling, *sampler;
  tinkex_pending *pending = NULL, *update;
  tinkex_graph *graph;
  tinkex_text *json;
  OK(tinkex_training_new(service, MODEL, NULL, &training, &error));
  OK(tinkex_sampling_new(service, MODEL, &sampling, &error));
  /* A pass that is in flight at the close. It waits for its loss, which was taken and is not finished: so it cannot end, and no
   * request of it is on the way, which a server that has ended the session would answer with another failure. */
  OK(tinkex_queue_new(&queue, &error));
  OK(tinkex_training_forward_backward_pulled(training, w->batch, queue, 1, &pending, &error));
  OK(tinkex_queue_next(queue, 60000, &event, &error));
  tinkex_loss_call *call = tinkex_event_take_loss(event);
  tinkex_event_free(&event);
  OK(tinkex_service_close(service, TINKEX_CLOSE_SUCCESS, NULL, &error));
  OK(tinkex_service_close(service, TINKEX_CLOSE_ERRORED, "again", &error)); /* does nothing more */
  EXPECT(TINKEX_ERROR_CLOSED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  tinkex_loss_call_set_loss(call, 1);
  tinkex_loss_call_finish(&call); /* too late, and harmless */
  EXPECT(TINKEX_ERROR_CLOSED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  tinkex_pending_free(&pending);
  tinkex_queue_free(&queue);
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_training_optim_step(training, w->adam, &pending, &error));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_sampling_sample_tokens(sampling, PROMPT, 3, 1, NULL, &pending, &error));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, other, tinkex_training_new(service, MODEL, NULL, &other, &error));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, sampler, tinkex_sampling_new(service, MODEL, &sampler, &error));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, sampler, tinkex_training_sampler(training, 0, &sampler, &error));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_training_save_state(training, "x", NULL, &pending, &error));
  update = POISON;
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_training_train_step(training, w->batch, w->loss, w->adam, &pending, &update, &error));
  CHECK(update == NULL);
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_training_forward_backward_custom(training, w->batch, never, &n_closed, loss_released, &pending, &error));
  for (int i = 0; i < 1000 && n_closed == 0; i++) pause_ms(10); /* may be on a thread of the client */
  CHECK(n_closed == 1);
  OK(tinkex_graph_new("test", 1, &graph, &error));
  tinkex_graph_result(graph, tinkex_graph_unary(graph, "sum", tinkex_graph_logprobs(graph)));
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_service_create_loss(service, graph, &pending, &error));
  tinkex_graph_free(&graph);
  tinkex_service_free(&service); /* before its children */
  tinkex_training_free(&training);
  tinkex_sampling_free(&sampling);
  /* One client is closed, twice. Its other handles are closed with it; the service goes on. */
  OK(tinkex_training_new(w->service, MODEL, NULL, &training, &error));
  other = tinkex_training_ref(training);
  tinkex_training_close(training);
  tinkex_training_close(training);
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_training_forward(other, w->batch, w->loss, &pending, &error));
  tinkex_training_free(&other);
  tinkex_training_free(&training);
  OK(tinkex_sampling_new(w->service, MODEL, &sampling, &error));
  tinkex_sampling_close(sampling);
  tinkex_sampling_close(sampling);
  REFUSED(TINKEX_ERROR_CLOSED, NULL, pending, tinkex_sampling_sample_tokens(sampling, PROMPT, 3, 1, NULL, &pending, &error));
  tinkex_sampling_free(&sampling);
  /* A status that is none. */
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "status", tinkex_service_close(w->service, 77, NULL, &error));
  /* A sample long enough not to be done yet: not yet (no allocation without an error parameter), then cancelled. */
  tinkex_sample_options *slow = tinkex_sample_options_new();
  tinkex_sample_options_set_max_tokens(slow, 1000);
  OK(tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 8, slow, &pending, &error));
  EXPECT(TINKEX_ERROR_TIMEOUT_WAIT, NULL, tinkex_pending_wait(pending, 0, NULL, &error));
  const int64_t live = tinkex_live_objects();
  CHECK(tinkex_pending_wait(pending, 1, NULL, NULL) == TINKEX_ERROR_TIMEOUT_WAIT && tinkex_live_objects() == live);
  tinkex_pending_cancel(pending);
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(pending, -1, NULL, &error)); /* as often as wanted */
  tinkex_pending_free(&pending);
  tinkex_cancel *cancel = tinkex_cancel_new();
  sampling = tinkex_sampling_with_cancel(w->sampling, cancel);
  OK(tinkex_sampling_sample_tokens(sampling, PROMPT, 3, 8, slow, &pending, &error));
  tinkex_cancel_now(cancel);
  EXPECT(TINKEX_ERROR_CANCELLED, NULL, tinkex_pending_wait(pending, -1, NULL, &error));
  tinkex_pending_free(&pending);
  tinkex_sampling_free(&sampling);
  tinkex_cancel_free(&cancel);
  tinkex_sample_options_free(&slow);
  /* A wrong key, and a model that the server does not have. */
  tinkex_service_options *options = tinkex_service_options_new();
  tinkex_service_options_set_base_url(options, tinkex_server_url(w->server));
  tinkex_service_options_set_api_key(options, "tml-wrong");
  OK(tinkex_service_new(options, &service, &error)); /* sends nothing */
  REFUSED(TINKEX_ERROR_AUTH, NULL, training, tinkex_training_new(service, MODEL, NULL, &training, &error));
  tinkex_service_free(&service);
  tinkex_service_options_free(&options);
  other = POISON;
  CHECK(tinkex_training_new(w->service, "no/such-model", NULL, &other, NULL) != TINKEX_OK && other == NULL);
  OK(tinkex_service_metrics(w->service, &json, &error));
  CHECK(tinkex_text_len(json) == strlen(tinkex_text_data(json)) && tinkex_text_len(json) > 0);
  tinkex_text_free(&json);
}

static atomic_int n_waiting;
static void *next_event(void *queue) {
  tinkex_event *event = NULL;
  atomic_fetch_add(&n_waiting, 1);
  OK(tinkex_queue_next(queue, -1, &event, &error));
  CHECK(tinkex_event_kind(event) == TINKEX_EVENT_WOKEN);
  tinkex_event_free(&event);
  return NULL;
}

static void *next_tags(void *queue) {
  uint64_t tag;
  atomic_fetch_add(&n_waiting, 1);
  CHECK(tinkex_queue_take_done(queue, &tag, 1, -1) == 0);
  return NULL;
}

static void queues(struct world *w) {
  tinkex_queue *queue;
  tinkex_event *event;
  tinkex_pending *pending;
  uint64_t tags[4];
  pthread_t waiters[2];
  OK(tinkex_queue_new(&queue, &error));
  REFUSED(TINKEX_ERROR_TIMEOUT_WAIT, NULL, event, tinkex_queue_next(queue, 0, &event, &error));
  CHECK(tinkex_queue_take_done(queue, tags, 4, 1) == 0 && tinkex_queue_take_done(queue, NULL, 4, 0) == 0);
  CHECK(tinkex_queue_fd(queue) >= 0 && tinkex_queue_fd(queue) == tinkex_queue_fd(queue));
  OK(tinkex_sampling_sample_tokens(w->sampling, PROMPT, 3, 1, NULL, &pending, &error));
  OK(tinkex_pending_notify(pending, queue, 5, &error));
  CHECK(tinkex_queue_take_done(queue, tags, 4, -1) == 1 && tags[0] == 5);
  OK(tinkex_pending_notify(pending, queue, 6, &error)); /* has ended: the event comes at once */
  tinkex_pending_free(&pending); /* and goes with its operation */
  CHECK(tinkex_queue_take_done(queue, tags, 4, 0) == 0);
  tinkex_queue_wake(queue);
  OK(tinkex_queue_next(queue, 0, &event, &error));
  CHECK(tinkex_event_kind(event) == TINKEX_EVENT_WOKEN && tinkex_event_take_loss(event) == NULL);
  tinkex_event_free(&event);
  /* The queue is freed while threads wait in it. */
  CHECK(pthread_create(&waiters[0], NULL, next_event, queue) == 0 && pthread_create(&waiters[1], NULL, next_tags, queue) == 0);
  while (n_waiting < 2) pause_ms(1);
  pause_ms(200); /* nothing tells when a thread is inside of the call */
  tinkex_queue_free(&queue);
  for (int i = 0; i < 2; i++) pthread_join(waiters[i], NULL);
}

static atomic_int n_records, n_inside, n_released;
static void log_and_log(void *user, int32_t level, const char *target, const char *message) {
  CHECK(atomic_fetch_add(&n_inside, 1) == 0); /* one call at a time, and none from inside a call */
  CHECK(user == (void *)&n_records && level >= TINKEX_LOG_ERROR && level <= TINKEX_LOG_TRACE && target && message);
  atomic_fetch_add(&n_records, 1);
  CHECK(tinkex_batch_len(AS(tinkex_batch, POISON)) == 0); /* logs an error, whose record is dropped */
  atomic_fetch_sub(&n_inside, 1);
}
static void released(void *user) {
  (void)user;
  atomic_fetch_add(&n_released, 1);
}

static void logging(struct world *w) {
  tinkex_queue *queue;
  /* Refused calls release, and do not count as the one that sets the target. */
  EXPECT(TINKEX_ERROR_NULL, "log", tinkex_log_to_callback(TINKEX_LOG_ERROR, NULL, &n_records, released, &error));
  EXPECT(TINKEX_ERROR_INVALID_INPUT, "level", tinkex_log_to_callback(TINKEX_LOG_TRACE + 1, log_and_log, &n_records, released, &error));
  EXPECT(TINKEX_ERROR_NULL, "queue", tinkex_log_to_queue(TINKEX_LOG_ERROR, NULL, 1, &error));
  CHECK(atomic_exchange(&n_released, 0) == 2 && n_records == 0);
  OK(tinkex_log_to_callback(TINKEX_LOG_ERROR, log_and_log, &n_records, released, &error));
  CHECK(n_released == 0);
  EXPECT(TINKEX_ERROR_ALREADY, NULL, tinkex_log_to_callback(TINKEX_LOG_ERROR, log_and_log, &n_records, released, &error));
  CHECK(n_released == 1); /* also when registering fails */
  EXPECT(TINKEX_ERROR_ALREADY, NULL, tinkex_log_to_stderr(TINKEX_LOG_ERROR, &error));
  OK(tinkex_queue_new(&queue, &error));
  EXPECT(TINKEX_ERROR_ALREADY, NULL, tinkex_log_to_queue(TINKEX_LOG_ERROR, queue, 1, &error));
  tinkex_queue_free(&queue);
  CHECK(tinkex_batch_len(AS(tinkex_batch, w->loss)) == 0);
  CHECK(n_records >= 1);
  tinkex_log_set_level(TINKEX_LOG_OFF);
  const int n = n_records;
  CHECK(tinkex_batch_len(AS(tinkex_batch, w->loss)) == 0 && n_records == n);
}

static void releases(struct world *w) {
  tinkex_pending *pending;
  REFUSED(TINKEX_ERROR_NULL, NULL, pending, tinkex_training_forward_backward_custom(NULL, w->batch, never, &n_loss_released, loss_released, &pending, &error));
  CHECK(n_loss_released == 1);
  EXPECT(TINKEX_ERROR_NULL, NULL, tinkex_training_forward_backward_custom(w->training, w->batch, never, &n_loss_released, loss_released, NULL, &error));
  CHECK(n_loss_released == 2);
  tinkex_service_options *options = tinkex_service_options_new();
  tinkex_service_options_set_observer(options, NULL, &n_loss_released, loss_released);
  tinkex_service_options_free(&options);
  CHECK(n_loss_released == 3);
  tinkex_service_options_set_observer(NULL, NULL, &n_loss_released, loss_released);
  CHECK(n_loss_released == 4);
}

/* A build without the engine has the same functions. */
static int without_engine(void) {
  tinkex_server *server;
  REFUSED(TINKEX_ERROR_UNSUPPORTED, NULL, server, tinkex_server_new(NULL, &server, &error));
  CHECK(tinkex_server_url(NULL) == NULL && tinkex_server_api_key(NULL) == NULL);
  return done("misuse, without the engine");
}

int main(int argc, char **argv) {
  const int is_checked = argc > 1 && strcmp(argv[1], "--tools") == 0;
  struct world w;
  alarm(600);
  CHECK(tinkex_version_number() == TINKEX_VERSION_NUMBER && tinkex_abi_version() == 0 && tinkex_live_objects() == 0);
  if (!tinkex_has_feature("local")) return without_engine();
  CHECK(tinkex_has_feature("testing") == (tinkex_testing_panic_next != NULL)); /* else the panic below would be left out */
  build(&w);
  null_pointers(&w);
  frees(&w);
  wrong_handles(&w, is_checked);
  texts(&w);
  arrays(&w);
  names(&w);
  results(&w);
  lifecycle(&w);
  queues(&w);
  releases(&w);
  logging(&w);
  if (tinkex_testing_panic_next) {
    tinkex_loss *loss = POISON;
    tinkex_error *error = NULL;
    tinkex_testing_panic_next();
    CHECK(tinkex_loss_new("cross_entropy", &loss, &error) == TINKEX_ERROR_PANIC && loss == NULL);
    CHECK(tinkex_error_code(error) == TINKEX_ERROR_PANIC && !tinkex_error_is_user_error(error));
    CHECK(strstr(tinkex_error_message(error), "panicked: a panic that a test injected"));
    tinkex_error_free(&error);
  }
  still_works(&w);
  demolish(&w);
  return done("misuse");
}
