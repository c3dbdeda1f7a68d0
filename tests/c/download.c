/* Downloads of checkpoints: whole ones from the embedded engine, compared byte by byte, and cancelled ones from a scripted
 * server, which leave nothing at the destination and are continued. */
#include "rig.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

static char folder[64];

/* A path in the folder of this test, valid until the fourth call from now. */
static const char *in_folder(const char *name) {
  static char paths[4][400];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static int exists(const char *name) {
  struct stat found;
  return lstat(in_folder(name), &found) == 0;
}

/* Content of a file or of an answer. */
struct bytes { char *data; size_t n; };

static struct bytes file_bytes(const char *path) {
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  struct bytes bytes = {NULL, (size_t)ftell(file)};
  rewind(file);
  bytes.data = malloc(bytes.n + 1);
  CHECK(bytes.data != NULL && fread(bytes.data, 1, bytes.n, file) == bytes.n);
  fclose(file);
  return bytes;
}

static int is_same(struct bytes a, struct bytes b) { return a.n == b.n && a.n > 0 && memcmp(a.data, b.data, a.n) == 0; }

/* --- progress ------------------------------------------------------------------------------------------------------ */
/* What the callback saw last, and what it shall do. */
struct seen {
  pthread_t caller;
  tinkex_cancel *cancel; /* is cancelled when `cancel_at` bytes have arrived, 0: never */
  int64_t cancel_at;
  atomic_int is_inside, n_calls, n_foreign, n_released, last_phase, has_prepared;
  atomic_llong first_bytes, bytes, total_bytes, files, total_files;
};

static void on_progress(void *user, const tinkex_progress *progress) {
  struct seen *seen = user;
  CHECK(atomic_exchange(&seen->is_inside, 1) == 0); /* calls never overlap */
  if (!pthread_equal(pthread_self(), seen->caller)) seen->n_foreign++;
  const int phase = tinkex_progress_phase(progress);
  const int64_t bytes = tinkex_progress_bytes(progress), total = tinkex_progress_total_bytes(progress);
  const tinkex_error *failure = tinkex_progress_error(progress);
  CHECK(phase >= TINKEX_PHASE_PREPARING && phase <= TINKEX_PHASE_UNPACKING && (failure != NULL) == (phase == TINKEX_PHASE_RETRYING));
  CHECK(bytes >= 0 && total >= -1 && (total < 0 || bytes <= total));
  CHECK(seen->n_calls > 0 || (phase == TINKEX_PHASE_PREPARING && total == -1 && tinkex_progress_total_files(progress) == -1));
  if (phase == TINKEX_PHASE_PREPARING) seen->has_prepared = 1;
  if (phase == TINKEX_PHASE_RECEIVING && seen->first_bytes < 0) seen->first_bytes = bytes;
  seen->n_calls++;
  seen->last_phase = phase;
  seen->bytes = bytes;
  seen->total_bytes = total;
  seen->files = tinkex_progress_files(progress);
  seen->total_files = tinkex_progress_total_files(progress);
  if (seen->cancel_at > 0 && bytes >= seen->cancel_at) tinkex_cancel_now(seen->cancel);
  seen->is_inside = 0;
}

static void on_release(void *user) { ((struct seen *)user)->n_released++; }

static void forget(struct seen *seen) {
  memset(seen, 0, sizeof *seen);
  seen->caller = pthread_self();
  seen->first_bytes = -1;
}

static tinkex_download_options *options_to(const char *destination, struct seen *seen) {
  tinkex_download_options *options = tinkex_download_options_new();
  tinkex_download_options_set_text(options, "destination", destination);
  if (seen) {
    forget(seen);
    tinkex_download_options_set_progress(options, on_progress, seen, on_release);
  }
  return options;
}

/* A number of a JSON object. */
static long long number(const tinkex_text *json, const char *name) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\":", name);
  const char *found = strstr(tinkex_text_data(json), quoted);
  CHECK(found != NULL);
  return atoll(found + strlen(quoted));
}

