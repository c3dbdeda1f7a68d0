// Every class of tinkex.hpp in use, on the embedded engine, with callbacks that throw.
#include <tinkex.hpp>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <sys/wait.h>
#include <unistd.h>

namespace {
#define CHECK(condition) do { if (!(condition)) { std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); std::_Exit(1); } } while (0)

// The code that a function throws.
template <class F> tinkex_code thrown(F f) {
  try {
    f();
  } catch (const tinkex::error &error) {
    const tinkex::error copy = error;
    CHECK(copy.name() != nullptr && *copy.what() != '\0' && !copy.json().empty());
    return copy.code();
  }
  return TINKEX_OK;
}

// The function throws an exception of the wrapper itself, which is no `tinkex::error`.
template <class F> bool throws_plain(F f) {
  try {
    f();
  } catch (const tinkex::error &) {
  } catch (const std::runtime_error &error) {
    return std::string(error.what()).find("tinkex: ") == 0;
  }
  return false;
}

const std::vector<std::int32_t> PROMPT{104, 105, 32}, ANSWER{121, 111, 10};

// A loss that counts its copies: the library must destroy it.
struct counted {
  static std::atomic<int> alive;
  std::unique_ptr<int> moves_only = std::make_unique<int>(1);
  counted() { alive++; }
  counted(counted &&other) noexcept : moves_only(std::move(other.moves_only)) { alive++; }
  ~counted() { alive--; }
  double operator()(const tinkex::loss_call &call) const {
    CHECK(call.size() == 1 && call.input(0, "weights").size() == 5 && call.input_i64(0, "target_tokens")[4] == 10);
    double loss = 0;
    for (std::size_t i = 0; i < call.logprobs(0).size(); i++) {
      loss += static_cast<double>(call.logprobs()[i]);
      call.gradients(0)[i] = 1;
    }
    call.set_metric("mine:sum", 3);
    return -loss;
  }
};
std::atomic<int> counted::alive{0};

void losses(const tinkex::service &service, const tinkex::batch &batch) {
  auto training = service.training("tinkex/nano", tinkex::model_options().rank(8).seed(1).metadata("made", "by a test"));
  auto pass = training.forward_backward_custom(batch, counted());
  CHECK(pass.wait().metric("mine:sum") == 3 && pass.wait().loss() > 0);
  const tinkex::queue queue;
  auto pulled = training.forward_backward_pulled(batch, queue, 9);
  auto event = queue.next();
  CHECK(event && event->kind() == TINKEX_EVENT_LOSS && event->tag() == 9);
  auto call = event->take_loss();
  CHECK(throws_plain([&] { event->take_loss(); }));
  call.set_loss(counted()(call));
  call.finish();
  CHECK(pulled.wait().loss() > 0 && !queue.next(0));
  // Exceptions become the failure of the loss, with their text.
  auto throws = service.training("tinkex/nano");
  auto failed = throws.forward_backward_custom(batch, [](const tinkex::loss_call &) -> double { throw std::runtime_error("out of rewards"); });
  try {
    failed.wait();
    CHECK(!"a loss that throws succeeds");
  } catch (const tinkex::error &error) {
    CHECK(error.code() == TINKEX_ERROR_CUSTOM_LOSS && std::string(error.what()).find("out of rewards") != std::string::npos);
  }
  auto throws_int = service.start_training("tinkex/nano").wait();
  auto failed_too = throws_int.forward_backward_custom(batch, [](const tinkex::loss_call &) -> double { throw 7; });
  CHECK(thrown([&] { failed_too.wait(); }) == TINKEX_ERROR_CUSTOM_LOSS);
  tinkex::graph graph("mean");
  graph.result(graph.op("neg", graph.op("sum", graph.logprobs())));
  auto made = service.create_loss(graph);
  const tinkex::loss loss = made.wait();
  const auto scored = training.forward(batch, loss);
  CHECK(scored.wait().size() == 1);
}

// `T::wait` can be called on an expression of the type `T`.
template <class T, class = void> constexpr bool waits = false;
template <class T> constexpr bool waits<T, std::void_t<decltype(std::declval<T>().wait())>> = true;
// Views of a temporary's result would dangle; results that own something outlive it.
static_assert(waits<tinkex::pending<tinkex::pass> &> && waits<const tinkex::pending<tinkex::sample> &>);
static_assert(!waits<tinkex::pending<tinkex::pass>> && !waits<const tinkex::pending<tinkex::sample>> && !waits<tinkex::pending<tinkex::result>>);
static_assert(waits<tinkex::pending<tinkex::training>> && waits<tinkex::pending<tinkex::loss>>);

// Events that were moved, taken or are of another kind, and handles that cannot be copied.
void empty_handles() {
  const tinkex::queue queue;
  queue.wake();
  auto first = queue.next();
  CHECK(first && first->kind() == TINKEX_EVENT_WOKEN && throws_plain([&] { first->take_loss(); }));
  tinkex::event moved = std::move(*first);
  CHECK(moved.kind() == TINKEX_EVENT_WOKEN && first->kind() == 0 && first->json().empty()); // NOLINT: empty, not dangling
  queue.wake();
  moved = *queue.next();
  CHECK(moved.kind() == TINKEX_EVENT_WOKEN && moved.message().empty());
  tinkex::sampling none;
  const tinkex::sampling copy = none;
  CHECK(!copy && throws_plain([&] { none.with_cancel(tinkex::cancel()); }));
  // In a forked child a handle of the parent has no copies.
  const tinkex::rest rest(tinkex::service_options().base_url("http://127.0.0.1:9").api_key("tml-test"));
  const pid_t child = fork();
  if (child == 0) {
    // Valgrind would report the threads of the parent, of which the child has no stacks, as leaked. It does not check here.
    if (throws_plain([&] { const tinkex::rest twin = rest; })) execl("/bin/true", "true", static_cast<char *>(nullptr));
    _exit(1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void download(const tinkex::rest &rest, const std::string &path) {
  char folder[] = "/tmp/tinkex-wrapper-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  std::atomic<std::int64_t> bytes{0};
  auto calls = std::make_shared<std::atomic<int>>(0);
  const tinkex::cancel cancel;
  {
    tinkex::download_options options;
    options.text("parent", folder).flag("as_tar", true).number("concurrency", 2).cancelled_by(cancel);
    options.progress([&bytes, calls](const tinkex::progress_view &progress) {
      CHECK(progress.phase() <= TINKEX_PHASE_UNPACKING && progress.error().empty() && progress.files() <= 1);
      bytes = progress.bytes();
      ++*calls;
      throw std::runtime_error("dropped");
    });
    const auto json = rest.download(path, options);
    CHECK(json.find("\"file_size_bytes\":" + std::to_string(bytes)) != std::string::npos && json.find(folder) != std::string::npos);
    CHECK(bytes > 0 && *calls > 2 && calls.use_count() == 2 && thrown([&] { rest.download(path, options); }) == TINKEX_ERROR_INVALID_INPUT);
    cancel.now();
    CHECK(thrown([&] { rest.download(path, options.flag("force", true)); }) == TINKEX_ERROR_CANCELLED);
  }
  CHECK(calls.use_count() == 1); // the library has destroyed the callback
  CHECK(thrown([&] { rest.download("weights/state"); }) == TINKEX_ERROR_INVALID_INPUT);
  CHECK(std::system(("rm -r " + std::string(folder)).c_str()) == 0);
}

void run() {
  std::atomic<int> n_events{0}, n_records{0};
  tinkex::log_to(TINKEX_LOG_TRACE, [&n_records](int level, std::string_view target, std::string_view message) {
    CHECK(level > 0 && !target.empty() && message.data() != nullptr);
    n_records++;
    throw 1;
  });
  CHECK(thrown([] { tinkex::log_to(TINKEX_LOG_DEBUG, [](int, std::string_view, std::string_view) {}); }) == TINKEX_ERROR_ALREADY);
  const tinkex::server server(tinkex::server_options().number("threads", 2));
  auto options = server.options();
  options.tag("test").metadata("key", "value").timeout("close", 5000).observer([&n_events](const tinkex::event_view &event) {
    CHECK(event.kind() > 0 && !event.json().empty());
    n_events++;
    throw std::runtime_error("dropped");
  });
  const tinkex::service service(options);
  CHECK(service.session_id().empty() && service.capabilities().find("tinkex/nano") != std::string::npos && !service.metrics().empty());

  tinkex::batch batch;
  CHECK(batch.add_completion(PROMPT, ANSWER) == 0 && batch.size() == 1);
  const tinkex::loss loss("cross_entropy");
  tinkex::optim adam;
  adam.set("learning_rate", 1e-3);
  const auto training = service.training("tinkex/nano");
  CHECK(!service.session_id().empty() && !training.model_id().empty() && !training.info().empty());
  auto pass = training.forward_backward(batch, loss);
  auto update = training.optim_step(adam);
  const auto result = pass.wait();
  CHECK(result.size() == 1 && result.output(0).size() == 5 && result.shape(0)[0] == 5 && result.outputs().offsets[1] == 5 && !result.metrics().empty());
  CHECK(thrown([&] { result.output(3); }) == TINKEX_ERROR_RANGE && thrown([&] { result.output_i64(0, "logprobs"); }) == TINKEX_ERROR_KIND);
  update.wait();
  CHECK(pass.is_done() && !pass.status().empty());

  auto copy = training; // one more handle of the same client
  copy = training;
  const auto state = copy.save_state("state", tinkex::save_options().ttl(3600));
  const auto path = state.wait().path();
  const auto loaded = service.training("tinkex/nano").load_state(path, true);
  loaded.wait();
  const auto again = service.training_from_state(path, false);
  const auto sampler = training.sampler();
  auto sample = sampler.sample(PROMPT, 2, tinkex::sample_options().max_tokens(3).temperature(0.5).seed(3));
  CHECK(sample.wait().size() == 2 && sample.wait().tokens(1).size() <= 3 && sample.wait().logprobs().size() == sample.wait().tokens().size());
  tinkex::input input;
  input.add(PROMPT).add(ANSWER);
  CHECK(input.size() == 6);
  auto scored = sampler.logprobs(input);
  CHECK(scored.wait().prompt_logprobs().size() == 6);
  const std::array<std::int64_t, 3> offsets{0, 3, 6};
  const std::array<std::int32_t, 6> both{104, 105, 32, 121, 111, 10};
  const tinkex::queue queue;
  auto many = sampler.sample_many(offsets, both, 1, tinkex::sample_options().max_tokens(1));
  CHECK(many.size() == 2 && tinkex::wait_any(many) < 2);
  for (std::size_t i = 0; i < many.size(); i++) many[i].notify(queue, i);
  tinkex::wait_all(many);
  std::array<std::uint64_t, 8> tags{};
  CHECK(queue.take_done(tags, 60000) >= 1);
  const tinkex::cancel cancel;
  auto slow = sampler.with_cancel(cancel).sample(PROMPT, 8, tinkex::sample_options().max_tokens(1000));
  CHECK(throws_plain([&] { tinkex::cancel gone; const auto kept = std::move(gone); sampler.with_cancel(gone); }));
  cancel.now();
  CHECK(thrown([&] { slow.wait(); }) == TINKEX_ERROR_CANCELLED);
  std::thread waiter([&queue] { while (queue.next()->kind() != TINKEX_EVENT_WOKEN) {} });
  queue.wake();
  waiter.join();
  losses(service, batch);
  for (int i = 0; i < 1000 && counted::alive != 0; i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(counted::alive == 0);
  const auto rest = service.rest();
  CHECK(thrown([&] { rest.json(tinkex_rest_whoami); }) == TINKEX_ERROR_INCOMPATIBLE && !rest.json(tinkex_rest_list_runs, 10, 0).empty());
  CHECK(thrown([&] { rest.json(tinkex_rest_get_run, "no-such-run"); }) == TINKEX_ERROR_NOT_FOUND);
  download(rest, path);
  CHECK(thrown([&] { service.training(""); }) != TINKEX_OK && thrown([] { tinkex::loss("no_such_loss"); }) == TINKEX_ERROR_NAME);
  CHECK(thrown([&] { tinkex::service(server.options().flag("no_such_flag", true)); }) == TINKEX_ERROR_NAME);
  bool refused = false;
  try { batch.add_weighted(PROMPT, std::vector<float>{1}); } catch (const std::invalid_argument &) { refused = true; }
  CHECK(refused);
  batch.set(0, "advantages", std::vector<float>(5, 1.0f));
  service.close();
  CHECK(thrown([&] { training.optim_step(adam); }) == TINKEX_ERROR_CLOSED);
  tinkex_log_set_level(TINKEX_LOG_OFF);
  CHECK(n_records > 0);
}
} // namespace

int main() {
  try {
    empty_handles(); // before a log callback: a child of fork() has none of its threads
    run();
  } catch (const tinkex::error &error) {
    std::fprintf(stderr, "wrapper: %s at \"%s\": %s\n", error.name(), error.path().c_str(), error.what());
    return 1;
  }
  CHECK(tinkex_live_objects() == 0);
  std::printf("wrapper: passed\n");
}
