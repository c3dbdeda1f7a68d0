/* Signals of the host: its timer at 1 kHz never runs on a thread of the library and surfaces as no error, and with SIGPIPE
 * at its default the process survives peers that close. `signals [STEPS]` */
#include "rig.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

static pthread_t main_thread;
static atomic_long n_signals, n_foreign;

static void on_alarm(int signal) {
  (void)signal;
  atomic_fetch_add(&n_signals, 1);
  if (!pthread_equal(pthread_self(), main_thread)) atomic_fetch_add(&n_foreign, 1);
}

static void set_timer(long microseconds) {
  const struct itimerval time = {{0, microseconds}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &time, NULL) == 0);
}

/* Training, and calls whose requests this thread sends itself, with a timer whose handler does not restart system calls. */
static void train(struct world *w, int steps) {
  const struct sigaction action = {.sa_handler = on_alarm};
  tinkex_rest *rest = NULL;
  tinkex_queue *queue = NULL;
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  OK(tinkex_service_rest(w->service, &rest, &error));
  OK(tinkex_queue_new(&queue, &error));
  set_timer(1000);
  for (int i = 0; i < steps; i++) {
    tinkex_pending *pass = NULL, *update = NULL;
    tinkex_event *event = NULL;
    tinkex_text *json = NULL;
    OK(tinkex_training_train_step(w->training, w->batch, w->loss, w->adam, &pass, &update, &error));
    CHECK(finish(&pass) > 0);
    OK(tinkex_pending_wait(update, -1, NULL, &error));
    tinkex_pending_free(&update);
    OK(tinkex_rest_list_runs(rest, -1, 0, &json, &error));
    tinkex_text_free(&json);
    /* A wait ends neither early nor with another code. */
    const double before = now();
    REFUSED(TINKEX_ERROR_TIMEOUT_WAIT, NULL, event, tinkex_queue_next(queue, 5, &event, &error));
    CHECK(now() - before >= 0.004);
  }
  set_timer(0);
  tinkex_rest_free(&rest);
  tinkex_queue_free(&queue);
  printf("signals: %ld in %d steps, %ld on other threads\n", n_signals, steps, n_foreign);
  CHECK(n_signals > 0 && n_foreign == 0);
}

#ifdef __linux__
/* Reads the masks of all threads but this one and returns the number of threads. Everything must be blocked but the
 * synchronous signals. `open` is set to 0 if a thread blocks one of those as well. */
static int read_masks(int *open) {
  static const int BLOCKED[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGCHLD, SIGPROF, SIGWINCH, SIGIO};
  static const int OPEN[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
  char path[300], line[256], name[64] = "";
  int n_threads = 0;
  *open = 1;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    const long id = atol(task->d_name);
    if (id <= 0 || id == (long)getpid()) continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
    FILE *status = fopen(path, "r");
    if (!status) continue; /* has ended */
    while (fgets(line, sizeof line, status)) {
      unsigned long long mask = 0;
      if (sscanf(line, "Name: %63s", name) == 1 || sscanf(line, "SigBlk: %llx", &mask) != 1) continue;
      n_threads++;
      for (size_t i = 0; i < sizeof BLOCKED / sizeof *BLOCKED; i++)
        if (!(mask >> (BLOCKED[i] - 1) & 1)) {
          fprintf(stderr, "signals.c: thread %s does not block signal %d\n", name, BLOCKED[i]);
          _exit(1);
        }
      for (size_t i = 0; i < sizeof OPEN / sizeof *OPEN; i++) *open &= !(mask >> (OPEN[i] - 1) & 1);
    }
    fclose(status);
  }
  closedir(tasks);
  return n_threads;
}

/* Checks the masks of the library's threads. The C library blocks all signals for a moment while it starts a thread, and
 * so does Valgrind between two system calls. So a blocked synchronous signal is a fault only if it stays blocked. */
static void check_masks(void) {
  const struct timespec pause = {0, 20000000};
  for (int look = 0, open = 0; !open; look++) {
    CHECK(read_masks(&open) > 0);
    CHECK(open || look < 6000);
    if (!open) nanosleep(&pause, NULL);
  }
}
#else
static void check_masks(void) {}
#endif

/* Closes a connection so that the peer gets a reset. With `ends_first` the peer sees the end of the data before that, and its
 * next write fails with EPIPE; otherwise with ECONNRESET, for which there is no SIGPIPE. */