/* --- from the engine ----------------------------------------------------------------------------------------------- */
/* The content at an address of the engine that stands after `key` in a JSON text. */
static struct bytes content_at(const tinkex_text *json, const char *key) {
  char host[64], path[400], request[600];
  unsigned port = 0;
  struct bytes answer = {NULL, 0};
  const char *url = strstr(tinkex_text_data(json), key);
  CHECK(url != NULL && sscanf(url + strlen(key), "\":\"http://%63[^:]:%u%399[^\"]", host, &port, path) == 3);
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connection >= 0 && connect(connection, (const struct sockaddr *)&address, sizeof address) == 0);
  const int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%u\r\nConnection: close\r\n\r\n", path, host, port);
  CHECK(send(connection, request, (size_t)n, MSG_NOSIGNAL) == n);
  for (;;) {
    answer.data = realloc(answer.data, answer.n + (1 << 16) + 1);
    CHECK(answer.data != NULL);
    const ssize_t got = recv(connection, answer.data + answer.n, 1 << 16, 0);
    CHECK(got >= 0);
    if (got == 0) break;
    answer.n += (size_t)got;
  }
  close(connection);
  answer.data[answer.n] = '\0';
  const char *body = strstr(answer.data, "\r\n\r\n");
  CHECK(strncmp(answer.data, "HTTP/1.1 200", 12) == 0 && body != NULL);
  answer.n -= (size_t)(body + 4 - answer.data);
  memmove(answer.data, body + 4, answer.n);
  return answer;
}

static void check_same(struct bytes sent, const char *path) {
  const struct bytes found = file_bytes(path);
  CHECK(is_same(sent, found));
  free(sent.data);
  free(found.data);
}

static void saved(tinkex_pending *pending, char path[400]) {
  const tinkex_result *result = NULL;
  OK(tinkex_pending_wait(pending, -1, &result, &error));
  snprintf(path, 400, "%s", tinkex_result_path(result));
  tinkex_pending_free(&pending);
}

static void whole_downloads(struct world *w) {
  char external[400], state[400];
  struct seen seen;
  tinkex_pending *pending = NULL;
  tinkex_rest *rest = NULL;
  tinkex_text *json = NULL, *urls = NULL;
  OK(tinkex_training_save_external(w->training, "b", NULL, &pending, &error));
  saved(pending, external);
  OK(tinkex_training_save_state(w->training, "a", NULL, &pending, &error));
  saved(pending, state);
  OK(tinkex_service_rest(w->service, &rest, &error));

  /* Exported weights are files, which several threads fetch; the folders above the destination are made. */
  tinkex_download_options *options = options_to(in_folder("deep/er/weights"), &seen);
  OK(tinkex_rest_download(rest, external, options, &json, &error));
  CHECK(strstr(tinkex_text_data(json), external) && strstr(tinkex_text_data(json), in_folder("deep/er/weights")));
  CHECK(number(json, "file_count") == 2 && number(json, "file_size_bytes") == seen.bytes && seen.bytes > 0);
  CHECK(seen.n_calls > 2 && seen.has_prepared && seen.files == 2 && seen.total_files == 2 && seen.total_bytes == seen.bytes);
  tinkex_text_free(&json);
  OK(tinkex_rest_external_urls(rest, external, &urls, &error));
  check_same(content_at(urls, "adapter_config.json"), in_folder("deep/er/weights/adapter_config.json"));
  check_same(content_at(urls, "adapter_model.safetensors"), in_folder("deep/er/weights/adapter_model.safetensors"));
  tinkex_text_free(&urls);

  /* What exists is refused and stays, unless it shall be replaced. */
  FILE *mark = fopen(in_folder("deep/er/weights/mark"), "w");
  CHECK(mark != NULL && fclose(mark) == 0);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "destination", json, tinkex_rest_download(rest, external, options, &json, &error));
  CHECK(exists("deep/er/weights/mark") && !exists("deep/er/weights.part"));
  tinkex_download_options_set_flag(options, "force", 1);
  OK(tinkex_rest_download(rest, external, options, &json, &error));
  CHECK(!exists("deep/er/weights/mark") && exists("deep/er/weights/adapter_config.json"));
  tinkex_text_free(&json);
  tinkex_download_options_set_flag(options, "as_tar", 1);
  REFUSED(TINKEX_ERROR_INVALID_INPUT, "as_tar", json, tinkex_rest_download(rest, external, options, &json, &error));
  CHECK(seen.n_released == 0);
  tinkex_download_options_free(&options);
  CHECK(seen.n_released == 1);

  /* A training state is an archive, which is unpacked or kept. With one file at a time, all calls are on this thread. */
  options = options_to(in_folder("state"), &seen);
  tinkex_download_options_set_number(options, "concurrency", 1);
  OK(tinkex_rest_download(rest, state, options, &json, &error));
  CHECK(seen.last_phase == TINKEX_PHASE_UNPACKING && seen.n_foreign == 0 && exists("state/adapter_config.json"));
  CHECK(number(json, "file_count") > 1 && seen.total_files == 1 && number(json, "file_size_bytes") < seen.bytes);
  tinkex_text_free(&json);
  tinkex_download_options_set_flag(options, "as_tar", 1);
  tinkex_download_options_set_text(options, "destination", in_folder("state.tar"));
  OK(tinkex_rest_download(rest, state, options, &json, &error));
  CHECK(number(json, "file_count") == 1 && number(json, "file_size_bytes") == seen.bytes);
  tinkex_text_free(&json);
  OK(tinkex_rest_archive_url(rest, state, &urls, &error));
  check_same(content_at(urls, "url"), in_folder("state.tar"));
  tinkex_text_free(&urls);
  tinkex_download_options_free(&options);

  /* The default name, in the current folder and in another one. */
  CHECK(chdir(folder) == 0);
  OK(tinkex_rest_download(rest, external, NULL, &json, &error));
  CHECK(strstr(tinkex_text_data(json), "external_weights_b\"") && strstr(tinkex_text_data(json), in_folder("")));
  tinkex_text_free(&json);
  CHECK(chdir("/") == 0);
  options = tinkex_download_options_new();
  tinkex_download_options_set_text(options, "parent", in_folder("named"));
  OK(tinkex_rest_download(rest, external, options, &json, &error));
  CHECK(strstr(tinkex_text_data(json), in_folder("named/")));
  tinkex_text_free(&json);
  tinkex_download_options_free(&options);
  REFUSED(TINKEX_ERROR_NOT_FOUND, NULL, json, tinkex_rest_download(rest, "tinker://no-such-run/external_weights/b", NULL, &json, &error));
  tinkex_rest_free(&rest);
}

/* --- mistakes ------------------------------------------------------------------------------------------------------ */
static void mistakes(const struct world *w) {
  static const char PATH[] = "tinker://r/weights/a";
  struct seen seen;
  tinkex_rest *rest = NULL;
  tinkex_text *json;
  tinkex_download_options *options = options_to(in_folder("never"), NULL);
  OK(tinkex_service_rest(w->service, &rest, &error));
  REFUSED(TINKEX_ERROR_NULL, "rest", json, tinkex_rest_download(NULL, PATH, options, &json, &error));
  REFUSED(TINKEX_ERROR_NULL, "path", json, tinkex_rest_download(rest, NULL, options, &json, &error));
  EXPECT(TINKEX_ERROR_NULL, "json", tinkex_rest_download(rest, PATH, options, NULL, &error));
  REFUSED(TINKEX_ERROR_UTF8, "path", json, tinkex_rest_download(rest, "\xff", options, &json, &error));
  REFUSED(TINKEX_ERROR_INVALID_INPUT, NULL, json, tinkex_rest_download(rest, "weights/a", options, &json, &error));
  REFUSED(TINKEX_ERROR_HANDLE, "download_options", json,
          tinkex_rest_download(rest, PATH, (const tinkex_download_options *)(const void *)rest, &json, &error));
  tinkex_download_options_free(&options);
  /* The first mistake of the setters is reported, by each use. */
#define WRONG(code, path, set) do { \
    options = options_to(in_folder("never"), NULL); \
    set; \
    tinkex_download_options_set_flag(options, "no_such_flag", 1); \
    for (int i = 0; i < 2; i++) REFUSED(code, path, json, tinkex_rest_download(rest, PATH, options, &json, &error)); \
    tinkex_download_options_free(&options); \
  } while (0)
  WRONG(TINKEX_ERROR_NAME, "path", tinkex_download_options_set_text(options, "path", "x"));
  WRONG(TINKEX_ERROR_NAME, "stall", tinkex_download_options_set_number(options, "stall", 1));
  WRONG(TINKEX_ERROR_NAME, "no_such_flag", (void)0);
  WRONG(TINKEX_ERROR_INVALID_INPUT, "concurrency", tinkex_download_options_set_number(options, "concurrency", 0));
  WRONG(TINKEX_ERROR_INVALID_INPUT, "stall_ms", tinkex_download_options_set_number(options, "stall_ms", -1));
  WRONG(TINKEX_ERROR_NULL, "value", tinkex_download_options_set_text(options, "destination", NULL));
  WRONG(TINKEX_ERROR_NULL, "name", tinkex_download_options_set_flag(options, NULL, 1));
  WRONG(TINKEX_ERROR_UTF8, "value", tinkex_download_options_set_text(options, "parent", "\xff"));
  WRONG(TINKEX_ERROR_NULL, "cancel", tinkex_download_options_set_cancel(options, NULL));
  forget(&seen);
  WRONG(TINKEX_ERROR_NULL, "progress", tinkex_download_options_set_progress(options, NULL, &seen, on_release));
  CHECK(seen.n_released == 1 && seen.n_calls == 0);
  tinkex_download_options_set_flag(NULL, "force", 1);
  CHECK(tinkex_progress_phase(NULL) == 0 && tinkex_progress_bytes(NULL) == 0 && tinkex_progress_total_bytes(NULL) == -1);
  CHECK(tinkex_progress_files(NULL) == 0 && tinkex_progress_total_files(NULL) == -1 && tinkex_progress_error(NULL) == NULL);
  /* A folder above the destination that is a file. */
  options = options_to(in_folder("state.tar/never"), NULL);
  REFUSED(TINKEX_ERROR_SYSTEM, NULL, json, tinkex_rest_download(rest, PATH, options, &json, &error));
  tinkex_download_options_free(&options);
  CHECK(!exists("never") && !exists("never.part"));
  tinkex_rest_free(&rest);
}