static void reset(int connection, int ends_first) {
  const struct linger now = {1, 0};
  if (ends_first) shutdown(connection, SHUT_WR);
  setsockopt(connection, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(connection);
}

/* A server that reads a few bytes of each request and resets the connection. */
static atomic_int n_resets;
static void *refuse(void *listener) {
  const int socket = *(int *)listener;
  for (;;) {
    char bytes[16];
    const int connection = accept(socket, NULL, NULL);
    if (connection < 0) return NULL;
    if (recv(connection, bytes, sizeof bytes, 0) > 0) {
      pause_ms(1);
      n_resets++;
    }
    reset(connection, n_resets % 2);
  }
}

/* The library as a client of a server that resets its connections, in the middle of a large request, too. */
static void meet_resets(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  pthread_t thread;
  char url[64];
  CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 16) == 0);
  CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
  CHECK(pthread_create(&thread, NULL, refuse, &listener) == 0);
  snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(address.sin_port));
  tinkex_service_options *options = tinkex_service_options_new();
  tinkex_service_options_set_base_url(options, url);
  tinkex_service_options_set_api_key(options, "tml-test");
  tinkex_service_options_set_timeout(options, "connect", 1000);
  tinkex_service_options_set_timeout(options, "exchange", 1000);
  tinkex_service_options_set_timeout(options, "submit", 2000);
  tinkex_service_options_set_timeout(options, "first_contact", 2000);
  tinkex_service *service = NULL;
  tinkex_rest *rest = NULL;
  tinkex_text *json = NULL;
  tinkex_error *error = NULL;
  tinkex_training *training = NULL;
  OK(tinkex_service_new(options, &service, &error)); /* sends nothing */
  CHECK(tinkex_training_new(service, MODEL, NULL, &training, &error) != TINKEX_OK && training == NULL && error != NULL);
  CHECK(tinkex_error_code(error) / 1000 == 2); /* of HTTP */
  CHECK(atomic_exchange(&n_resets, 0) > 0); /* and from this server */
  tinkex_error_free(&error);
  tinkex_service_free(&service);
  OK(tinkex_rest_new(options, &rest, &error));
  const size_t n = 4 << 20; /* more than the buffers of a connection hold */
  char *query = malloc(n);
  CHECK(query != NULL);
  memset(query, 'x', n);
  static const char START[] = "{\"display_name\":\"";
  memcpy(query, START, sizeof START - 1);
  memcpy(query + n - 3, "\"}", 3);
  CHECK(tinkex_rest_search_sessions(rest, query, NULL, &json, &error) != TINKEX_OK && json == NULL);
  CHECK(tinkex_error_code(error) / 1000 == 2 && n_resets > 0); /* the first one with EPIPE */
  tinkex_error_free(&error);
  free(query);
  tinkex_rest_free(&rest);
  tinkex_service_options_free(&options);
  shutdown(listener, SHUT_RDWR);
  pthread_join(thread, NULL);
  close(listener);
}

/* The engine as a server of clients that reset their connections while it answers. */
static void give_resets(const tinkex_server *server) {
  static const char REQUEST[] = "GET /api/v1/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  unsigned port = 0;
  CHECK(sscanf(tinkex_server_url(server), "http://%*[^:]:%u", &port) == 1);
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
  for (int i = 0; i < 100; i++) {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connection >= 0 && connect(connection, (const struct sockaddr *)&address, sizeof address) == 0);
    for (int k = 0; k < 20; k++)
      if (send(connection, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) < 0) break;
    reset(connection, i % 2);
  }
}

int main(int argc, char **argv) {
  struct world w;
  main_thread = pthread_self();
  CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
  build(&w);
  train(&w, argc > 1 ? atoi(argv[1]) : 100);
  check_masks();
  struct sigaction pipe_action;
  CHECK(sigaction(SIGPIPE, NULL, &pipe_action) == 0 && pipe_action.sa_handler == SIG_DFL); /* not touched */
  /* Only now: Valgrind may deliver the last signal of the timer a few system calls after the timer has stopped. */
  CHECK(signal(SIGALRM, SIG_DFL) != SIG_ERR);
  alarm(600);
  meet_resets();
  give_resets(w.server);
  still_works(&w);
  demolish(&w);
  return done("signals");
}