/* --- cancelled downloads ------------------------------------------------------------------------------------------- */
enum { SIZE = 400000, HALF = SIZE / 2 };
static const char STATE[] = "tinker://r/weights/a";
static char content[SIZE];

/* A server with one archive. While `is_slow`, its second half comes byte by byte. */
struct script {
  int listener, port;
  pthread_t thread;
  atomic_int is_slow, n_requests, n_files;
  atomic_llong range; /* of the last request for the archive, 0 for all of it */
};

static int sent(int connection, const char *data, size_t n) {
  while (n > 0) {
    const ssize_t done = send(connection, data, n, MSG_NOSIGNAL);
    if (done <= 0) return 0;
    data += done;
    n -= (size_t)done;
  }
  return 1;
}

static void send_json(int connection, const char *status, const char *json) {
  char answer[600];
  const int n = snprintf(answer, sizeof answer, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                         status, strlen(json), json);
  sent(connection, answer, (size_t)n);
}

static void send_archive(struct script *script, int connection, const char *request) {
  char head[400];
  const char *range = strstr(request, "ytes="), *condition = strstr(request, "\"v1\"");
  const size_t start = range && condition ? (size_t)atoll(range + 5) : 0;
  CHECK(start < SIZE);
  script->n_files++;
  script->range = (long long)start;
  int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nETag: \"v1\"\r\nContent-Length: %zu\r\nConnection: close\r\n", start ? "206 Partial Content" : "200 OK", SIZE - start);
  if (start) n += snprintf(head + n, sizeof head - (size_t)n, "Content-Range: bytes %zu-%d/%d\r\n", start, SIZE - 1, SIZE);
  n += snprintf(head + n, sizeof head - (size_t)n, "\r\n");
  size_t end = script->is_slow && start < HALF ? HALF : SIZE;
  if (!sent(connection, head, (size_t)n) || !sent(connection, content + start, end - start)) return;
  while (end < SIZE && script->is_slow && sent(connection, content + end, 1)) {
    end++;
    pause_ms(5);
  }
}

static void *serve(void *argument) {
  struct script *script = argument;
  for (;;) {
    char request[8192], url[300];
    size_t n = 0;
    const int connection = accept(script->listener, NULL, NULL);
    if (connection < 0) return NULL;
    for (request[0] = '\0'; n + 1 < sizeof request && !strstr(request, "\r\n\r\n"); request[n] = '\0') {
      const ssize_t got = recv(connection, request + n, sizeof request - 1 - n, 0);
      if (got <= 0) break;
      n += (size_t)got;
    }
    const char *line = strstr(request, "\r\n");
    if (line) {
      script->n_requests++;
      if (strncmp(request, "GET /files/", 11) == 0) {
        send_archive(script, connection, request);
      } else if (strstr(request, "/archive") && strstr(request, "/archive") < line) {
        snprintf(url, sizeof url, "{\"url\":\"http://127.0.0.1:%d/files/a.tar?signature=secret\",\"expires\":\"2099-01-01T00:00:00Z\"}", script->port);
        send_json(connection, "200 OK", url);
      } else if (strstr(request, "/client/config")) {
        send_json(connection, "200 OK", "{\"pjwt_auth_enabled\":false}");
      } else {
        send_json(connection, "404 Not Found", "{\"detail\":\"Not Found\"}");
      }
    }
    /* Without a reset, which would discard what was sent: the peer may still be sending a body. */
    shutdown(connection, SHUT_WR);
    const struct timeval limit = {5, 0};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (recv(connection, request, sizeof request, 0) > 0) {}
    close(connection);
  }
}

static void start(struct script *script) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  memset(script, 0, sizeof *script);
  for (size_t i = 0; i < SIZE; i++) content[i] = (char)(i / 7 * 31 + i % 251);
  script->listener = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(script->listener >= 0 && bind(script->listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(script->listener, 16) == 0);
  CHECK(getsockname(script->listener, (struct sockaddr *)&address, &length) == 0);
  script->port = ntohs(address.sin_port);
  CHECK(pthread_create(&script->thread, NULL, serve, script) == 0);
}

static void stop(struct script *script) {
  shutdown(script->listener, SHUT_RDWR);
  pthread_join(script->thread, NULL);
  close(script->listener);
}

static tinkex_service *service_of(const struct script *script) {
  char url[64];
  tinkex_service *service = NULL;
  tinkex_service_options *options = tinkex_service_options_new();
  snprintf(url, sizeof url, "http://127.0.0.1:%d", script->port);
  tinkex_service_options_set_base_url(options, url);
  tinkex_service_options_set_api_key(options, "tml-test");
  OK(tinkex_service_new(options, &service, &error));
  tinkex_service_options_free(&options);
  return service;
}

/* Ends a download from another thread, once half of it has arrived. */
struct ender {
  struct seen *seen;
  tinkex_cancel *cancel;
  tinkex_service *service; /* is closed, if there is no `cancel` */
};

static void *end_it(void *argument) {
  struct ender *ender = argument;
  while (ender->seen->bytes < HALF) pause_ms(1);
  if (ender->cancel) {
    tinkex_cancel_now(ender->cancel);
  } else {
    OK(tinkex_service_close(ender->service, TINKEX_CLOSE_SUCCESS, NULL, &error));
  }
  return NULL;
}

enum way { BY_CALLBACK, BY_THREAD, BY_CLOSE };

static void cancelled_download(struct script *script, enum way way) {
  struct seen seen;
  tinkex_text *json;
  tinkex_rest *rest = NULL;
  tinkex_service *service = service_of(script);
  tinkex_cancel *cancel = tinkex_cancel_new();
  tinkex_download_options *options = options_to(in_folder("it"), &seen);
  tinkex_download_options_set_flag(options, "as_tar", 1);
  tinkex_download_options_set_cancel(options, cancel);
  OK(tinkex_service_rest(service, &rest, &error));
  script->is_slow = 1;
  struct ender ender = {&seen, way == BY_THREAD ? cancel : NULL, service};
  pthread_t thread;
  if (way == BY_CALLBACK) {
    seen.cancel = cancel;
    seen.cancel_at = HALF;
  } else {
    CHECK(pthread_create(&thread, NULL, end_it, &ender) == 0);
  }
  const tinkex_code expected = way == BY_CLOSE ? TINKEX_ERROR_CLOSED : TINKEX_ERROR_CANCELLED;
  REFUSED(expected, NULL, json, tinkex_rest_download(rest, STATE, options, &json, &error));
  if (way != BY_CALLBACK) pthread_join(thread, NULL);
  CHECK(seen.bytes >= HALF && seen.bytes < SIZE && seen.total_bytes == SIZE && seen.files == 0);
  CHECK(!exists("it") && exists("it.part"));
  script->is_slow = 0;
  /* A later download with the same options ends at once. */
  const int n_requests = script->n_requests;
  REFUSED(expected, NULL, json, tinkex_rest_download(rest, STATE, options, &json, &error));
  CHECK(script->n_requests == n_requests && exists("it.part"));
  tinkex_cancel_free(&cancel); /* the options keep it */
  tinkex_rest_free(&rest);
  tinkex_service_free(&service);
  tinkex_download_options_free(&options);
  CHECK(seen.n_released == 1);

  /* The next one fetches only the rest. */
  service = service_of(script);
  OK(tinkex_service_rest(service, &rest, &error));
  options = options_to(in_folder("it"), &seen);
  tinkex_download_options_set_flag(options, "as_tar", 1);
  OK(tinkex_rest_download(rest, STATE, options, &json, &error));
  CHECK(script->range >= HALF && script->range < SIZE && seen.first_bytes == script->range && seen.bytes == SIZE && seen.files == 1);
  CHECK(number(json, "file_size_bytes") == SIZE && !exists("it.part"));
  const struct bytes found = file_bytes(in_folder("it"));
  CHECK(is_same(found, (struct bytes){content, SIZE}));
  free(found.data);
  tinkex_text_free(&json);
  CHECK(remove(in_folder("it")) == 0);
  tinkex_download_options_free(&options);
  tinkex_rest_free(&rest);
  tinkex_service_free(&service);
}

/* With "resume" off, what a cancelled download has left is not used. */
static void discarded_download(struct script *script) {
  struct seen seen;
  tinkex_text *json;
  tinkex_rest *rest = NULL;
  tinkex_service *service = service_of(script);
  tinkex_cancel *cancel = tinkex_cancel_new();
  tinkex_download_options *options = options_to(in_folder("it"), &seen);
  OK(tinkex_service_rest(service, &rest, &error));
  tinkex_download_options_set_flag(options, "as_tar", 1);
  tinkex_download_options_set_cancel(options, cancel);
  seen.cancel = cancel;
  seen.cancel_at = HALF;
  script->is_slow = 1;
  REFUSED(TINKEX_ERROR_CANCELLED, NULL, json, tinkex_rest_download(rest, STATE, options, &json, &error));
  script->is_slow = 0;
  tinkex_download_options_free(&options);
  options = options_to(in_folder("it"), &seen);
  tinkex_download_options_set_flag(options, "as_tar", 1);
  tinkex_download_options_set_flag(options, "resume", 0);
  OK(tinkex_rest_download(rest, STATE, options, &json, &error));
  CHECK(script->range == 0 && seen.first_bytes == 0 && seen.bytes == SIZE);
  tinkex_text_free(&json);
  tinkex_download_options_free(&options);
  tinkex_cancel_free(&cancel);
  tinkex_rest_free(&rest);
  tinkex_service_free(&service);
}

int main(void) {
  struct script script;
  snprintf(folder, sizeof folder, "%s", "/tmp/tinkex-download-XXXXXX");
  CHECK(mkdtemp(folder) != NULL);
  if (tinkex_has_feature("local")) {
    struct world w;
    build(&w);
    whole_downloads(&w);
    mistakes(&w);
    demolish(&w);
  }
  start(&script);
  cancelled_download(&script, BY_CALLBACK);
  cancelled_download(&script, BY_THREAD);
  cancelled_download(&script, BY_CLOSE);
  discarded_download(&script);
  stop(&script);
  char command[100];
  snprintf(command, sizeof command, "rm -r '%s'", folder);
  CHECK(system(command) == 0);
  return done("download");
}
